"""`watch`: follow a run that is still going on."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fedmpi.cli.types import Loggers
from fedmpi.rules import printable_lines


@dataclasses.dataclass(frozen=True)
class Watch:
    """Follow a run until it is done or has stopped, then say how to go on; or the runs of a study, one by one.

    Example: fedmpi watch runs/codedml-coded-20261121-105631 --log tensorboard
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or of a study, which has its runs in runs/."""
    log: Loggers = ()
    """Pass each step on to tensorboard (RUN/tensorboard), mlflow (mlruns/ here), wandb (RUN/wandb, offline), or to a
    logger of another package. Default: to none."""

    def __call__(self, options: list[str]) -> int:
        """Print each step; Ctrl-C ends it, and not the run."""
        from fedmpi.report.watch import watch
        from fedmpi.runs.loggers import opened
        from fedmpi.runs.reading import read_runs, runs_in

        runs = runs_in(self.run)
        read_runs(runs)
        for run in runs:
            if len(runs) > 1:
                print(f"{run}:", flush=True)
            loggers = opened(self.log, run, self.run.resolve().name if runs != [self.run] else "")
            watch(run, lambda line: print(printable_lines(line), flush=True), loggers)
            for logger in loggers:
                logger.close()
        return 0
