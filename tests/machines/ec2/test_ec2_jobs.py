"""Runs on instances, with an ssh that runs here: words arrive as they are; a notice of EC2, and going on elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import numpy as np
import pytest
from fleet import jobs
from machines.ec2.conftest import Aws, Call
from protocol.codedml_threads import command_on_threads

CREATE = ("create", "--type", "c6i.xlarge", "--ttl", "4h", "--address", "198.51.100.7", "-n")
SSH = """#!/bin/sh
while [ $# -gt 2 ]; do shift; done
mkdir -p "{hosts}/${{1#*@}}" && cd "{hosts}/${{1#*@}}" && HOME=$PWD exec sh -c "$2"
"""
NASTY = [
    "two  blanks",
    "it's",
    'say "x"',
    "$(touch pwned)",
    "`touch pwned`",
    "$HOME",
    "a;touch pwned",
    "*",
    "",
    "\\n",
    "-x",
]
OPTIONS = ["-K", "1", "-T", "1", "--no-compare", "--quiet", "--paper", "--iterations", "60"]
ACTION = b'{"action": "terminate", "time": "2026-01-01T00:02:00Z"}'


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each instance, by its address."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(SSH.format(hosts=tmp_path / "hosts"))
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin")
    return tmp_path / "hosts"


def install(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A setup that puts this script in the place of fedmpi, and no archive to build."""
    (tmp_path / "archive.tar.gz").touch()
    monkeypatch.setattr(jobs, "source_archive", lambda folder: tmp_path / "archive.tar.gz")
    setup = tmp_path / "setup"
    setup.write_text(
        f"#!/bin/sh\nmkdir -p venv/bin\ncat > venv/bin/fedmpi <<'END'\n{script}\nEND\nchmod +x venv/bin/fedmpi\n"
    )
    return setup


def test_words_with_blanks_quotes_and_commands_arrive_as_they_are(
    ec2: Call, hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the system, a name of data, of a run, and of the network, through two shells."""
    setup = install(tmp_path, "#!/bin/sh\nprintf '%s\\0' \"$@\" > words", monkeypatch)
    data = tmp_path / "my data" / "it's $(touch pwned)"
    data.mkdir(parents=True)
    (data / 'a "table".csv').write_text("x\n")
    assert ec2(*CREATE, 2) == 0
    assert ec2("push", "--private", "--setup", setup, "--data", data.parent) == 0
    assert ec2("run", "--private", "--interface", "eth 0'", "--", "codedml", *NASTY) == 0
    (found,) = hosts.glob("*/fedmpi/words")
    words = found.read_text()[:-1].split("\0")
    assert words[-len(NASTY) :] == NASTY
    assert words[words.index("--interface") + 1] == "eth 0'"
    assert (found.parent / "data" / data.name / 'a "table".csv').read_text() == "x\n"
    assert not list(tmp_path.rglob("pwned"))
    for flag, value in (("folder", "a b"), ("folder", "$(x)"), ("user", "-oProxyCommand=x"), ("attach", "../x")):
        capsys.readouterr()
        assert ec2("run", "--private", f"--{flag}={value}") == 2
        assert f"--{flag} must be" in capsys.readouterr().err


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What an instance asks about itself, by IMDSv2; set, it says that EC2 will take the instance away."""
    notice = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, code: int, body: bytes = b"") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self.answer(*((200, b"token") if asked else (400, b"")))

        def do_GET(self) -> None:
            known = self.headers["X-aws-ec2-metadata-token"] == "token"
            there = notice.is_set() and self.path == "/latest/meta-data/spot/instance-action"
            self.answer(*((401, b"") if not known else (200, ACTION) if there else (404, b"")))

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FEDMPI_METADATA", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(jobs, "NOTICE_SECONDS", 0.1)
    yield notice
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_notice_stops_the_run_which_goes_on_elsewhere(
    aws: Aws,
    ec2: Call,
    hosts: Path,
    metadata: threading.Event,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """The head's files are saved within the two minutes, and the next head ends to the bits of a run in one go."""
    program = "import sys; from fedmpi.cli import main; words = sys.argv[1:]; at = words.index('--hostfile'); "
    program += "del words[at : at + 2]; sys.exit(main(words))"
    setup = install(tmp_path, f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"', monkeypatch)
    assert ec2(*CREATE, 2, "--spot") == 0
    assert ec2("push", "--private", "--setup", setup) == 0

    def give_notice() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and sum(file.read_text().count("\n") for file in hosts.glob(metrics)) < 5:
            time.sleep(0.02)
        metadata.set()

    metrics = "*/fedmpi/runs/*/metrics.jsonl"
    watching = threading.Thread(target=give_notice)
    watching.start()
    slow = ["--inject", ",".join(f"slow={rank}:0.2s" for rank in range(1, 5)), "--out", "runs/my run"]
    assert ec2("run", "--private", "--to", tmp_path / "here", "-n", 5, "--", "codedml", *OPTIONS, *slow) == 143
    watching.join()
    metadata.clear()
    run = tmp_path / "here" / "runs" / "my run"
    assert list((run / "checkpoints").glob("*.npz"))
    assert b"EC2 takes the head away: " + ACTION in capfdbinary.readouterr().out

    instances = boto3.client("ec2").describe_instances()["Reservations"][0]["Instances"]
    head = min(instances, key=lambda instance: instance["AmiLaunchIndex"])
    boto3.client("ec2").terminate_instances(InstanceIds=[head["InstanceId"]])
    assert ec2(*CREATE, 2, "--spot") == 0
    assert ec2("push", "--private", "--setup", setup, "--run", run) == 0
    assert ec2("run", "--private", "-n", 5, "--", "codedml", "--resume", "runs/my run") == 0
    (model,) = hosts.glob("*/*/runs/my run/model.npz")
    assert head["PrivateIpAddress"] not in str(model)
    command_on_threads(4, *OPTIONS, "--out", tmp_path / "whole")
    with np.load(model) as got, np.load(tmp_path / "whole" / "model.npz") as expected:
        for name in expected.files:
            np.testing.assert_array_equal(got[name], expected[name])
