"""Hostfiles, patterns of names, and the host of each rank."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmpi.cli import main
from fedmpi.errors import UsageError
from fedmpi.machines.hosts import Host, assign, expand, hostfile_text, named_hosts, parse_places, read_hostfile
from fedmpi.machines.schedulers import lsf_hosts, on_this_machine, pbs_hosts, scheduler, slurm_hosts


def test_both_forms_of_a_hostfile_are_read(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    text = "# mine\na slots=4 max_slots=8\nb:2\n\n  c  # later\nd slots = 1\n10.0.0.7 slots=3\n"
    for written in (text.encode(), b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()):  # as editors of Windows do
        path.write_bytes(written)
        assert read_hostfile(path) == [Host("a", 4), Host("b", 2), Host("c"), Host("d", 1), Host("10.0.0.7", 3)]


@pytest.mark.parametrize("line", ["a slots=none", "a slots=0", "a b", "a:x", "slots=4", "a slots"])
def test_a_line_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"good slots=1\n{line}\n")
    with pytest.raises(UsageError, match=re.escape(f"line 2 of {path} must be like `name slots=4`, got {line!r}")):
        read_hostfile(path)


def test_a_hostfile_without_hosts_or_with_one_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=1\nb\na slots=2\n")
    with pytest.raises(UsageError, match=r"a host must have one line in .*, got a again in line 3"):
        read_hostfile(tmp_path / "hosts")
    (tmp_path / "hosts").write_text("# none\n")
    with pytest.raises(UsageError, match="--hostfile must name a host, got none"):
        read_hostfile(tmp_path / "hosts")
    with pytest.raises(UsageError, match="--hostfile must be a file"):
        read_hostfile(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a", ["a"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[08-10,3],head", ["n08", "n09", "n10", "n3", "head"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_patterns_are_those_of_slurm(pattern: str, names: list[str]) -> None:
    assert expand(pattern) == names


@pytest.mark.parametrize("pattern", ["", "n[3-1]", "n[a]", "n[1", "n1]", "a,,b"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"hosts must be like node\[01-12\],head"):
        expand(pattern)


def test_ranks_without_a_hostfile_run_on_the_hosts_of_the_job() -> None:
    own = os.uname().nodename.partition(".")[0]
    assert on_this_machine({})
    assert on_this_machine({"SLURM_JOB_ID": "7"})
    for nodes, tasks, alone in ((own, "5", True), (f"{own},another", "3,2", False), ("another", "5", False)):
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": nodes, "SLURM_TASKS_PER_NODE": tasks}
        assert on_this_machine(job) == alone


def test_the_hosts_of_a_slurm_job() -> None:
    job = {"SLURM_JOB_NODELIST": "n[1-3],big", "SLURM_TASKS_PER_NODE": "4(x2),3,40"}
    assert slurm_hosts(job) == [Host("n1", 4), Host("n2", 4), Host("n3", 3), Host("big", 40)]
    with pytest.raises(UsageError, match="SLURM_TASKS_PER_NODE must be of 4 nodes"):
        slurm_hosts(job | {"SLURM_TASKS_PER_NODE": "4(x3)"})
    with pytest.raises(UsageError, match="--slurm must be used in a job of Slurm, got no SLURM_JOB_NODELIST"):
        slurm_hosts({})


@pytest.mark.parametrize(
    ("flag", "hosts", "variable", "job"),
    [("pbs", pbs_hosts, "PBS_NODEFILE", "PBS_JOBID"), ("lsf", lsf_hosts, "LSB_DJOB_HOSTFILE", "LSB_JOBID")],
)
def test_the_hosts_of_a_job_of_pbs_or_lsf(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    hosts: Callable[[dict[str, str]], list[Host]],
    variable: str,
    job: str,
) -> None:
    """By the variables that their manuals name: nobody here has either."""
    (tmp_path / "nodes").write_text("n1.site\nn1.site\nn2.site\n")
    monkeypatch.setenv(variable, str(tmp_path / "nodes"))
    assert main(["hostfile", f"--{flag}"]) == 0
    assert capsys.readouterr().out == "n1.site slots=2\nn2.site slots=1\n"
    with pytest.raises(UsageError, match=rf"--{flag} must be used in a job of {flag.upper()}, got no {variable}"):
        hosts({})
    with pytest.raises(UsageError, match=rf"{variable} must be a file that can be read, got .*: No such file"):
        hosts({variable: str(tmp_path / "none")})
    (tmp_path / "nodes").write_text("\n")
    with pytest.raises(UsageError, match=f"{variable} must name a host, got none"):
        hosts({variable: str(tmp_path / "nodes")})
    known = scheduler({job: "7"})
    assert known is not None
    assert known.name == flag.upper()
    assert scheduler({}) is None


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    hosts = named_hosts(["head:1", "node[1-2]"], 4)
    for mpich in (False, True):
        (tmp_path / "hosts").write_text(hostfile_text(hosts, mpich=mpich))
        assert read_hostfile(tmp_path / "hosts") == hosts == [Host("head", 1), Host("node1", 4), Host("node2", 4)]


@pytest.mark.parametrize("names", [["a", "a"], ["a:0"], ["a:x"], ["n[1-2]", "n2"]])
def test_names_that_make_no_cluster_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError):
        named_hosts(names, 1)


HOSTS = [Host("a", 2), Host("b", 2), Host("c")]


def test_placed_ranks_are_where_they_must_be_and_the_others_fill_up() -> None:
    assert assign(5, HOSTS, {}) == ["a", "a", "b", "b", "c"]
    assert assign(5, HOSTS, {0: "b", 1: "a"}) == ["b", "a", "a", "b", "c"]
    assert assign(3, HOSTS, {2: "c"}) == ["a", "a", "c"]


@pytest.mark.parametrize(
    ("ranks", "places", "message"),
    [
        (6, {}, "the hosts must have slots for 6 ranks, got 5 on 3 hosts"),
        (5, {0: "d"}, "--place must name hosts of the hostfile (a, b, c), got d"),
        (5, {0: "c", 1: "c"}, "--place must leave each host its slots, got more ranks than slots on c"),
        (5, {5: "a"}, "--place must name ranks below 5, got 5"),
    ],
)
def test_what_does_not_fit_is_refused(ranks: int, places: dict[int, str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        assign(ranks, HOSTS, places)


def test_places_are_of_roles_or_of_ranks() -> None:
    assert parse_places("s1=a, s2=b,7=c", {"s1": 0, "s2": 1}) == {0: "a", 1: "b", 7: "c"}


@pytest.mark.parametrize("text", ["", "s1", "s1=", "=a", "king=a", "s1=a,0=b", "-1=a"])
def test_places_that_say_nothing_or_two_things_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--place must"):
        parse_places(text, {"s1": 0, "s2": 1})


def test_the_command_prints_a_hostfile(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["hostfile", "head:1", "n[1-2]", "--slots", "3"]) == 0
    assert capsys.readouterr().out == "head slots=1\nn1 slots=3\nn2 slots=3\n"
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "2(x2)")
    assert main(["hostfile", "--slurm", "--mpich"]) == 0
    assert capsys.readouterr().out == "n1:2\nn2:2\n"
    assert main(["hostfile", "--slurm", "head"]) == main(["hostfile"]) == 2
