"""How seconds are taken, and how figures are got from other programs: what the comparisons share."""

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from fedmpi.errors import FedmpiError
from fedmpi.machines.launcher import environment
from fedmpi.runs.batch import reason_of

ROUNDS = 7


def fastest(
    *functions: Callable[[], Any], rounds: int = ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The shortest time of each function in seconds, over rounds in which they take turns.

    Parameters
    ----------
    clock : callable
        The time in seconds; `time.thread_time` for that of the processor, which other load hardly changes.
    """
    seconds = [float("inf")] * len(functions)
    for _ in range(rounds):
        for i, function in enumerate(functions):
            start = clock()
            function()
            seconds[i] = min(seconds[i], clock() - start)
    return seconds


def run_quietly(command: Sequence[str]) -> str:
    """What a program prints that ends with 0.

    Raises
    ------
    FedmpiError
        If it does not.
    """
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = reason_of(f"{done.stderr}\n{done.stdout}")
        raise FedmpiError(f"{shlex.join(command)} must end with 0, got {done.returncode}: {reason}")
    return done.stdout


def last_json(command: Sequence[str]) -> dict[str, Any]:
    """The last line of JSON that a program prints.

    Raises
    ------
    FedmpiError
        If it prints none, or does not end with 0.
    """
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        reason = reason_of(f"{done.stderr}\n{done.stdout}")
        raise FedmpiError(f"{shlex.join(command)} must print JSON and end with 0, got {done.returncode}: {reason}")
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures
