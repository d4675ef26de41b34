"""`attack`: reconstruct training data from gradients."""

import dataclasses
import sys
from typing import Annotated

import tyro

from fedmpi.cli.types import File
from fedmpi.machines.launcher import run_ranks


@dataclasses.dataclass(frozen=True)
class Attack:
    """Reconstruct training data from the gradients that a client shares; options of the attack stand behind `--`.

    Example: fedmpi attack -- --dataset cifar10 --attack dlg --defence dp --noise-std 0.01. Its options: fedmpi
    attack -- --help
    """

    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Ranks that attack, each another case."""
    hostfile: File = None
    """Hosts, one per line: `name slots=4`. Default: this machine alone."""

    def __call__(self, options: list[str]) -> int:
        """Start mpirun."""
        return run_ranks(self.ranks, [sys.executable, "-m", "fedmpi.attacks", *options], self.hostfile)
