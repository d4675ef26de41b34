"""`report`: one page about runs."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fedmpi.cli.types import Folder, Loggers
from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about runs, side by side, with their curves as PNG and numbers as CSV.

    Example: fedmpi report runs/codedml-coded-20261121-105631
    """

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN …", help_behavior_hint="(required)")
    ]
    """Folders of runs, or of studies, which have theirs in runs/."""
    out: Folder = None
    """Folder of the report. Default: report/ in the first RUN."""
    log: Loggers = ()
    """Pass all that the runs hold on to tensorboard, mlflow, wandb, or to a logger of another package. Default:
    to none."""

    def __call__(self, options: list[str]) -> int:
        """Write it, and print where it is."""
        from fedmpi.report import write_report
        from fedmpi.runs.loggers import log_runs
        from fedmpi.runs.reading import runs_in

        if not self.runs:
            raise UsageError("report must be given the folders of runs, got none")
        runs = {run: folder for folder in self.runs for run in runs_in(folder)}
        out = self.out if self.out is not None else self.runs[0] / "report"
        print(f"written to {write_report(list(runs), out)}")
        for folder in self.runs if self.log else ():
            own = [run for run, of in runs.items() if of == folder]
            log_runs(self.log, own, folder.resolve().name if own != [folder] else "")
        return 0
