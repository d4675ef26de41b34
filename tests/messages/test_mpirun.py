"""Jobs under mpirun, as users see them: exit codes, what is printed, and never a hang.

Every run has a limit of time that a job which works stays far below.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from contract import SCENARIOS, SIZE

from fedmpi.errors import UsageError
from fedmpi.machines.launcher import environment, find_mpirun, mpirun_command, open_mpi_version
from fedmpi.net.worlds import check_mpi

MPI_TESTS = Path(__file__).parent / "mpi"
OWN_TESTS = {"test_contract_mpi.py": 7, "test_sealed_mpi.py": 6}
"""Tests beside the scenarios."""

Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("measured")
of_open_mpi = pytest.mark.skipif(not open_mpi_version(find_mpirun()), reason="what Open MPI does, and others do not")


@pytest.mark.parametrize("file", OWN_TESTS)
def test_contract(mpirun: Run, tmp_path: Path, file: str) -> None:
    report = f"--junitxml={tmp_path / 'report.xml'}"
    options = ["--with-mpi", "-q", "--color=no", "-p", "no:cacheprovider", report, MPI_TESTS / file]
    done = mpirun(SIZE, "-m", "pytest", *options, timeout=240)
    reports = sorted(tmp_path.glob("*.xml"))
    assert [path.name for path in reports] == [f"report-{rank}.xml" for rank in range(SIZE)], done.stdout + done.stderr
    suites_of = {path.stem: list(ElementTree.parse(path).getroot().iter("testsuite")) for path in reports}
    failed = [
        f"{rank}: {case.attrib['name']}: {problem.attrib['message']}"
        for rank, suites in suites_of.items()
        for suite in suites
        for case in suite.iter("testcase")
        for problem in [*case.iter("failure"), *case.iter("error")]
    ]
    assert failed == []
    assert done.returncode == 0, done.stdout + done.stderr
    for suites in suites_of.values():
        counts = {name: sum(int(s.attrib[name]) for s in suites) for name in ("tests", "failures", "errors", "skipped")}
        assert counts == {"tests": len(SCENARIOS) + OWN_TESTS[file], "failures": 0, "errors": 0, "skipped": 0}


@of_open_mpi
def test_payloads_in_fragments(mpirun: Run) -> None:
    options = ["--with-mpi", "-q", "-p", "no:cacheprovider", MPI_TESTS / "test_fragments_mpi.py"]
    done = mpirun(SIZE, "-m", "pytest", *options, env={"OMPI_MCA_smsc": "^cma,xpmem,knem"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def program(mpirun: Run) -> Run:
    """``program(name, n=3)`` runs one of tests/messages/mpi/programs.py."""

    def run(name: str, n: int = 3, **options: object) -> subprocess.CompletedProcess[str]:
        return mpirun(n, MPI_TESTS / "programs.py", name, **{"timeout": 40, **options})

    return run


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What tells a user what went wrong: mpirun may put a blank or a line of its own before it."""
    return re.findall(r"fedmpi: error: (.*)", done.stdout + done.stderr)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_job_that_works(program: Run, n: int) -> None:
    done = program("is_done", n)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["done"], "")


@pytest.mark.parametrize("doorbell", [True, False])
def test_a_frozen_rank_holds_up_nobody(program: Run, doorbell: bool) -> None:
    done = program("a_frozen_rank_holds_up_nobody" + ("" if doorbell else "_between_machines"), 4)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["kept True", "done"], "")


def test_answers_that_nobody_reads_do_not_hang_the_end(program: Run) -> None:
    done = program("straggler")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["done"], "")


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("worker_error", 4, "worker (rank 1) failed: ValueError: boom ("),
        ("worker_error_while_all_others_close", 4, "worker (rank 1) failed: ValueError: boom ("),
        ("worker_error_while_the_master_computes", 4, "worker (rank 1) failed: ValueError: boom ("),
        ("worker_usage_error", 2, "worker (rank 2) failed: the data set of a worker must have 10 columns, got 9"),
        ("worker_is_silent", 4, "worker (rank 2) sent no Never for 1 s"),
        ("worker_is_silent_while_the_master_computes", 4, "worker (rank 2) sent no Never for 1 s"),
        ("master_is_silent", 4, "master (rank 0) sent no Never for 1 s"),
        ("master_error", 4, "ValueError: boom ("),
        ("master_error_while_workers_compute", 4, "ValueError: boom ("),
        ("too_few_workers", 3, "answers must be 3 or more, got 2"),
    ],
)
def test_an_error_ends_the_job_with_one_line(program: Run, name: str, code: int, message: str) -> None:
    done = program(name)
    assert done.returncode == code, done.stderr
    lines = errors(done)
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "Traceback" not in done.stderr


def test_a_worker_that_leaves_is_no_success(program: Run) -> None:
    done = program("worker_leaves")
    assert done.returncode != 0, done.stderr
    assert len(errors(done)) == 1
    assert "rank 1" in errors(done)[0]


@of_open_mpi
@pytest.mark.parametrize(
    ("name", "codes"),
    [("worker_exits_with_7", {7}), ("worker_exits_with_0", range(1, 256)), ("worker_is_killed", {137})],
)
def test_a_worker_that_dies_ends_the_job(program: Run, name: str, codes: set[int]) -> None:
    """It can't say anything: mpirun notices, says so and ends the others."""
    done = program(name)
    assert done.returncode in codes, done.stderr
    assert "rank 1" in done.stderr or ",1]" in done.stderr
    assert "Traceback" not in done.stderr


@of_open_mpi
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there must be a /proc to see a process end")
def test_a_worker_that_dies_before_its_message_is_fetched_departs() -> None:
    program = [sys.executable, str(MPI_TESTS / "programs.py"), "worker_dies_before_its_message_is_fetched"]
    command, _ = mpirun_command(3, program, tolerate_failures=True)
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["departed 2"], done.stderr


@pytest.mark.parametrize("name", ["usage_error", "usage_error_after_workers_sent"])
def test_a_usage_error_ends_every_rank_in_good_order(program: Run, name: str) -> None:
    done = program(name)
    assert done.returncode == 2, done.stderr
    assert errors(done) == ["K must be positive, got 0"]
    assert "Traceback" not in done.stderr
    assert "mpi_abort" not in done.stderr.lower()


@pytest.mark.parametrize("survive", [False, True])
def test_a_job_that_ends_well_with_a_frozen_spare_has_no_banner(program: Run, survive: bool) -> None:
    done = program("done_while_a_spare_is_frozen", survive=survive)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["done"], "")


@pytest.mark.parametrize("does", ["computes", "is_frozen"])
def test_a_usage_error_does_not_wait_for_a_worker(program: Run, does: str) -> None:
    done = program(f"usage_error_while_a_worker_{does}")
    assert done.returncode == 2, done.stderr
    assert errors(done) == ["K must be positive, got 0"]
    assert ("mpi_abort" in done.stderr.lower()) == (does == "computes")


def test_a_run_that_a_signal_stops_ends_in_good_order(program: Run) -> None:
    done = program("stopped_by_a_signal")
    assert done.returncode == 143, done.stderr
    assert "fedmpi: stopped by SIGTERM\n" in done.stderr
    assert "mpi_abort" not in done.stderr.lower()


def test_a_name_that_is_no_text_is_reported_like_any_other(program: Run) -> None:
    done = program("undecodable_name")
    assert done.returncode == 2, done.stderr
    assert len(errors(done)) == 1
    assert errors(done)[0].endswith(".npz must exist")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "code"), [("asked_for_help", 0), ("wrong_option", 2)])
def test_what_the_parser_of_the_command_line_says_is_said_once(program: Run, name: str, code: int) -> None:
    done = program(name)
    assert done.returncode == code, done.stderr
    assert (done.stdout + done.stderr).count("usage: ...") == 1
    assert errors(done) == []


def test_a_traceback_for_who_asks(program: Run) -> None:
    done = program("master_error", env={"FEDMPI_TRACEBACK": "1"})
    assert done.returncode == 4
    assert "Traceback (most recent call last)" in done.stderr
    assert 'raise ValueError("boom")' in done.stderr
    assert len(errors(done)) == 1


def test_a_job_that_hangs_is_killed_with_its_ranks(mpirun: Run, tmp_path: Path) -> None:
    """The fixture's own promise, on which all others rest."""
    code = f"import os, pathlib, time; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); time.sleep(600)"
    with pytest.raises(pytest.fail.Exception, match="must end within 3 s"):
        mpirun(2, "-c", code, timeout=3)
    pids = [path.name for path in tmp_path.iterdir()]
    assert len(pids) == 2
    for pid in pids:
        for _ in range(200):  # the kernel takes its time to bury a process
            if has_ended(pid):
                break
            time.sleep(0.05)
        assert has_ended(pid)


def has_ended(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_mpi_below_the_mpirun_of_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPICH would print a page and abort with 16; one that was built for PMIx, and is told to speak it, may."""
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    check_mpi("Open MPI")
    with pytest.raises(UsageError, match="all 4 ranks must see one another, got the mpirun of Open MPI and MPICH"):
        check_mpi("MPICH")
    monkeypatch.setenv("MPIR_CVAR_PMI_VERSION", "pmix")
    check_mpi("MPICH")
    monkeypatch.delenv("MPIR_CVAR_PMI_VERSION")
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
    check_mpi("MPICH")


@of_open_mpi
def test_ranks_that_do_not_see_one_another_are_refused(mpirun: Run, tmp_path: Path) -> None:
    """As with an mpirun of another MPI: each would be rank 0 of a world of its own, and train alone."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, runpy, sys\n"
        "for name in [*os.environ]:\n"
        "    if name.startswith(('PMIX', 'PRTE')):\n"
        "        del os.environ[name]\n"
        f"sys.argv[1:] = ['--method', 'plain', '--out', {str(tmp_path / 'run')!r}]\n"
        "runpy.run_module('fedmpi.codedml', run_name='__main__')\n"
    )
    done = mpirun(3, program)
    assert done.returncode == 2, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("fedmpi: error")]
    assert "all 3 ranks must see one another, got a world of one: Open MPI" in said
    assert not (tmp_path / "run").exists()
