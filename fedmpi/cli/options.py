"""What `fedmpi run SYSTEM --help` says: the options that most runs need, or all that there are."""

import contextlib
import dataclasses
from typing import Any

from fedmpi.runs.commandline import read
from fedmpi.runs.flags import command_of
from fedmpi.runs.options import RunOptions
from fedmpi.system import System

COMMON = (
    "dataset",
    "label_column",
    "method",
    "out",
    "iterations",
    "rounds",
    "total_epochs",
    "seed",
    "privacy",
    "parallelization",
    "epsilon",
    "penalty",
    "clients",
    "model",
    "learning_rate",
    "test_file",
    "resume",
    "dry_run",
)
"""The ten common options of a system are the first that it has of these."""

_EXAMPLES = """
examples
  fedmpi run {name} -n 6
  fedmpi run {name} -n 6 -- --dataset mine.csv --label-column target --out run

fedmpi run {name} --help-all names the other {others} options, and those before `--`."""


def show_help(system: System, launcher: type[Any] | None) -> None:
    """Print the help of a system: its common options, or all of them and those of the launcher."""
    kind, prog = system.options(), f"fedmpi run {system.name} -n RANKS --"
    named = [field.name for one in (kind, RunOptions) for field in dataclasses.fields(one)]
    common = [name for name in COMMON if name in named][:10]
    command = command_of(kind, RunOptions, for_help=True, only=None if launcher else common)
    with contextlib.suppress(SystemExit):
        read(command, ["--help"], prog, system.description)
    if launcher:
        print()
        with contextlib.suppress(SystemExit):
            read(launcher, ["--help"], "fedmpi run")
    else:
        print(_EXAMPLES.format(name=system.name, others=len(named) - len(common)))
