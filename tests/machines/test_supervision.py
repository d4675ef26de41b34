"""A job from its start to its exit code: ranks that do not come up, signals at any moment, and what mpirun says."""

import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedmpi.machines import launcher, supervision
from fedmpi.net import job_folder
from fedmpi.net.siblings import ranks_of

Start = Callable[..., "subprocess.Popen[str]"]

THIS = "$(cut -d\\  -f 22 /proc/$$/stat) $(uname -n) $(cat /proc/sys/kernel/random/boot_id)"
"""How a script says the rest of who it is, behind its process number."""

LAUNCHING = """
import sys
sys.path[:] = {path!r}
from fedmpi.machines import launcher

launcher.find_mpirun = lambda: {mpirun!r}
sys.exit(launcher.run_ranks({ranks}, ["program"]))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(script, ranks=2)`` runs a job whose mpirun is a script, in the job's folder."""
    processes = []

    def run(script: str, ranks: int = 2) -> "subprocess.Popen[str]":
        mpirun = tmp_path / "mpirun"
        version = 'if [ "$1" = --version ]; then echo "mpirun (Open MPI) 5.0.11"; exit 0; fi'
        mpirun.write_text(f"#!/bin/sh\n{version}\ncd $FEDMPI_JOB_FOLDER\n{script}\n")
        mpirun.chmod(0o755)
        code = LAUNCHING.format(path=sys.path, mpirun=str(mpirun), ranks=ranks)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()


def said(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("fedmpi: ") and "warning" not in line]


ASLEEP = "echo ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 143), (signal.SIGTERM, 143), (signal.SIGHUP, 143), (signal.SIGQUIT, 143), (signal.SIGUSR1, 0)],
)
def test_a_signal_before_rank_0_is_there_ends_the_job(start: Start, number: signal.Signals, code: int) -> None:
    job = start(ASLEEP)
    assert job.stdout is not None
    job.stdout.readline()
    job.send_signal(number)
    _, err = job.communicate(timeout=30)
    by = "Ctrl-C" if number == signal.SIGINT else number.name
    assert (job.returncode, said(err)) == (code, [f"fedmpi: stopped by {by}, before rank 0 could say how far it was"])


def test_ranks_that_a_signal_ends_need_not_come_up(start: Start) -> None:
    """Mpirun takes longer for its end than the launcher waits for the last words of a rank that died by itself."""
    rank = f"sleep 100 & r=$!; echo $r {THIS} > begun-0".replace("/proc/$$/", "/proc/$r/")
    job = start(f"{rank}; trap 'kill $r; wait $r; sleep 3; exit 1' TERM; {ASLEEP}")
    assert job.stdout is not None
    job.stdout.readline()
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=30)
    assert (job.returncode, said(err)) == (143, ["fedmpi: stopped by SIGTERM, before rank 0 could say how far it was"])


def test_a_stop_is_told_by_the_launcher_where_rank_0_may_not_be_read(start: Start) -> None:
    """Mpirun is ended, and with it what rank 0 prints is lost; it keeps silent, since the launcher has the word."""
    job = start(f"trap 'echo 143 > exit-code; exit 1' TERM; {ASLEEP}")
    assert job.stdout is not None
    job.stdout.readline()
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=30)
    assert (job.returncode, said(err)) == (143, ["fedmpi: stopped by SIGTERM, before rank 0 could say how far it was"])


def test_one_process_has_the_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(job_folder.VARIABLE, str(tmp_path))
    assert [job_folder.take_word(), job_folder.take_word(tmp_path), job_folder.take_word()] == [True, False, False]
    monkeypatch.delenv(job_folder.VARIABLE)
    assert job_folder.take_word()


def test_ctrl_c_twice_ends_a_job_whose_rank_0_does_not(start: Start) -> None:
    job = start(f"sh -c 'trap \"echo heard\" TERM; echo $$ {THIS} > rank-0; {ASLEEP}' & wait; wait")
    assert job.stdout is not None
    job.stdout.readline()
    job.send_signal(signal.SIGINT)
    assert job.stdout.readline() == "heard\n"
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=30)
    assert (job.returncode, "Traceback" in err, len(said(err))) == (143, False, 1)


def test_hangups_are_ignored_where_nohup_says_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with supervision.Job(Path(), 2, start_timeout=1).heeding_signals():
            assert signal.signal(signal.SIGHUP, signal.SIG_IGN) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_number_of_another_machine_is_left_alone(start: Start) -> None:
    """Rank 0 is elsewhere, and has a number that is another process's here: mpirun passes the signal on."""
    with subprocess.Popen(["sleep", "60"]) as bystander:
        job = start(
            f"trap 'echo saved; exit 0' USR1; touch up; echo {bystander.pid} 7 elsewhere > rank-0; "
            f"cp rank-0 begun-0; echo $$ {THIS} > begun-1; {ASLEEP}"
        )
        assert job.stdout is not None
        job.stdout.readline()
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=30)
        untouched = bystander.poll() is None
        bystander.kill()
    assert (job.returncode, out, untouched, said(err)) == (143, "saved\n", True, [])


BEGUN = f"echo $$ {THIS} > begun-0; touch up; "


@pytest.mark.parametrize(
    ("script", "code", "line"),
    [
        ("exit 7", 7, ""),  # no rank of ours
        ("echo 3 > exit-code; exit 1", 3, ""),
        *((BEGUN + f"exit {code}", 4, "rank 0 must last as long as the job") for code in (9, 137, 143, 255)),
        (BEGUN + "mv begun-0 begun-1; exit 3", 3, ""),  # of a rank 0 on another machine
        (BEGUN + "mv begun-0 begun-1; exit 255", 4, "rank 0 must last as long as the job"),
        (BEGUN + "rm up; exit 1", 4, "all 2 ranks must come up, got ranks dead: 0; said nothing: 1"),
        (BEGUN + "exit 0", 0, ""),
        (BEGUN + "kill -KILL $$", 4, "mpirun must last as long as the job, got its end by SIGKILL"),
    ],
)
def test_the_exit_code_is_ours_whatever_mpirun_says(start: Start, script: str, code: int, line: str) -> None:
    job = start(script)
    _, err = job.communicate(timeout=30)
    lines = said(err)
    assert (job.returncode, len(lines)) == (code, bool(line)), err
    assert line in "".join(lines)


RANK = """
import os, pathlib, signal, sys, time
from fedmpi.net import job_folder

job_folder.write_begun()
print(os.getpid(), flush=True)
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    os.kill(os.getpid(), int(sys.argv[1]))
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGKILL, "all 3 ranks must come up, got ranks up: 0, 2; dead: 1"),
        (signal.SIGSTOP, "all 3 ranks must come up within 8 s (--start-timeout), got ranks up: 0, 2; frozen: 1"),
    ],
)
def test_a_rank_that_does_not_come_up_is_named_and_all_are_ended(
    number: int, line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a real mpirun, which would wait for ever."""
    monkeypatch.setattr(supervision, "PATIENCE_SECONDS", 1.0)
    program = [sys.executable, "-c", RANK, str(int(number))]
    assert launcher.run_ranks(3, program, tolerate_failures=True, start_timeout=8.0) == 4
    out, err = capfd.readouterr()
    assert said(err)[-1] == f"fedmpi: error: {line}"
    assert [text.startswith("fedmpi: waiting for all ranks") for text in said(err)[:-1]] == [True]
    pids = [int(text) for text in out.split()]
    assert len(pids) == 3
    end = time.monotonic() + 10
    while any(job_folder.state_of(pid) not in ("", "Z") for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_is_known_by_more_than_its_number() -> None:
    text = job_folder._this_process()
    number, started, machine = text.split(" ", 2)
    this = job_folder.Process(machine, int(number), started)
    assert (this.number, this.signal(0)) == (os.getpid(), True)
    assert not job_folder.Process("elsewhere", this.number, started).signal(0)
    assert not job_folder.Process(machine, this.number, "1").signal(0)


def test_a_rank_without_the_jobs_folder_reports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine there is none, though Hydra and Slurm pass the name on."""
    monkeypatch.setenv(job_folder.VARIABLE, str(tmp_path / "elsewhere"))
    job_folder.write_leader()
    job_folder.write_exit_code(0)
    assert list(tmp_path.iterdir()) == []


def test_a_job_whose_launcher_is_killed_is_ended_and_leaves_no_files(start: Start) -> None:
    """Rank 0 saves its work first; mpirun hangs, and rank 1 is frozen."""
    frozen = f'setsid sh -c \'printf "%s" "$$ {THIS}" > begun-1; kill -STOP $$\' &'
    rank_0 = f'sh -c \'trap "cat reason; exit 1" TERM; printf "%s" "$$ {THIS}" > rank-0; {ASLEEP}\' &'
    job = start(f"pwd; {frozen} sleep 0.3; {rank_0} wait; wait")
    assert job.stdout is not None
    folder, ready = Path(job.stdout.readline().strip()), job.stdout.readline()
    stopped = job_folder.read_begun(folder)[1]
    memory = Path("/dev/shm", folder.name)
    memory.touch()
    (folder / "memory").write_text(f"{memory}\n")
    (folder / "exit-code").write_text("143")
    job.kill()
    out, err = job.communicate(timeout=30)
    assert (ready, out) == ("ready\n", "the end of its launcher"), err
    end = time.monotonic() + 10
    while folder.exists() or memory.exists() or stopped.state:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_memory_that_killed_ranks_shared_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPICH and Intel MPI remove theirs at the end of MPI alone."""
    monkeypatch.setenv(job_folder.VARIABLE, str(tmp_path))
    monkeypatch.setenv("PMI_RANK", "0")
    job_folder.write_begun()
    job = supervision.Job(tmp_path, 1, start_timeout=1)
    with tempfile.NamedTemporaryFile(dir="/dev/shm", delete=False) as file:
        file.write(b"words")
        file.flush()
        with mmap.mmap(file.fileno(), 5):
            job._note_memory()
    assert file.name in (tmp_path / "memory").read_text().splitlines()
    job._memory &= {Path(file.name)}  # this process may share some by MPI
    job._free_memory()
    assert not Path(file.name).exists()


def test_what_slurm_tells_its_job_script_makes_no_rank_of_ssh(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM_PROCID is 0 in all that mpirun starts: an ssh that ended was taken for rank 0, and the start was ended."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    wait = supervision._LAST_WORDS_SECONDS + 1.5
    out, err = start(f"sleep 0.5 & sleep {wait}; touch up; sleep 0.5; echo well; exit 0").communicate(timeout=30)
    assert ("well" in out, said(err)) == (True, [])


def test_a_rank_is_told_by_mpirun_not_by_slurm() -> None:
    slurm = {**os.environ, "SLURM_PROCID": "0"}
    with (
        subprocess.Popen(["sleep", "20"], env=slurm) as ssh,
        subprocess.Popen(["sleep", "20"], env={**slurm, "OMPI_COMM_WORLD_RANK": "3"}) as rank,
    ):
        time.sleep(0.2)
        pids = [ssh.pid, rank.pid]
        assert ranks_of(pids, inherited=["SLURM_PROCID"]) == {rank.pid: 3}
        assert ranks_of(pids) == {ssh.pid: 0, rank.pid: 3}, "of srun"
        ssh.kill()
        rank.kill()
