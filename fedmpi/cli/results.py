"""What becomes of finished and running runs: `audit`, `report`, `watch`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fedmpi.cli.flags import Folder
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

    def __call__(self, options: list[str]) -> int:
        """Attack, and print where the report is."""
        from fedmpi.audit import campaign, command

        if self.all == bool(self.runs) or (self.quick and not self.all):
            raise UsageError("either folders of runs or --all [--quick] must be given, and not both")
        if not self.all:
            print(f"written to {command.audit(self.runs, self.out)}")
            return 0
        scale = campaign.QUICK if self.quick else campaign.FULL
        print(f"written to {command.audit_all(scale, self.out or Path('runs') / f'audit-{scale.name}')}")
        return 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about runs, side by side, with their curves as PNG and numbers as CSV.

    Example: fedmpi report runs/codedml-coded-20261121-105631
    """

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN …", help_behavior_hint="(required)")
    ]
    """Folders of runs."""
    out: Folder = None
    """Folder of the report. Default: report/ in the first RUN."""

    def __call__(self, options: list[str]) -> int:
        """Write it, and print where it is."""
        from fedmpi.report import write_report

        if not self.runs:
            raise UsageError("report must be given the folders of runs, got none")
        print(f"written to {write_report(list(self.runs), self.out)}")
        return 0


@dataclasses.dataclass(frozen=True)
class Watch:
    """Follow a run from its folder until it is done; Ctrl-C ends it for a run that was stopped.

    Example: fedmpi watch runs/codedml-coded-20261121-105631 --log tensorboard
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    log: Annotated[tuple[Literal["tensorboard", "wandb"], ...], tyro.conf.arg(help_behavior_hint="")] = ()
    """Pass each step on: tensorboard writes RUN/tensorboard, wandb to where its environment variables say. Default:
    to none."""

    def __call__(self, options: list[str]) -> int:
        """Print each step; Ctrl-C ends it, and not the run."""
        from fedmpi.report.folders import read_runs
        from fedmpi.report.watch import LOGGERS, watch

        read_runs([self.run])
        watch(self.run, lambda line: print(line, flush=True), [LOGGERS[name](self.run) for name in self.log])
        return 0
