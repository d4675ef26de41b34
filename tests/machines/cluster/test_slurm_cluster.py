"""A real Slurm with munge on two virtual hosts: sbatch, srun with PMIx and PMI-2, the time limit, scancel, deaths."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machines.cluster.slurm import PACKAGES, Slurm, command_lines, missing
from protocol.codedml_threads import command_on_threads

pytestmark = [pytest.mark.slow, pytest.mark.waits]

SCRIPT = Path(__file__).parents[3] / "launch" / "slurm.sbatch"
RANKS, ROUNDS = 6, 30
OPTIONS = ["-K", "1", "-T", "1", "--paper", "--no-compare", "--timeout", "20"]  # R = 4 of N = 5
LONG = "300"
SLOW = ",".join(f"slow={rank}:0.1s" for rank in range(1, RANKS))
MPICH = Path(os.environ.get("FEDMPI_MPICH", Path(sys.prefix) / "mpich")) / "lib"
"""Of a wheel beside the one of Open MPI, as .ci/run puts it there."""
SECONDS = 200.0


@pytest.fixture(scope="module")
def slurm(virtual_cluster: Callable[..., Any]) -> Iterator[Slurm]:
    if lacking := missing():
        pytest.skip(f"no Slurm: {lacking[0]} is missing, apt-get install {PACKAGES}")
    with virtual_cluster(hosts=2) as cluster:
        slurm = Slurm(cluster)
        yield slurm
        folder = cluster.folder
    assert command_lines(str(folder)) == {}
    assert not folder.exists()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the hosts; runs/ has the jobs' runs, and bin/ an ssh that reaches nobody."""
    files = tmp_path_factory.mktemp("slurm")
    (files / "bin").mkdir()
    (files / "bin" / "ssh").write_text("#!/bin/sh\nexit 255\n")
    (files / "bin" / "ssh").chmod(0o755)
    return files


@pytest.fixture(scope="module")
def sbatch(slurm: Slurm, files: Path) -> Callable[..., str]:
    """``sbatch(*options, for_slurm=(), env=())`` submits launch/slurm.sbatch; the job's number."""

    def submit(*options: str | Path, for_slurm: tuple[str, ...] = (), env: tuple[str, ...] = ()) -> str:
        path = f"PATH={files / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        words = ["sbatch", "--parsable", f"--ntasks={RANKS}", "--nodes=2", f"--output={files}/%j.out", *for_slurm]
        done = slurm.call("env", path, f"FEDMPI_RUNS={files}/runs", *env, *words, SCRIPT, "codedml", *OPTIONS, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return submit


@pytest.fixture(scope="module")
def long_job(sbatch: Callable[..., str], files: Path) -> str:
    """A job that is longer than its time limit, with encrypted links; it waits while other tests run."""
    create = [sys.executable, "-m", "fedmpi.cli", "keygen", str(files / "key")]
    subprocess.run(create, check=True, capture_output=True)
    (files / "long").mkdir()
    limit = ("--time=1", "--signal=B:USR1@25")
    options = ("--iterations", LONG, "--inject", SLOW, "--cluster-key", files / "key")
    return sbatch(*options, for_slurm=limit, env=(f"TMPDIR={files}/long",))


@pytest.fixture(scope="module")
def expected(files: Path) -> Path:
    """The run that nothing happens to."""
    command_on_threads(RANKS - 1, *OPTIONS, "--quiet", "--iterations", str(ROUNDS), "--out", files / "expected")
    return files / "expected"


def wait_for_rounds(run: Path) -> None:
    metrics, end = run / "metrics.jsonl", time.monotonic() + SECONDS
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 5:
        assert time.monotonic() < end
        time.sleep(0.05)


def assert_same(one: Path, other: Path) -> None:
    with np.load(one / "model.npz") as left, np.load(other / "model.npz") as right:
        for name in left.files:
            np.testing.assert_array_equal(left[name], right[name])


def state(slurm: Slurm, job: str) -> dict[str, str]:
    """What Slurm says of a job."""
    words = slurm.call("scontrol", "--oneliner", "show", "job", job).stdout.split()
    return dict(word.partition("=")[::2] for word in words)


def wait_until_ended(slurm: Slurm, job: str) -> dict[str, str]:
    end = time.monotonic() + SECONDS
    while (said := state(slurm, job))["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
        assert time.monotonic() < end, said
        time.sleep(0.1)
    return said


def assert_nothing_is_left(job: str, temporary: Path) -> None:
    """No process, and no file of ours: Slurm kills an Open MPI daemon that is slow to end, and its folder stays."""
    end = time.monotonic() + 30  # Slurm ends what does not end by itself
    while (left := command_lines(f"SLURM_JOB_ID={job}\0")) and time.monotonic() < end:
        time.sleep(0.2)
    assert left == {}
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("prted.")] == []


def srun(slurm: Slurm, kind: str, *options: str | Path, ranks: int = RANKS, env: tuple[str, ...] = ()) -> Any:
    """A run whose ranks srun starts, without mpirun."""
    words = ["srun", f"--mpi={kind}", f"-n{ranks}", "-N2", sys.executable, "-m", "fedmpi.codedml", *OPTIONS]
    return slurm.call("env", *env, *words, "--quiet", *options)


@pytest.mark.parametrize("kind", ["none", "pmi2"])
def test_ranks_that_do_not_see_one_another_are_refused_at_once(
    slurm: Slurm, long_job: str, tmp_path: Path, kind: str
) -> None:
    """Of Open MPI, which knows no PMI-2."""
    done = srun(slurm, kind, "--out", tmp_path / "run", ranks=4)
    assert done.returncode == 2, done.stderr
    ours = [line for line in done.stderr.splitlines() if line.startswith("fedmpi:")]
    assert len(ours) == 1
    assert ours[0].startswith("fedmpi: error: all 4 ranks must see one another, got a world of one")
    assert not (tmp_path / "run").exists()


def test_srun_starts_ranks_by_pmix(slurm: Slurm, long_job: str, tmp_path: Path, expected: Path) -> None:
    done = srun(slurm, "pmix", "--iterations", str(ROUNDS), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", expected)


@pytest.fixture(scope="module")
def without_mpirun(files: Path) -> tuple[str | Path, ...]:
    """``fedmpi run`` of a Python that has no mpirun beside it, nor on the PATH."""
    venv.create(files / "venv")
    packages = next((files / "venv").glob("lib/python*/site-packages"))
    (packages / "others.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    (files / "tools").mkdir()
    for name in ("sh", "srun"):
        (files / "tools" / name).symlink_to(shutil.which(name) or name)
    (files / "hosts").write_text("host1 slots=3\nhost2 slots=3\n")
    python = files / "venv" / "bin" / "python"
    words = (python, "-m", "fedmpi.cli", "run", "codedml", "-n", str(RANKS), "--hostfile", files / "hosts")
    return "env", f"PATH={files}/tools", f"LD_LIBRARY_PATH={Path(sys.prefix) / 'lib'}", *words


def test_fedmpi_run_starts_ranks_by_srun_where_there_is_no_mpirun(
    slurm: Slurm, long_job: str, files: Path, without_mpirun: tuple[str | Path, ...]
) -> None:
    """A signal finds its way to rank 0 of the other host, where it is placed, by srun."""
    run, salloc = files / "stopped", (shutil.which("salloc") or "salloc", "-Q", f"-n{RANKS}", "-N2")
    words = ("--place", "master=host2", "--", *OPTIONS, "--quiet", "--out", run, "--iterations", LONG, "--inject", SLOW)
    job = slurm.start(*salloc, *without_mpirun, *words, stderr=subprocess.PIPE)
    wait_for_rounds(run)
    begin = f"{files / 'venv' / 'bin' / 'python'}\0-m\0fedmpi.cli"
    (launcher,) = [pid for pid, line in command_lines().items() if line.startswith(begin) and str(run) in line]
    os.kill(launcher, signal.SIGTERM)
    err = job.communicate(timeout=SECONDS)[1]
    assert job.returncode == 143, err
    assert f"$ {files}/tools/srun -n {RANKS} --mpi=pmix" in err
    assert "fedmpi: stopped by" in err
    assert list(run.glob("checkpoints/*.npz"))


@pytest.mark.skipif(not MPICH.is_dir(), reason=f"no MPICH in {MPICH.parent}: pip install --prefix … mpich")
def test_srun_starts_ranks_by_pmi2(slurm: Slurm, long_job: str, tmp_path: Path, expected: Path) -> None:
    env = ("MPI4PY_MPIABI=mpich", f"LD_LIBRARY_PATH={MPICH}")
    done = srun(slurm, "pmi2", "--iterations", str(ROUNDS), "--out", tmp_path / "run", env=env)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "run", expected)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["environment"]["mpi"].startswith("MPICH")
    assert result["environment"]["hosts"] == ["host1", "host2"]


def test_a_job_goes_on_without_a_worker_that_is_killed(
    slurm: Slurm, sbatch: Callable[..., str], long_job: str, files: Path, expected: Path
) -> None:
    job = sbatch("--iterations", str(ROUNDS), "--inject", "kill=4@10")
    said = wait_until_ended(slurm, job)
    assert said["JobState"] == "COMPLETED", (files / f"{job}.out").read_text()
    run = files / "runs" / f"slurm-{job}"
    assert_same(run, expected)
    failures = json.loads((run / "result.json").read_text())["failures"]
    assert [(failure["rank"], failure["reason"]) for failure in failures] == [(4, "died")]


def test_scancel_leaves_nothing(slurm: Slurm, sbatch: Callable[..., str], long_job: str, files: Path) -> None:
    """No process, and no file beside the run: Slurm signals all processes at once."""
    (files / "cancelled").mkdir()
    job = sbatch("--iterations", LONG, "--inject", SLOW, env=(f"TMPDIR={files}/cancelled",))
    wait_for_rounds(run := files / "runs" / f"slurm-{job}")
    slurm.call("scancel", job)
    assert wait_until_ended(slurm, job)["JobState"] == "CANCELLED"
    assert_nothing_is_left(job, files / "cancelled")
    assert not (run / "result.json").exists()


def test_a_job_beyond_its_time_limit_is_requeued_and_ends_as_if_it_had_not_been(
    slurm: Slurm, long_job: str, files: Path
) -> None:
    run, end = files / "runs" / f"slurm-{long_job}", time.monotonic() + SECONDS
    while not list(run.glob("checkpoints/*.npz")):  # on a slow machine it may be stopped before it has begun
        assert time.monotonic() < end, (files / f"{long_job}.out").read_text()
        time.sleep(0.1)
    slurm.call("scontrol", "update", f"JobId={long_job}", "TimeLimit=60")  # one stop is enough
    said = wait_until_ended(slurm, long_job)
    printed = (files / f"{long_job}.out").read_text()
    assert (said["JobState"], int(said["Restarts"]) > 0) == ("COMPLETED", True), printed
    assert "requeued" in printed
    result = json.loads((run / "result.json").read_text())
    assert result["resumed_from"] > 0
    assert result["environment"]["mpi"].endswith("encrypted")
    command_on_threads(RANKS - 1, *OPTIONS, "--quiet", "--iterations", LONG, "--out", files / "uninterrupted")
    assert_same(run, files / "uninterrupted")
    assert_nothing_is_left(long_job, files / "long")
