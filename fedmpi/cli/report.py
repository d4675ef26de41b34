"""`report`: one page about runs."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fedmpi.cli.types import Folder
from fedmpi.errors import UsageError


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
