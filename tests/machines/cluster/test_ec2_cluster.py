"""scripts/ec2 from create to destroy: the requests go to moto, ssh and MPI to the hosts of a virtual cluster.

host1 is the user's machine; host2 to host4 get the addresses that moto gives its instances, and a folder of their own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts" / "ec2"
PORT = 5555
INSTANCES = 3
ACCOUNT = {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
SERVER = f"""
from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response
from moto.server import main

EC2Response.describe_placement_groups = lambda self: ActionResult({{"PlacementGroups": []}})  # moto has none
main(["-H", "127.0.0.1", "-p", "{PORT}"])
"""
NETWORK = """
import boto3
ec2 = boto3.client("ec2")
vpc = ec2.create_vpc(CidrBlock="10.0.0.0/24")["Vpc"]["VpcId"]
print(ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.128/25")["Subnet"]["SubnetId"])
"""
END_SESSIONS = """
for file in /proc/[0-9]*/cmdline; do
    case "$(tr '\\0' ' ' < $file)" in
        "sshd: root@notty"*) folder=${file%/cmdline}; kill -KILL ${folder#/proc/} ;;
    esac
done
"""
SETUP = f"""#!/bin/sh
set -eu
[ -f fedmpi-*.tar.gz ] && [ -f constraints.txt ]
mkdir -p venv/bin
printf '#!/bin/sh\\nexec {Path(sys.executable).parent}/fedmpi "$@"\\n' > venv/bin/fedmpi
chmod +x venv/bin/fedmpi
"""


LOST = "the connection was lost: the run goes on, connecting again\n"


def iterations_of(lines: list[str]) -> list[str]:
    return [line.split("/")[0].strip() for line in lines if "train loss" in line]


class Desk:
    """The user's machine, with an account."""

    def __init__(self, cluster: Any, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.keys = folder / "keys" / "fedmpi"
        self.there = str(folder / "there")
        self.reach = ["--user", "root", "--private", "--folder", self.there]

    def start(self, *command: str | Path, **options: Any) -> "subprocess.Popen[str]":
        options = {"stdout": subprocess.PIPE, "env": os.environ | ACCOUNT} | options
        return self.cluster.start([*map(str, command)], **options)  # type: ignore[no-any-return]

    def python(self, *arguments: str | Path) -> str:
        process = self.start(sys.executable, *arguments, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        return str(out)

    def ec2(self, command: str, *arguments: str | Path) -> str:
        at = arguments.index("--") if "--" in arguments else len(arguments)
        own = [*arguments[:at], "--keys", self.keys.parent]
        return self.python(SCRIPTS / command, *own, *arguments[at:])

    def plug_in(self) -> list[str]:
        """Give the hosts the instances' addresses, the cluster's key, and a disk of their own; the addresses."""
        addresses = [row["private_address"] for row in json.loads(self.ec2("status", "--json"))]
        Path(self.there).mkdir()
        for name, address in zip(self.cluster.names[1:], addresses, strict=True):
            self.on(name, f"ip address add {address}/24 dev eth0 && mount -t tmpfs tmpfs {self.there}")
        with (self.cluster.folder / "key.pub").open("a") as file:
            file.write((self.keys / "key.pub").read_text())
        return addresses

    def fails(self, command: str, *arguments: str | Path) -> str:
        """The one line of a command that must fail."""
        own = [*arguments, "--keys", self.keys.parent, *self.reach]
        process = self.start(sys.executable, SCRIPTS / command, *own, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=300)
        assert process.returncode in (2, 4), out + err
        (line,) = err.splitlines()
        return str(line)

    def run(
        self, own: list[str], options: list[str], once: Callable[["subprocess.Popen[str]"], None]
    ) -> tuple[int, list[str]]:
        """Run on five ranks, and do something after the first iteration; the exit code, and all lines."""
        command = [SCRIPTS / "run", *self.reach, *own, "--keys", self.keys.parent, "-n", "5", "--", *options]
        process = self.start(sys.executable, *command, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "train loss" in line and len(iterations_of(lines)) == 1:
                once(process)
        return process.wait(timeout=300), lines

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def on(self, name: str, script: str) -> str:
        """Run a script on a host; what it prints."""
        process = self.start("ssh", name, f"PATH=$PATH:/usr/sbin:/sbin; {script}")
        return str(process.communicate(timeout=300)[0])

    def cut_ssh(self, name: str) -> None:
        """End the ssh sessions on a host, this one too; what they started goes on."""
        self.on(name, END_SESSIONS)

    def ranks(self) -> str:
        """Ranks on any host."""
        return "".join(self.on(name, "grep -l 'fedmpi[.]codedml' /proc/[0-9]*/cmdline") for name in self.cluster.names)


@pytest.fixture
def desk(virtual_cluster: Callable[..., Any], tmp_path: Path) -> Iterator[Desk]:
    with virtual_cluster(hosts=1 + INSTANCES, slots=1) as cluster:
        made, log = Desk(cluster, tmp_path), tmp_path / "moto"
        with log.open("w") as file:
            server = made.start(sys.executable, "-c", SERVER, stdout=file, stderr=file)
        try:
            end = time.monotonic() + 60
            while "Running on" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            yield made
        finally:
            server.kill()
            server.wait()


@pytest.mark.slow
def test_create_push_run_fetch_destroy(desk: Desk) -> None:
    subnet = desk.python("-c", NETWORK).strip()
    create = ["--type", "c6i.xlarge", "--ttl", "1h", "--address", "10.0.0.1", "--subnet", subnet, "-n", str(INSTANCES)]
    assert f"{INSTANCES} instances run" in desk.ec2("create", *create)
    addresses = desk.plug_in()
    assert "fetch must be used after run" in desk.fails("fetch")
    assert "--attach must be used after run" in desk.fails("run", "--attach")
    line = desk.fails("push", "--setup", desk.write("broken", "#!/bin/sh\necho no compiler here >&2; exit 3\n"))
    assert "the installation on 10.0.0." in line
    assert line.endswith("must succeed, got exit code 3: no compiler here")

    pushed = desk.ec2("push", *desk.reach, "--setup", desk.write("setup", SETUP), "--slots", "2")
    assert "3 instances answer" in pushed
    assert "fedmpi is installed" in pushed
    lost_connection(desk)
    ctrl_c(desk)
    known = (desk.keys / "known_hosts").read_text()
    assert all(address in known for address in addresses), "the hosts' own keys are remembered"

    desk.cluster.cut("host3")
    line = desk.fails("push", "--setup", desk.folder / "setup", "--wait", "0")
    assert line.startswith(f"ec2: error: {addresses[1]} must answer within 0 s")
    for _ in range(2):
        assert "nothing is left of cluster fedmpi" in desk.ec2("destroy")
    assert "there is no cluster fedmpi" in desk.ec2("status")
    assert not desk.keys.exists()


def lost_connection(desk: Desk) -> None:
    """A run goes on where it was when ssh is cut, and its output too; then all of it is fetched."""
    slow = ",".join(f"slow={rank}:0.2s" for rank in range(1, 5))
    options = ["codedml", "--paper", "--iterations", "30", "--no-compare", "--inject", slow]
    code, lines = desk.run(["--interface", "10.0.0.0/24"], options, lambda run: desk.cut_ssh("host2"))
    assert code == 0, "".join(lines)
    assert lines.count(LOST) == 1
    assert iterations_of(lines) == [str(it) for it in range(0, 31, 3)], "no line is missing or there twice"
    desk.ec2("fetch", *desk.reach, "--to", desk.folder / "here")
    (folder,) = (desk.folder / "here" / "runs").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["environment"]["hosts"] == ["host2", "host3", "host4"]
    assert result["metrics"]["test_accuracy"] > 0.9
    (log,) = (desk.folder / "here" / "jobs").glob("*/log")
    assert [line for line in lines if line != LOST] == log.read_text().splitlines(keepends=True)
    assert desk.ranks() == ""


def ctrl_c(desk: Desk) -> None:
    """It stops a run on the cluster, which leaves a checkpoint."""

    def press(run: "subprocess.Popen[str]") -> None:
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        os.kill(int(children[0]) if children else run.pid, signal.SIGINT)

    slow = "slow=1:0.1s,slow=2:0.1s"
    options = ["codedml", "--paper", "--iterations", "300", "--inject", slow, "--out", "runs/mine"]
    code, lines = desk.run([], options, press)
    assert code == 143, "".join(lines)
    assert any("stopped by SIGTERM; go on after iteration" in line for line in lines)
    end = time.monotonic() + 30
    while desk.ranks():
        assert time.monotonic() < end, "nothing is left running"
    desk.ec2("fetch", *desk.reach, "--to", desk.folder / "here")
    assert list((desk.folder / "here" / "runs" / "mine" / "checkpoints").glob("*.npz"))
