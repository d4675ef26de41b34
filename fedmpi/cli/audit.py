"""`audit`: what each role of a finished run can find out."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fedmpi.cli.types import Folder, Loggers
from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Audit:
    """Attack what each role of a run received (made with --record-views), and print what came of it.

    Example: fedmpi audit --all --quick
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN …", help_behavior_hint="")] = ()
    """Folders of runs; those of one method that differ in their data are compared. Default: with --all,
    runs of its own."""
    all: bool = False
    """Make small runs of every system, and attack them; finished runs are kept."""
    quick: bool = False
    """With --all: 2 seeds, minutes on two cores, in place of 6."""
    out: Folder = None
    """Folder of the report. Default: audit/ in the first RUN; with --all, of runs and report:
    runs/audit-quick or -full."""

    log: Loggers = ()
    """Pass the part of successes of each attack on to tensorboard, mlflow, wandb, or to a logger of another package.
    Default: to none."""

    def __call__(self, options: list[str]) -> int:
        """Attack, and print where the report is."""
        from fedmpi.audit import campaign, command

        if self.all == bool(self.runs) or (self.quick and not self.all):
            raise UsageError("either folders of runs or --all [--quick] must be given, and not both")
        if not self.all:
            print(f"written to {command.audit(self.runs, self.out, self.log)}")
            return 0
        scale = campaign.QUICK if self.quick else campaign.FULL
        print(f"written to {command.audit_all(scale, self.out or Path('runs') / f'audit-{scale.name}', self.log)}")
        return 0
