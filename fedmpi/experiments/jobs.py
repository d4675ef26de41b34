"""Trainings under mpirun that are not run again once they are finished."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedmpi import __version__
from fedmpi.errors import FedmpiError, UsageError
from fedmpi.launcher import environment, mpirun_command

ARGUMENTS = "arguments.json"
"""Written before a run starts: what it was started with, and whose folder it is."""

on_finished: list[Callable[[], None]] = []
"""Called after each run: for a bar that shows how far the experiments have come."""


def train(
    folder: Path, ranks: int, options: Sequence[str], system: str = "codedml", *, resume: bool = False
) -> dict[str, Any]:
    """Run a system and return its result.json.

    Parameters
    ----------
    folder : Path
        Of the run. One that was interrupted, or that had other arguments, is emptied and run again.
    resume : bool
        Let one that was interrupted go on from its last checkpoint, if it has one.

    Raises
    ------
    FedmpiError
        If the run fails, with its own message.
    UsageError
        If the folder is not one of ours.
    """
    arguments = [__version__, str(ranks), *options]
    if (result := finished(folder, arguments)) is not None:
        _tell()
        return result
    goes_on = resume and started(folder, arguments) and any((folder / "checkpoints").glob("*.sha256"))
    if folder.exists() and not goes_on:
        if any(folder.iterdir()) and not (folder / ARGUMENTS).is_file():
            raise UsageError(f"the folder of a run must be empty or hold {ARGUMENTS}, got {folder}")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=goes_on)
    (folder / ARGUMENTS).write_text(json.dumps(arguments))
    where = ["--resume" if goes_on else "--out", str(folder)]
    program = [sys.executable, "-m", f"fedmpi.{system}", *options, "--quiet", *where]
    command, _ = mpirun_command(ranks, program)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(), stdout=pipe, stderr=pipe, text=True) as process:
        out, err = process.communicate()  # after Ctrl-C mpirun, which gets it too, has the time to end its ranks
    if process.returncode != 0 or (result := finished(folder, arguments)) is None:
        said = [line for line in err.splitlines() + out.splitlines() if "error" in line.lower()]
        reason = said[0].removeprefix("fedmpi: error: ") if said else "it said nothing"
        raise FedmpiError(f"the run in {folder} must end with 0, got {process.returncode}: {reason}")
    _tell()
    return result


def finished(folder: Path, arguments: Sequence[str]) -> dict[str, Any] | None:
    """The result of a run that ended, if it was started with these arguments."""
    if not started(folder, arguments):
        return None
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result


def started(folder: Path, arguments: Sequence[str]) -> bool:
    """Whether the run of this folder was started with these arguments."""
    try:
        return bool(json.loads((folder / ARGUMENTS).read_text()) == list(arguments))
    except (OSError, ValueError):
        return False


def _tell() -> None:
    for call in on_finished:
        call()
