"""How much of an experiment is run: --quick or --full."""

from typing import Protocol


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
