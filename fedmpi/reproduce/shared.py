"""What the papers' folders share: how much is run, where the data sets are, and how a report is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fedmpi.data import catalogue


class Scale(Protocol):
    """The settings of one experiment."""

    @property
    def name(self) -> str:
        """Quick or full."""

    @property
    def summary(self) -> str:
        """What they are, for people."""


def introduced(scale: Scale, full: Scale) -> str:
    """What was run, and what all of it would be: a paragraph of report.md."""
    said = f"`--{scale.name}`: {scale.summary}."
    return said if scale == full else f"**{said}** The whole, `--{full.name}`: {full.summary}."


def present(data_dir: Path | None) -> set[str]:
    """The names of the data sets that are on this machine."""
    return {entry.name for entry in catalogue(data_dir) if entry.present}


def data_options(data_dir: Path | None) -> list[str]:
    """The options that tell a run where the data sets are."""
    return ["--data-dir", str(data_dir)] if data_dir else []


def write_report(out: Path, sections: Sequence[str]) -> Path:
    """Write report.md; pictures and tables lie beside it."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path
