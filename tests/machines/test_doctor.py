"""The doctor's report: what works, what is missing, and how to get it."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmpi.cli import main
from fedmpi.machines import doctor, surroundings

Report = dict[str, list[tuple[str, str]]]


def report(text: str) -> Report:
    """{name: [(mark, what it says)]} of the lines."""
    lines: Report = {}
    for line in text.splitlines():
        found = re.fullmatch(r"(ok|--|!!)  (\S+) +(.+)", line)
        assert found, f"not a line of a report: {line!r}"
        lines.setdefault(found[2], []).append((found[1], found[3]))
    return lines


@pytest.fixture
def examine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], tuple[int, Report]]:
    """``examine()`` returns the exit code and the report, of a machine with an empty data folder."""

    def run() -> tuple[int, Report]:
        code = main(["doctor", "--data-dir", str(tmp_path / "data")])
        return code, report(capsys.readouterr().out)

    return run


@pytest.fixture
def mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``mpirun(script, version="Open MPI) 5.0")`` makes this the only mpirun; before that there is none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder))

    def write(script: str, version: str = "Open MPI) 5.0") -> None:
        path = folder / "mpirun"
        path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "mpirun ({version}"; exit; fi\n{script}\n')
        path.chmod(0o755)

    return write


def marks(lines: Report) -> list[str]:
    return [mark for checks in lines.values() for mark, _ in checks]


def test_on_a_machine_that_works_everything_needed_is_ok(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedmpi.cli", "doctor", "--data-dir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = report(done.stdout)
    assert "!!" not in marks(lines)
    assert lines["mpirun"][0][0] == lines["memory"][0][0] == "ok"
    mark, text = lines["ranks"][0]
    assert mark == "ok"
    assert text.startswith("2 ranks start and talk, ")
    assert "MPI" in text
    assert lines["survival"] == [("ok", "a job outlives a killed rank (ULFM)")]


@pytest.mark.usefixtures("mpirun")
def test_without_mpirun_it_says_how_to_get_it_and_exits_with_2(examine: Callable[[], tuple[int, Report]]) -> None:
    code, lines = examine()
    assert code == 2
    mark, text = lines["mpirun"][0]
    assert mark == "!!"
    assert 'pip install "fedmpi[mpi]"' in text
    assert marks(lines).count("!!") == 1
    assert "ranks" not in lines


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo first >&2; echo no slots left >&2; exit 1", "no slots left"),
        ("exit 9", "exit code 9"),
        ("echo 2 Open MPI; exit 9", "exit code 9"),
        ("echo 1 Open MPI; echo 1 Open MPI", "2 ranks must start and talk, and do not: each rank is alone"),
        ("sleep() { while :; do :; done; }; sleep", "must start within 0.5 s"),
    ],
)
def test_ranks_that_do_not_start_are_a_failure_with_the_reason(
    examine: Callable[[], tuple[int, Report]],
    mpirun: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    reason: str,
) -> None:
    mpirun(script)
    if "0.5" in reason:
        monkeypatch.setattr(doctor, "_SECONDS", 0.5)
    code, lines = examine()
    assert code == 2
    assert lines["mpirun"][0][0] == "ok"
    mark, text = lines["ranks"][0]
    assert mark == "!!"
    assert reason in text


@pytest.mark.parametrize(
    ("library", "version", "says"),
    [
        (
            "MPICH Version: 5.0.2",
            "Open MPI) 5.0",
            "mpi4py loads MPICH, and .* is of Open MPI: uninstall one of the two",
        ),
        ("Open MPI v5.0.11", "HYDRA build details:", "mpi4py loads Open MPI, and .* is of MPICH: uninstall one"),
        ("Open MPI v5.0.11", "Open MPI) 5.0", "unsupported PMI version$"),
    ],
)
def test_two_mpis_are_told_with_the_remedy(
    examine: Callable[[], tuple[int, Report]],
    mpirun: Callable[..., None],
    tmp_path: Path,
    library: str,
    version: str,
    says: str,
) -> None:
    """They start, and fail with a banner that ends in a line of dashes."""
    mpirun("echo unsupported PMI version >&2; echo ------- >&2; exit 16", version)
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho '{library}'\n")
    python.chmod(0o755)
    _, lines = examine()
    mark, text = lines["ranks"][0]
    assert mark == "!!"
    assert re.search(says, text)


@pytest.mark.parametrize("version", [("Open MPI) 4.1.6", "Open MPI 4"), ("HYDRA", "another MPI")])
def test_an_mpi_without_ulfm_is_named_and_no_failure(
    examine: Callable[[], tuple[int, Report]], mpirun: Callable[..., None], version: tuple[str, str]
) -> None:
    mpirun("echo 2 library", version[0])
    code, lines = examine()
    assert code == 0
    text = f"a rank that dies ends the job: Open MPI 5 or newer goes on, this is {version[1]}"
    assert lines["survival"] == [("--", text)]


def test_a_job_that_does_not_outlive_a_rank_is_seen_whatever_the_version_says(
    examine: Callable[[], tuple[int, Report]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real job of three, one killed, without the option that this MPI needs to go on."""
    command = doctor.mpirun_command

    def without_ulfm(*args: Any, tolerate_failures: bool = False) -> tuple[list[str], list[str]]:
        return command(*args)

    monkeypatch.setattr(doctor, "mpirun_command", without_ulfm)
    code, lines = examine()
    assert code == 0
    mark, text = lines["survival"][0]
    assert mark == "--"
    assert text.startswith("a rank that dies ends the job: one of 3 was killed, and mpirun ended with ")


def test_what_is_optional_is_reported_and_no_failure(
    examine: Callable[[], tuple[int, Report]], mpirun: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mpirun("echo 2 Open MPI v5")
    monkeypatch.setattr(doctor, "kernels_are_compiled", lambda: False)
    find_spec, missing = importlib.util.find_spec, ("pooch", "pyarrow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    code, lines = examine()
    assert code == 0
    assert lines["kernels"][0][0] == "--"
    assert "install a C compiler" in lines["kernels"][0][1]
    assert lines["[data]"] == [("--", f'{name} missing: pip install "fedmpi[data]"') for name in missing]


@pytest.mark.parametrize("compiled", [True, False])
def test_the_kernels_of_this_machine_are_named(
    examine: Callable[[], tuple[int, Report]],
    mpirun: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    compiled: bool,
) -> None:
    mpirun("echo 2 Open MPI v5")
    monkeypatch.setattr(doctor, "kernels_are_compiled", lambda: compiled)
    assert (examine()[1]["kernels"] == [("ok", "compiled")]) == compiled


def test_data_sets_are_here_or_can_be_fetched(
    examine: Callable[[], tuple[int, Report]], mpirun: Callable[[str], None], tmp_path: Path
) -> None:
    mpirun("echo 2 Open MPI v5")
    table = tmp_path / "data" / "tabular" / "winequality-white.csv"
    table.parent.mkdir(parents=True)
    table.touch()
    code, lines = examine()
    assert code == 0
    assert ("ok", f"wine: {table.parent}") in lines["data"]
    assert ("--", "mnist missing: fedmpi data fetch mnist") in lines["data"]
    bank = tmp_path / "data" / "bank_marketing"
    assert ("--", f"bank missing: put it by hand into {bank}") in lines["data"]


def test_torch_the_scheduler_and_shared_memory_are_told_in_a_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is as it should be, and what to do where it is not."""
    found = {name: (ok, text) for name, ok, text in surroundings.findings()}
    assert list(found) == ["torch", "GPUs", "scheduler", "/dev/shm"]
    assert found["torch"][0]
    assert re.search(r"MiB free in /dev/shm, room for \d+ ranks", found["/dev/shm"][1])
    monkeypatch.setattr(os, "cpu_count", lambda: 10**9)
    _, ok, text = surroundings.shared_memory(tmp_path)
    assert not ok
    assert text.endswith("delete what killed jobs left, or give a container more (--shm-size=1g)")
    assert surroundings.shared_memory(tmp_path / "none")[2].endswith("got No such file or directory")
    (tmp_path / "nodes").write_text("a\na\nb\n")
    for name, value in (("PBS_JOBID", "7"), ("PBS_NODEFILE", str(tmp_path / "nodes"))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert surroundings.scheduling()[2] == "a job of PBS with 2 hosts for 3 ranks: fedmpi hostfile --pbs > hosts"
    monkeypatch.delenv("PBS_NODEFILE")
    assert surroundings.scheduling()[1:] == (False, "--pbs must be used in a job of PBS, got no PBS_NODEFILE")
    monkeypatch.delenv("PBS_JOBID")
    monkeypatch.setenv("PATH", "")
    assert surroundings.scheduling()[2].startswith("none: fedmpi run starts the ranks")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert 'pip install "fedmpi[torch]"' in surroundings.torch_here()[2]


def test_gpus_that_torch_cannot_use_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's file in a folder in place of /dev; torch is asked only then."""
    assert surroundings.gpus(tmp_path)[2].startswith("none: ")
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    _, ok, text = surroundings.gpus(tmp_path)
    assert not ok
    assert re.match(r"of NVIDIA, which torch .* can't use: install a torch that is built for them", text)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "H200")
    assert surroundings.gpus(tmp_path)[2] == "2 x H200: --device auto spreads the ranks over them"
