"""`watch`: follow a run that is still going on."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro


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
        from fedmpi.report.watch import LOGGERS, watch
        from fedmpi.runs.reading import read_runs

        read_runs([self.run])
        watch(self.run, lambda line: print(line, flush=True), [LOGGERS[name](self.run) for name in self.log])
        return 0
