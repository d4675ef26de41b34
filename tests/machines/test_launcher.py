"""The mpirun line on machines of many kinds, and real jobs started with it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedmpi.errors import UsageError
from fedmpi.machines import launcher

OPEN_MPI = "mpirun (Open MPI) 5.0.11"
MPICH = "HYDRA build details:\n    Version: 4.2.1"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.18.1"
PYTHON = sys.executable
PROGRAM = ["python", "-m", "fedmpi.codedml"]

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install(version, then="exit 0")`` makes the only mpirun on PATH a script; there is none beside python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))

    def write(version: str, then: str = "exit 0") -> str:
        script = folder / "mpirun"
        script.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit 0; fi\n{then}\n')
        script.chmod(0o755)
        return str(script)

    return write


def root(monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if yes else 1000)


def cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))


def test_every_rank_runs_the_program_as_given(install: Install) -> None:
    mpirun = install(OPEN_MPI)
    command, _ = launcher.mpirun_command(3, [*PROGRAM, "--out", "a folder"])
    assert command[:3] == [mpirun, "-n", "3"]
    assert command[-5:] == [*PROGRAM, "--out", "a folder"]


@pytest.mark.parametrize("yes", [True, False])
def test_only_root_is_allowed_as_root_and_warned(install: Install, monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    install(OPEN_MPI)
    root(monkeypatch, yes)
    cores(monkeypatch, 8)
    command, warnings = launcher.mpirun_command(2, PROGRAM)
    assert ("--allow-run-as-root" in command) == yes
    assert [("root" in warning) for warning in warnings] == [True] * yes


def test_more_ranks_than_cores_share_them_with_a_warning(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(OPEN_MPI)
    root(monkeypatch, False)
    cores(monkeypatch, 4)
    command, warnings = launcher.mpirun_command(5, PROGRAM)
    assert "--oversubscribe" in command
    assert command[command.index("--bind-to") + 1] == "none"
    assert len(warnings) == 1
    assert "5 ranks share 4 cores" in warnings[0]


def test_as_many_ranks_as_cores_need_no_warning(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(OPEN_MPI)
    root(monkeypatch, False)
    cores(monkeypatch, 4)
    assert launcher.mpirun_command(4, PROGRAM)[1] == []


def test_idle_ranks_yield_and_every_rank_gets_the_environment(install: Install) -> None:
    install(OPEN_MPI)
    command, _ = launcher.mpirun_command(2, PROGRAM)
    options = command[: -len(PROGRAM)]
    at = options.index("mpi_yield_when_idle")
    assert options[at - 1 : at + 2] == ["--mca", "mpi_yield_when_idle", "1"]
    passed = {options[i + 1] for i, option in enumerate(options) if option == "-x"}
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FEDMPI_TERMINAL"} <= passed


HOSTS = "# ours\r\na:4\r\nb slots=4\r\nc\r\n"


@pytest.mark.parametrize(
    ("version", "flag", "form"),
    [
        (OPEN_MPI, "--hostfile", "a slots=4\nb slots=4\nc\n"),
        *((v, "-machinefile", "a:4\nb:4\nc\n") for v in (MPICH, INTEL)),
    ],
)
def test_hosts_are_written_as_this_mpirun_reads_them(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, flag: str, form: str
) -> None:
    install(version)
    root(monkeypatch, False)
    hosts = tmp_path / "mine"
    hosts.write_bytes(HOSTS.encode())
    command, warnings = launcher.mpirun_command(8, PROGRAM, hosts, folder=tmp_path)
    assert command[command.index(flag) + 1] == str(tmp_path / "hosts")
    assert (tmp_path / "hosts").read_text() == form
    assert warnings == []  # the cores of this machine say nothing about those of others


@pytest.mark.parametrize("version", [MPICH, INTEL])
def test_the_network_of_hydra_has_a_name(install: Install, version: str) -> None:
    install(version)
    command, _ = launcher.mpirun_command(2, PROGRAM, interface="eth1")
    assert command[3 : -len(PROGRAM)] == ["-iface", "eth1", "-genv", "FI_TCP_IFACE", "eth1"]
    with pytest.raises(UsageError, match=r"--interface must be a name such as eth0: .*, got 10.0.0.0/16"):
        launcher.mpirun_command(2, PROGRAM, interface="10.0.0.0/16")


def test_more_ranks_than_slots_are_refused(install: Install, tmp_path: Path) -> None:
    install(OPEN_MPI)
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=4\nb slots=4\n")
    with pytest.raises(UsageError, match="the hosts must have slots for 9 ranks, got 8 on 2 hosts"):
        launcher.mpirun_command(9, PROGRAM, hosts)


def test_placed_ranks_are_mapped_one_by_one(
    install: Install, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = '--hostfile) cat "$2"; echo "$3 $4";; -machinefile) cat "$2";;'
    show = f'echo "$FEDMPI_PLACES"; while [ $# -gt 0 ]; do case "$1" in {cases} esac; shift; done'
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=2\nb slots=2\n")
    install(OPEN_MPI, show)
    assert launcher.run_ranks(3, PROGRAM, hosts, places={0: "b", 1: "a"}) == 0
    assert capfd.readouterr().out.splitlines() == ["0=b,1=a", "b", "a", "a", "--map-by seq"]
    install(MPICH, show)
    assert launcher.run_ranks(3, PROGRAM, hosts, places={0: "b", 1: "a"}) == 0
    assert capfd.readouterr().out.splitlines() == ["0=b,1=a", "b", "a", "a"]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_the_start_takes_some_time(seconds: float) -> None:
    with pytest.raises(UsageError, match=f"--start-timeout must be a positive number of seconds, got {seconds:g}"):
        launcher.run_ranks(3, PROGRAM, start_timeout=seconds)


@pytest.mark.usefixtures("install")
def test_places_need_a_hostfile() -> None:
    with pytest.raises(UsageError, match="--place must be used with --hostfile"):
        launcher.run_ranks(3, PROGRAM, places={0: "b"})


@pytest.mark.parametrize("name", ["missing", ""])
def test_a_hostfile_that_is_no_file_is_refused(install: Install, tmp_path: Path, name: str) -> None:
    install(OPEN_MPI)
    with pytest.raises(UsageError, match=f"--hostfile must be a file, got {tmp_path / name}"):
        launcher.mpirun_command(2, PROGRAM, tmp_path / name)


def test_mpich_gets_none_of_the_flags_of_open_mpi(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    mpirun = install(MPICH)
    root(monkeypatch, True)
    cores(monkeypatch, 1)
    assert launcher.mpirun_command(5, PROGRAM)[0] == [mpirun, "-n", "5", *PROGRAM]


@pytest.mark.parametrize("ranks", [0, -1])
def test_a_job_has_at_least_one_rank(ranks: int) -> None:
    with pytest.raises(UsageError, match=f"-n must be at least 1, got {ranks}"):
        launcher.mpirun_command(ranks, PROGRAM)


@pytest.mark.usefixtures("install")
def test_without_mpirun_the_error_says_how_to_get_it() -> None:
    with pytest.raises(UsageError, match=r'pip install "fedmpi\[mpi\]"'):
        launcher.mpirun_command(2, PROGRAM)


def test_the_mpirun_beside_python_comes_before_that_on_the_path(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_path = install(OPEN_MPI)
    assert launcher.find_mpirun() == on_path
    beside = tmp_path / "venv" / "mpirun"
    beside.parent.mkdir()
    Path(on_path).rename(beside)
    install(MPICH)
    monkeypatch.setattr(sys, "executable", str(beside.parent / "python"))
    assert launcher.find_mpirun() == str(beside)


def test_mpiexec_will_do_and_the_rest_of_its_mpi_is_found(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Intel's is a script that calls others by name, in an environment that need not be activated."""
    mpirun = Path(install("Intel(R) MPI Library", "exec the-rest-of-it"))
    beside = tmp_path / "venv"
    beside.mkdir()
    mpirun.rename(beside / "mpiexec")
    (beside / "the-rest-of-it").write_text("#!/bin/sh\necho found\n")
    (beside / "the-rest-of-it").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    assert launcher.find_mpirun() == str(beside / "mpiexec")
    assert launcher.run_ranks(2, PROGRAM) == 0
    assert capfd.readouterr().out == "found\n"


def test_intels_hydra_is_started_without_its_script_unless_a_scheduler_needs_it(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(install(INTEL))
    hydra = script.with_name("mpiexec.hydra")
    hydra.touch()
    for name in launcher._SCHEDULERS:
        monkeypatch.delenv(name, raising=False)
    assert launcher.mpirun_command(2, PROGRAM)[0][0] == str(hydra)
    monkeypatch.setenv("PBS_NODEFILE", "/var/spool/nodes")
    assert launcher.mpirun_command(2, PROGRAM)[0][0] == str(script)
    monkeypatch.delenv("PBS_NODEFILE")
    (script.parents[1] / "env").mkdir()
    (script.parents[1] / "env" / "vars.sh").touch()  # of a whole installation, which says where its libraries are
    assert launcher.mpirun_command(2, PROGRAM)[0][0] == str(script)
    monkeypatch.setenv("I_MPI_ROOT", "/opt/intel")
    assert launcher.mpirun_command(2, PROGRAM)[0][0] == str(hydra)


SRUN = 'printf "%s\\n" "$*"; for word; do case "$word" in --nodelist=*) cat "${word#--nodelist=}";; esac; done'


@pytest.mark.parametrize(
    ("library", "wire"), [("Open MPI v5.0.11", "pmix"), ("MPICH Version: 5.0.2", "pmi2"), ("Intel(R) MPI", "pmi2")]
)
def test_in_a_job_of_slurm_without_mpirun_srun_starts_the_ranks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], library: str, wire: str
) -> None:
    """What a real Slurm does with it is tried in cluster/test_slurm_cluster.py."""
    for name, text in (("srun", SRUN), ("python", f'echo "{library}, package"'), ("sh", 'exec /bin/sh "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UsageError, match="mpirun must be installed"):
        launcher.find_mpirun()
    for name, value in {"JOB_ID": "7", "JOB_NODELIST": "a,b", "TASKS_PER_NODE": "2(x2)"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    hosts = tmp_path / "mine"
    hosts.write_text("b:2\na:2\n")
    for places, order in ((None, ["b", "b", "a"]), ({0: "a"}, ["a", "b", "b"])):
        assert launcher.run_ranks(3, PROGRAM, hosts, places=places, interface="ib0") == 0
        words, *lines = capfd.readouterr().out.splitlines()
        assert lines == order
        assert words.startswith(f"-n 3 --mpi={wire} -N 2 --nodelist=/")
        assert words.endswith(f"OMPI_MCA_btl_tcp_if_include=ib0,FI_TCP_IFACE=ib0 {' '.join(PROGRAM)}")
        assert "/hosts --distribution=arbitrary --overlap --overcommit --export=ALL,OMPI_MCA_mpi_yield" in words
    assert launcher.run_ranks(5, PROGRAM) == 0
    assert f"-n 5 --mpi={wire} --overlap" in capfd.readouterr().out  # over the nodes as Slurm does it
    hosts.write_text("b:2\nc:2\n")
    with pytest.raises(UsageError, match=r"every host must be a node of the job \(a, b\), got c"):
        launcher.run_ranks(3, PROGRAM, hosts)
    if wire == "pmi2":
        with pytest.raises(UsageError, match=r"--interface must be a name such as eth0: .*, got 10.0.0.0/16"):
            launcher.run_ranks(3, PROGRAM, interface="10.0.0.0/16")


@pytest.mark.parametrize("terminal", [True, False])
def test_ranks_are_told_whether_people_watch(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("SOMETHING_OF_THE_USER", "kept")
    with launcher.environment() as variables:
        assert variables["FEDMPI_TERMINAL"] == str(int(terminal))
        assert variables["OMP_NUM_THREADS"] == "1"
        assert variables["SOMETHING_OF_THE_USER"] == "kept"
        assert variables["I_MPI_PIN"] == "off"


def test_the_printed_command_is_the_one_that_runs(install: Install, capfd: pytest.CaptureFixture[str]) -> None:
    install(OPEN_MPI, 'for argument in "$0" "$@"; do printf "%s\\n" "$argument"; done')
    assert launcher.run_ranks(2, ["python", "-c", "print('two words')"]) == 0
    out, err = capfd.readouterr()
    printed = [line.removeprefix("$ ") for line in err.splitlines() if line.startswith("$ ")]
    assert len(printed) == 1
    assert shlex.split(printed[0]) == out.splitlines()


def test_warnings_stand_before_the_command(
    install: Install, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install(OPEN_MPI)
    root(monkeypatch, True)
    cores(monkeypatch, 1)
    launcher.run_ranks(2, PROGRAM)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in lines[:-1]] == [["fedmpi", " warning"]] * 2
    assert lines[-1].startswith("$ ")


LAUNCHING = """
import sys
sys.path[:] = {path!r}
sys.executable = {executable!r}
from fedmpi.machines import launcher

sys.exit(launcher.run_ranks(2, ["program"]))
"""


LEADER = (
    "echo $$ $(cut -d ' ' -f 22 /proc/$$/stat) $(uname -n) $(cat /proc/sys/kernel/random/boot_id)"
    " > $FEDMPI_JOB_FOLDER/rank-0"
)
"""How a script says that it is rank 0."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_goes_to_rank_0_which_ends_the_job(install: Install, number: signal.Signals) -> None:
    """Not to mpirun, which would give the ranks no time to save their work."""
    rank_0 = (
        "trap 'echo saved $(cat $FEDMPI_JOB_FOLDER/reason); echo 143 > $FEDMPI_JOB_FOLDER/exit-code; exit 1' TERM; "
        "trap '' INT; "
        f"{LEADER}; echo started; while :; do sleep 0.05; done"
    )
    install(OPEN_MPI, rank_0)
    code = LAUNCHING.format(path=sys.path, executable=sys.executable)
    process = subprocess.Popen(
        [PYTHON, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
    by = "Ctrl-C" if number == signal.SIGINT else number.name
    assert (process.returncode, out.strip()) == (143, f"saved {by}"), err
    assert "Traceback" not in err


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_that_of_the_program(code: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A real mpirun, two ranks, each with one thread."""
    program = f"import os, sys; print('threads', os.environ['OPENBLAS_NUM_THREADS']); sys.exit({code})"
    assert launcher.run_ranks(2, [sys.executable, "-c", program]) == code
    if code == 0:  # otherwise mpirun may end the other rank before it has printed
        assert capfd.readouterr().out.splitlines() == ["threads 1"] * 2


@pytest.fixture
def real_mpirun() -> str:
    return launcher.find_mpirun()


def test_what_a_killed_mpirun_left_is_not_met(
    real_mpirun: str, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real mpirun that gets the process number of one that was killed: Open MPI alone starts no rank."""
    left = "$TMPDIR/ompi.$$"
    install(OPEN_MPI, f'mkdir {left}; touch {left}/pmix.$(uname -n).tool.$$; exec "{real_mpirun}" "$@"')
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it has kept of another TMPDIR
    command, _ = launcher.mpirun_command(2, [PYTHON, "-c", ""])
    alone = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert alone.returncode != 0
    assert "listener thread failed to start" in alone.stderr
    assert launcher.run_ranks(2, [PYTHON, "-c", ""]) == 0
    assert list(tmp_path.glob("fedmpi-*")) == []


def test_a_place_for_mpiruns_files_that_the_user_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    local, both = "PRTE_MCA_prte_local_tmpdir_base", "PRTE_MCA_prte_tmpdir_base"
    with launcher.environment() as variables:
        assert variables[local] == variables["FEDMPI_JOB_FOLDER"]
    monkeypatch.setenv(both, "/scratch")
    with launcher.environment() as variables:
        assert (variables[both], local in variables) == ("/scratch", False)


def test_two_threads_of_one_core_run_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open MPI counts cores, the operating system their threads: of a laptop's 8 "cores" mpirun may see 4."""
    monkeypatch.setenv("HWLOC_SYNTHETIC", "core:1 pu:2")
    monkeypatch.setenv("HWLOC_THISSYSTEM", "1")
    cores(monkeypatch, 2)
    assert launcher.run_ranks(2, [sys.executable, "-c", ""]) == 0


def fedmpi_run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fedmpi.cli", "run", "codedml", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_fedmpi_run_trains_and_writes_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = fedmpi_run("-n", "5", "--", "--iterations", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    assert " -n 5 " in next(line for line in done.stderr.splitlines() if line.startswith("$ "))
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if "test accuracy" in line and "/2 " not in line] == ["coded", "plain"]
    assert lines[-1] == f"written to {out}"
    assert {path.name for path in out.iterdir()} == {
        "checkpoints",
        "config.toml",
        "frames.jsonl",
        "log.txt",
        "metrics.jsonl",
        "model.json",
        "model.npz",
        "result.json",
    }
    result = json.loads((out / "result.json").read_text())
    assert (result["ranks"], result["roles"]) == (5, {"master": 1, "worker": 4})
    assert set(result["seconds"]) >= {"startup", "encode", "communicate", "compute", "decode", "total"}
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [step["iteration"] for step in steps] == [0, 1, 2]
    assert steps[-1]["test_accuracy"] == result["metrics"]["test_accuracy"]
    with np.load(out / "model.npz") as model:
        assert model["coefficients"].shape == (1, 64)


def test_fedmpi_run_with_too_few_ranks_says_how_many_and_writes_nothing(tmp_path: Path) -> None:
    done = fedmpi_run("-n", "3", "--", "--out", tmp_path / "run")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("fedmpi: error: ")]
    assert len(errors) == 1
    assert "got N=2 (start 4 ranks or more)" in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_signal_before_mpirun_is_there_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Path] = []

    def stopped(*_: object, folder: Path, **__: object) -> None:
        made.append(folder)
        assert folder.exists()
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr(launcher, "mpirun_command", stopped)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        launcher.run_ranks(2, PROGRAM)
    assert end.value.code == 143
    assert capsys.readouterr().err == "fedmpi: stopped by SIGTERM, before a rank was started\n"
    assert not made[0].exists()
    assert signal.getsignal(signal.SIGTERM) is before
