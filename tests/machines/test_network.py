"""The doctor's look at several hosts: everybody meets everybody, and what differs is named."""

import ipaddress
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fedmpi
from fedmpi.cli import main
from fedmpi.machines.network import advise_interface, summarize, version_differences
from fedmpi.net import Channel, run_local
from fedmpi.net.facts import networks
from fedmpi.net.probe import as_json, partners, probe


@pytest.mark.parametrize("size", range(1, 12))
def test_everybody_meets_everybody_once_and_in_step(size: int) -> None:
    rounds = size - 1 + size % 2
    for rank in range(size):
        assert sorted(partners(rank, size)) == [other for other in range(size) if other != rank]
    if size % 2 == 0:
        for turn in range(rounds):
            meetings = [list(partners(rank, size))[turn] for rank in range(size)]
            assert [meetings[meetings[rank]] for rank in range(size)] == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_all_links_are_measured(size: int) -> None:
    def role(ch: Channel) -> Any:
        return probe(ch)

    rows = run_local([role] * size, timeout_seconds=60)[0]
    found = json.loads(as_json(rows))
    assert len(found["hosts"]) == size
    for key in ("latency_seconds", "bytes_per_second"):
        matrix = found[key]
        assert all((matrix[i][j] > 0) == (i != j) for i in range(size) for j in range(size))


def test_the_facts_of_this_host() -> None:
    program = [sys.executable, "-m", "fedmpi.net.facts"]
    facts = json.loads(subprocess.run(program, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert facts["versions"]["fedmpi"] == fedmpi.__version__
    assert "MPI" in facts["versions"]["MPI"]
    assert facts["networks"] == networks()
    for network in networks().values():
        assert not ipaddress.ip_network(network).is_loopback


def fact(fedmpi: str, **interfaces: str) -> dict[str, Any]:
    return {"versions": {"fedmpi": fedmpi, "MPI": "Open MPI 5"}, "networks": interfaces}


def test_hosts_with_another_version_are_named() -> None:
    (check,) = version_differences({"a": fact("1"), "b": fact("2"), "c": fact("1")})
    assert not check.ok
    assert check.text == "fedmpi must be the same everywhere, got 1 on a, c; 2 on b"
    assert list(version_differences({"a": fact("1"), "b": fact("1")})) == []


def test_the_network_that_all_are_in_is_named() -> None:
    both = {"a": fact("1", eth0="10.0.0.0/24", eth1="10.1.0.0/24"), "b": fact("1", ens5="10.1.0.0/24")}
    assert advise_interface(both).text == (
        "all hosts are in 10.1.0.0/24: say --interface 10.1.0.0/24, hosts have others too"
    )
    one = {"a": fact("1", eth0="10.0.0.0/24"), "b": fact("1", eth0="10.0.0.0/24")}
    assert advise_interface(one).text.startswith("all hosts are in 10.0.0.0/24 (eth0 everywhere): the only one")
    assert not advise_interface({"a": fact("1", eth0="10.0.0.0/24"), "b": fact("1")}).ok


def test_the_worst_link_is_named() -> None:
    found = {
        "hosts": ["a", "b", "c"],
        "latency_seconds": [[0, 1e-3, 2e-3], [1e-3, 0, 9e-3], [1e-3, 1e-3, 0]],
        "bytes_per_second": [[0, 1e6, 2e6], [5e5, 0, 1e6], [1e6, 1e6, 0]],
    }
    lines = [check.text for check in summarize(found)]
    assert lines[0] == "1 to 9 ms one way, worst from b to c"
    assert lines[2].split() == ["b", "1", ".", "9", "ms"]
    assert lines[4] == "4 to 16 Mbit/s one way, worst from b to a"
    assert len(lines) == 8
    many = [f"n{i}" for i in range(20)]
    assert len(list(summarize({"hosts": many, **{k: [[1.0] * 20] * 20 for k in list(found)[1:]}}))) == 2


def test_one_host_and_no_hostfile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    assert main(["doctor", "--hostfile", str(tmp_path / "hosts")]) == 0
    out = capsys.readouterr().out
    assert "ok  hosts      1 hosts answer" in out
    assert "one host: no network is used" in out
    assert main(["doctor", "--hostfile", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"fedmpi: error: --hostfile must be a file, got {tmp_path / 'none'}\n"
