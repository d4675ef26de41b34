"""What a program that starts a run in Python wants of it, beside what every run leaves in its folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Callback = Callable[[int, Mapping[str, Any]], Any]
"""(step, its metrics) → True to end the training with this step; anything else goes on."""


@dataclass
class Hooks:
    """Callbacks of a run, and where it was written to."""

    callbacks: Sequence[Callback] = ()
    """Called on rank 0 with each step that is recorded; what one raises ends the run."""
    silent: bool = False
    """Print nothing, not even the closing lines."""
    threads: bool = False
    """All ranks are threads of a program: it says nothing that they are on one machine, or that it began long ago."""
    stopped_at: int | None = field(default=None, init=False)
    """The step with which a callback has ended the training."""
    folder: Path | None = field(default=None, init=False)
    """Of the run, once it has begun."""

    def heard(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Tell all callbacks about a step."""
        for callback in self.callbacks:
            if callback(step, dict(metrics)) is True and self.stopped_at is None:
                self.stopped_at = step
