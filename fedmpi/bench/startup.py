"""How soon the command line answers: help, the version, and wrong command lines."""

import subprocess
import sys
from functools import partial

from fedmpi.bench.timing import fastest

LINES = (
    "--version",
    "--help",
    "rnu",
    "run niss --help",
    "run codedml -n 11 -- --lambda 3",
    "run niss -n 6 -- --model nosuch",
    "run spn -n 6 -- --dataset nosuch.csv",
    "run pbpfl -n 1",
)


def measure(rounds: int = 5) -> dict[str, dict[str, float]]:
    """Seconds of each command line, the shortest, and over those of a Python that does nothing.

    Parameters
    ----------
    rounds : int
        In which the lines take turns.
    """
    commands = [[sys.executable, "-c", "pass"], *([sys.executable, "-m", "fedmpi.cli", *x.split()] for x in LINES)]
    calls = [partial(subprocess.run, command, capture_output=True, check=False) for command in commands]
    nothing, *seconds = fastest(*calls, rounds=rounds)
    return {line: {"seconds": one, "over_python": one / nothing} for line, one in zip(LINES, seconds, strict=True)}


def table(figures: dict[str, dict[str, float]]) -> str:
    """A line for each command line."""
    return "\n".join(
        f"{values['seconds']:.2f} s  {values['over_python']:>5.1f} x python  fedmpi {line}"
        for line, values in figures.items()
    )
