"""`attack`: reconstruct training data from gradients."""

import dataclasses
import sys
from typing import Annotated

import tyro

from fedmpi.cli.types import File
from fedmpi.machines.launcher import run_ranks
from fedmpi.system import require


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
        """Check what can be checked at once, and start mpirun."""
        from fedmpi.attacks.params import DESCRIPTION, Params
        from fedmpi.learn.names import check_name
        from fedmpi.runs.foresight import check_device, check_files
        from fedmpi.runs.options import parse

        params, asked = parse(Params, options, "fedmpi attack --", DESCRIPTION)
        check_name(params.model)
        asked.check_own(options, params.model)
        if self.hostfile is None:
            require("attacks", "torch")
            check_files(asked)
            check_device(params.device)
        return run_ranks(self.ranks, [sys.executable, "-m", "fedmpi.attacks", *options], self.hostfile)
