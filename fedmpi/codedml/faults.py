"""Faults that a worker inflicts on itself, for experiments: --inject slow=3:0.5s,kill=7@12,lie=4@20,drop=0.01."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedmpi.core import FieldArray, Residues
from fedmpi.errors import UsageError

_FORMS = {
    "slow": r"(?P<rank>\d+):(?P<amount>\d+(\.\d*)?|\.\d+)s(@(?P<first>\d+))?",
    "kill": r"(?P<rank>\d+)(@(?P<first>\d+))?",
    "lie": r"(?P<rank>\d+)(@(?P<first>\d+))?",
    "drop": r"((?P<rank>\d+):)?(?P<amount>\d+(\.\d*)?|\.\d+)(@(?P<first>\d+))?",
}
_EXAMPLES = "slow=RANK:SECONDSs, kill=RANK, lie=RANK or drop=SHARE, each with @ITERATION or without"


@dataclass(frozen=True)
class Fault:
    """What happens to a worker, from an iteration on."""

    kind: str
    rank: int | None
    """None: every worker."""
    first: int
    """Iteration."""
    amount: float = 0.0
    """Seconds of delay, or the share of answers that are lost."""


@dataclass(frozen=True)
class Faults:
    """All faults of one worker."""

    faults: tuple[Fault, ...] = ()
    kill: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)

    def strike(self, residues: Residues, iteration: int, answer: FieldArray) -> FieldArray | None:
        """What the worker sends instead of its answer, perhaps later or never; None for nothing."""
        sent: FieldArray | None = answer
        for fault in self.faults:
            if iteration < fault.first:
                continue
            if fault.kind == "kill":
                self.kill()
            if fault.kind == "slow":
                time.sleep(fault.amount)
            if fault.kind == "lie" and sent is not None:
                sent = residues.add(sent, np.ones_like(sent))
            if fault.kind == "drop" and np.random.default_rng().random() < fault.amount:
                sent = None
        return sent


NO_FAULTS = Faults()


def parse_faults(text: str | None) -> list[Fault]:
    """Read --inject.

    Raises
    ------
    UsageError
        If an entry has none of the forms.
    """
    faults = []
    for entry in text.split(",") if text else []:
        kind, _, value = entry.partition("=")
        found = re.fullmatch(_FORMS[kind], value) if kind in _FORMS else None
        if found is None:
            raise UsageError(f"--inject must have entries like {_EXAMPLES}, got {entry!r}")
        parts = found.groupdict()
        rank = None if parts["rank"] is None else int(parts["rank"])
        fault = Fault(kind, rank, int(parts["first"] or 0), float(parts.get("amount") or 0))
        if rank == 0:
            raise UsageError(f"--inject must name workers, which are the ranks from 1, got {entry!r}")
        if kind == "drop" and not fault.amount <= 1:
            raise UsageError(f"the share of lost answers must be in [0, 1], got {entry!r}")
        faults.append(fault)
    return faults


def faults_of(rank: int, text: str | None) -> Faults:
    """What --inject does to one worker."""
    return Faults(tuple(fault for fault in parse_faults(text) if fault.rank in (rank, None)))
