"""The virtual cluster itself: its hosts, its links, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SECONDS = 60.0
"""Nothing here takes nearly as long."""


def output(cluster: Any, script: str) -> str:
    """What a script on the first host prints."""
    process = cluster.start(["sh", "-c", script], stdout=subprocess.PIPE)
    printed = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0
    return printed


def processes_that_name(text: Path) -> list[str]:
    """Command lines of all processes of this machine that have a text in them or in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:  # it has ended
            continue
        if folder.name != str(os.getpid()) and str(text).encode() in command + environment:
            found.append(command.decode())
    return found


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """``start(*arguments)`` starts launch/virtual-cluster with tmp_path/files for temporary files."""
    (tmp_path / "files").mkdir()

    def run(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, program, *arguments],
            env={**os.environ, "TMPDIR": str(tmp_path / "files")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def assert_nothing_is_left(tmp_path: Path) -> None:
    """No process is in a namespace of the cluster any more, so the kernel has taken down all that was in them."""
    assert processes_that_name(tmp_path) == []
    assert list((tmp_path / "files").iterdir()) == []
    interfaces = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert "host1" not in interfaces
    assert "switch" not in interfaces
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "host1" not in named


def test_every_host_has_its_own_name_network_processes_and_temporary_files(virtual_cluster: Callable[..., Any]) -> None:
    looks = "uname -n; readlink /proc/self/ns/net; readlink /proc/self/ns/pid; printenv TMPDIR"
    with virtual_cluster(hosts=3) as cluster:
        seen = [output(cluster, f"ssh {name} '{looks}'").split() for name in cluster.names]
        own = output(cluster, looks).split()
    assert [host[0] for host in seen] == ["host1", "host2", "host3"]
    assert own == seen[0], "the command runs on the first host"
    everywhere = [*map(os.readlink, ("/proc/self/ns/net", "/proc/self/ns/pid"))]
    assert all(len({host[k] for host in seen} | {everywhere[k - 1]}) == 4 for k in (1, 2))
    assert len({host[3] for host in seen}) == 3


def test_two_clusters_at_once_do_not_meet(virtual_cluster: Callable[..., Any]) -> None:
    with virtual_cluster(hosts=2) as one, virtual_cluster(hosts=2) as other:
        for cluster in (one, other):
            assert output(cluster, "ssh host2 printenv TMPDIR").strip() == str(cluster.folder / "host2")
        one.cut("host2")
        assert output(other, "ssh host2 uname -n").strip() == "host2"


@pytest.mark.parametrize("transfers", ["12 13", "12 32"], ids=["from one host", "to one host"])
def test_a_link_lets_through_its_rate_and_no_more(virtual_cluster: Callable[..., Any], transfers: str) -> None:
    """Two transfers share the link of one host, so they can't be faster than that link alone."""
    size, bits_per_second, burst = 2_500_000, 10_000_000, 16_000
    send = f"ssh host$a \"head -c {size} /dev/zero | ssh host$b 'cat > /dev/null'\""
    script = f"for pair in {transfers}; do a=${{pair%?}}; b=${{pair#?}}; {send} & done; wait"
    with virtual_cluster(hosts=3, rate="10mbit") as cluster:
        begun = time.monotonic()
        output(cluster, script)
        took = time.monotonic() - begun
    assert took > (2 * size - burst) * 8 / bits_per_second


def test_a_cut_cable_ends_the_traffic(virtual_cluster: Callable[..., Any]) -> None:
    with virtual_cluster(hosts=3) as cluster:
        cluster.cut("host3")
        reached = output(cluster, "for host in host2 host3; do ssh $host uname -n 2> /dev/null; done; true")
    assert reached.split() == ["host2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing_behind(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, number: signal.Signals
) -> None:
    daemon = "ssh host2 'setsid sleep 3600 > /dev/null 2>&1 &'"
    trap = f"trap 'echo saved; touch {tmp_path}/saved' INT TERM; touch {tmp_path}/ready"
    script = f"{daemon}; {trap}; until [ -e {tmp_path}/saved ]; do sleep 0.05; done; sleep 0.2; exit 5"
    process = start("--hosts", "2", "--rate", "100mbit", "--", "sh", "-c", script)
    wait_until((tmp_path / "ready").exists)
    assert any("sleep\0003600" in line for line in processes_that_name(tmp_path))
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert err == ""
    if number != signal.SIGKILL:
        assert (process.returncode, out) == (5, "saved\n"), (
            "the command has time to save its work, and gets the signal once"
        )
        assert_nothing_is_left(tmp_path)
    else:  # only files can be
        wait_until(lambda: not processes_that_name(tmp_path))


def test_a_signal_while_the_cluster_is_made_leaves_nothing_behind(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process = start("--hosts", "3", "--", "touch", str(tmp_path / "started"))
    wait_until(lambda: list((tmp_path / "files").iterdir()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) in (0, 128 + signal.SIGTERM)  # 0: the command was faster than the signal
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--", "sh", "-c", "exit 9"], 9, ""),
        (["--", "sh", "-c", "kill -TERM $$"], 143, ""),
        (["--rate", "999999999gbit", "--", "true"], 2, "tc qdisc add dev host1"),
        (["--rate", "fast", "--", "true"], 2, "--rate must be like 1gbit or 100mbit, got fast"),
        (["--hosts", "255", "--", "true"], 2, "--hosts must be from 1 to 254"),
        (["--cut", "host9@1", "--", "true"], 2, "--cut must name one of host1 host2 host3, got host9"),
        (["--cut", "host2@0", "--", "sh", "-c", "sleep 0.5; ! ssh host2 true 2> /dev/null"], 0, ""),
        (["--slots", "5", "--", "grep", "-qx", "host3 slots=5", "{hostfile}"], 0, ""),
    ],
)
def test_the_exit_code_is_the_commands_or_2_with_one_line(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """The rate that tc refuses does so when a part of the cluster is made."""
    process = start(*arguments)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code, err
    assert len(err.splitlines()) == bool(said)
    assert said in err
    assert_nothing_is_left(tmp_path)


def test_without_root_it_says_so(program: Path) -> None:
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups", "python3", "-", "--", "true"]
    done = subprocess.run(as_nobody, input=program.read_text(), capture_output=True, text=True, check=False)
    assert done.stderr == "virtual-cluster: error: the user must be root, got user 65534\n"
    assert done.returncode == 2
