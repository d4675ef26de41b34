"""What ranks that share one machine cost beyond what they compute, measured by a job of a few of them."""

import os
import sys
from dataclasses import dataclass
from functools import cache

from fedmpi.bench.timing import last_json
from fedmpi.machines.launcher import mpirun_command

WORKERS_PER_CORE, MOST_WORKERS = 4, 16


@dataclass(frozen=True)
class Together:
    """Processor seconds of a rank among others on the same cores; all of them 0: as if it cost nothing."""

    message: float = 0.0
    """Of rank 0, for one end of one message of an iteration."""
    wake: float = 0.0
    """Of another rank, to wait for a message, wake up and take it."""
    answer: float = 0.0
    """Of another rank, to send one back."""
    element: float = 0.0
    """Of another rank, for an element of its data: copied, unpacked into new memory and checked."""
    waiting: float = 0.0
    """Part of a core that a rank takes while it waits."""


@cache
def measure() -> Together:
    """Start a job here, with more ranks than cores, as in the runs that the cost model is compared with."""
    ranks = 1 + min(MOST_WORKERS, WORKERS_PER_CORE * (os.cpu_count() or 1))
    figures = last_json(mpirun_command(ranks, [sys.executable, "-m", "fedmpi.bench.ranks.together"])[0])
    return Together(**figures)
