"""Trainings under mpirun that are not run again once they are finished."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmpi.errors import FedmpiError, UsageError
from fedmpi.machines.guard import cleared
from fedmpi.machines.launcher import environment, folders_of, mpirun_command
from fedmpi.machines.slurm import submission
from fedmpi.runs.programs import program as program_of
from fedmpi.runs.result import SCHEMA
from fedmpi.version import __version__

ARGUMENTS = "arguments.json"
"""Written before a run starts: what it was started with, and whose folder it is."""

AT_ONCE = 2
"""Runs that are not timed, side by side: while one starts, or waits for its slowest rank, the other computes. Not more
on many cores: the ranks of each run take threads for all of them, and each run has its own copy of the data."""

HEADLINES = ("test_accuracy", "test_rmse", "test_mse", "mean_rmse")
"""Metrics of result.json; the first of them that is there is said of a run."""

_OURS = "fedmpi: error: "
_END_SECONDS = 0.5
_LOCK_SECONDS = 0.2

_ending = threading.Event()
"""No run is begun any more, those that go on are ended, and those of others no longer waited for."""


@dataclass(frozen=True)
class Run:
    """One training under mpirun, in a folder of its own."""

    folder: Path
    ranks: int
    options: tuple[str, ...]
    system: str = "codedml"
    resume: bool = False
    """Let it go on from its last checkpoint, if it was interrupted."""
    timed: bool = False
    """Its time counts: nothing runs beside it."""
    slurm: bool = False
    """It is submitted as a job of Slurm, and waited for."""

    @property
    def finished(self) -> dict[str, Any] | None:
        """Its result.json, if it has ended."""
        return finished(self.folder, _arguments(self.ranks, self.options))


on_finished: list[Callable[[Run], None]] = []
"""Called after each run of `train_all`: for a bar that shows how far the experiments have come."""


def train_all(runs: Iterable[Run]) -> dict[Path, dict[str, Any]]:
    """Run what is not finished, and print a line for each run.

    Parameters
    ----------
    runs : iterable of Run
        One that is there twice is run once. Those that are timed come first, one after another.

    Returns
    -------
    dict
        Folder → result.json.

    Raises
    ------
    FedmpiError
        If a run fails; those beside it are ended.
    """
    each = {run.folder: run for run in runs}
    begun, results = time.perf_counter(), dict[Path, dict[str, Any]]()
    timed = [run for run in each.values() if run.timed]
    others = [run for run in each.values() if not run.timed]
    for chosen, at_once in ((timed, 1), (others, AT_ONCE)):
        with _side_by_side(chosen, at_once) as futures:
            for future in as_completed(futures):
                run = futures[future]
                result = results[run.folder] = future.result()
                place = f"[{len(results):>{len(str(len(each)))}}/{len(each)}]"
                seconds = time.perf_counter() - begun
                print(f"{place} {run.folder.name}{_headline(result)} ({seconds:.0f} s so far)", flush=True)
                for call in on_finished:
                    call(run)
    return results


def outcomes(runs: Sequence[Run], at_once: int) -> Iterator[tuple[Run, dict[str, Any] | FedmpiError]]:
    """Run what is not finished; one that fails does not keep the others from going on.

    Yields
    ------
    Run, and its result.json or why there is none
        In the order in which they end. Where the caller leaves the loop by an exception, those that go on are ended.
    """
    with _side_by_side(runs, at_once) as futures:
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except FedmpiError as error:
                yield futures[future], error


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the runs of the block, and the program with exit code 143."""

    def end(*_: object) -> None:
        _ending.set()  # before the exception, which is raised wherever the main thread is just now
        sys.exit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _ending.clear()


@contextlib.contextmanager
def _side_by_side(runs: Sequence[Run], at_once: int) -> Iterator[dict[Future[dict[str, Any]], Run]]:
    """Futures of runs; where the block raises, the runs are ended, and those of others no longer waited for."""
    try:
        with ThreadPoolExecutor(at_once) as pool:
            try:
                yield {pool.submit(_train, run): run for run in runs}
            except BaseException:  # Ctrl-C and SIGTERM too
                _ending.set()
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        _ending.clear()  # all of them have ended; a run that the program starts later shall live


def _train(run: Run) -> dict[str, Any]:
    return train(run.folder, run.ranks, run.options, run.system, resume=run.resume, slurm=run.slurm)


def _headline(result: dict[str, Any]) -> str:
    metrics = result.get("metrics", {})
    name = next((name for name in HEADLINES if metrics.get(name) is not None), None)
    return "" if name is None else f": {name.replace('_', ' ')} {metrics[name]:.4f}"


def train(
    folder: Path,
    ranks: int,
    options: Sequence[str],
    system: str = "codedml",
    *,
    resume: bool = False,
    slurm: bool = False,
) -> dict[str, Any]:
    """Run a system and return its result.json.

    Parameters
    ----------
    folder : Path
        Of the run. One that was interrupted, that had other arguments, or whose result has other keys than today's, is
        emptied and run again. Where the run still goes on, because who started it was killed, its end is waited for.
    resume : bool
        Let one that was interrupted go on from its last checkpoint, if it has one.
    slurm : bool
        Submit it to Slurm, and wait for its end.

    Raises
    ------
    FedmpiError
        If the run fails, with its own message, or those beside it are ended while the end of this one is waited for.
    UsageError
        If the folder is not one of ours, or the run refuses its options or data.
    """
    arguments = _arguments(ranks, options)
    with _locked(folder) as lock:
        if (result := finished(folder, arguments)) is not None:
            return result
        stopped = started(folder, arguments) and not (folder / "result.json").exists()
        goes_on = resume and stopped and any((folder / "checkpoints").glob("*.sha256"))
        if not goes_on:
            _empty(folder)
        (folder / ARGUMENTS).write_text(json.dumps(arguments))
        where = ["--resume" if goes_on else "--out", str(folder)]
        words = [*options, "--quiet", *where]
        if slurm:
            code, said = _ended(submission(folder, system, ranks, words), lock)
        else:
            command, _ = mpirun_command(ranks, [sys.executable, "-m", program_of(system), *words])
            code, said = _ended(command, lock)
    if code != 0 or (result := finished(folder, arguments)) is None:
        kind = UsageError if code == UsageError.exit_code else FedmpiError
        raise kind(f"the run in {folder} must end with 0, got {code}: {reason_of(said)}")
    return result


def reason_of(said: str) -> str:
    """Why a program failed: our own line that says so, else the first that speaks of an error, else the last."""
    lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
    ours = [line for line in lines if line.startswith(_OURS)]  # MPI's own lines may come before
    errors = [line for line in lines if "error" in line.lower()]
    return [*ours, *errors, lines[-1]][0].removeprefix(_OURS)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Make a folder and wait until it is ours alone: the descriptor that holds the lock, for mpirun to inherit."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _is_taken(descriptor):
            print(f"the run in {folder} still goes on: waiting for its end", file=sys.stderr, flush=True)
            while _is_taken(descriptor):  # no blocking flock: nothing ends it in a thread
                if _ending.wait(_LOCK_SECONDS):
                    raise FedmpiError(f"the run in {folder} must be waited for, got the end of those beside it")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_taken(descriptor: int) -> bool:
    """Try to lock a folder: whether somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        pass
    return False


def _empty(folder: Path) -> None:
    """Remove what a run left; the folder itself stays, for its lock."""
    if any(folder.iterdir()) and not (folder / ARGUMENTS).is_file():
        raise UsageError(f"the folder of a run must be empty or hold {ARGUMENTS}, got {folder}")
    if (folder / "result.json").exists():
        print(f"the run in {folder} has other arguments or keys than today's: made anew", file=sys.stderr, flush=True)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == ARGUMENTS):  # what says whose it is, last
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _ended(command: Sequence[str], lock: int) -> tuple[int, str]:
    """Run a command to its end: the exit code, and what it said."""
    pipe = subprocess.PIPE
    with (
        environment() as variables,
        subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True, pass_fds=[lock]) as process,
        cleared(process.pid, folders_of(variables)),
    ):
        while True:
            try:
                out, err = process.communicate(timeout=_END_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if _ending.is_set():
                    process.terminate()
    return process.returncode, f"{err}\n{out}"


def _arguments(ranks: int, options: Sequence[str]) -> list[str]:
    return [__version__, str(ranks), *options]


def finished(folder: Path, arguments: Sequence[str]) -> dict[str, Any] | None:
    """The result of a run that ended, if it was started with these arguments, and its keys are those of today."""
    if not started(folder, arguments):
        return None
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("schema") == SCHEMA else None


def started(folder: Path, arguments: Sequence[str]) -> bool:
    """Whether the run of this folder was started with these arguments."""
    try:
        return bool(json.loads((folder / ARGUMENTS).read_text()) == list(arguments))
    except (OSError, ValueError):
        return False
