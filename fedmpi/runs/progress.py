"""Progress of a run: one live line on a terminal, a few plain lines otherwise."""

import os
import time
from collections.abc import Callable, Collection
from typing import Any

from fedmpi.errors import FilesError
from fedmpi.machines.launcher import TERMINAL_VARIABLE
from fedmpi.net.transport import Meter
from fedmpi.rules import printable, printable_lines
from fedmpi.runs.folder import RunFolder, warn_of_files

_CLEAR, _NO_WRAP, _WRAP = "\r\x1b[2K", "\x1b[?7l", "\x1b[?7h"
"""A terminal clears one row only: a line longer than that must not go on in the next."""


SOON_SECONDS = 5.0
"""Nobody asks how long less than that will last."""


def duration(seconds: float) -> str:
    """A time, for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class Progress:
    """Shows and records the steps of a run.

    Parameters
    ----------
    folder : RunFolder
        Each step becomes a line of its metrics.jsonl.
    steps : int
        How many there will be.
    quiet : bool
        Record only.
    heard : callable
        Called with each step and what is recorded of it.
    """

    def __init__(
        self,
        folder: RunFolder,
        steps: int,
        *,
        quiet: bool,
        heard: Callable[[int, dict[str, Any]], None] = lambda step, record: None,
    ):
        self.heard = heard
        self.folder, self.steps, self.quiet = folder, steps, quiet
        self.live = os.environ.get(TERMINAL_VARIABLE) == "1"
        self.every = max(1, steps // 10)
        self.start = time.perf_counter()
        self._said: list[str] = []
        self._written = False
        self.unwritten: FilesError | None = None
        """Why the last step that could not be recorded was not."""
        self._last = ""
        """The last line that was not printed."""
        self._first: tuple[int, float] | None = None
        """Number of the first step, and the time before it."""

    def say(self, text: str) -> None:
        """Print lines for people; they are logged with the first step, so that a refused run leaves no file."""
        if not self.quiet:
            end_live_line()
            print(printable_lines(text), flush=True)
        self._said += text.splitlines()

    def step(self, iteration: int, metrics: dict[str, float], meter: Meter, answers: Collection[str]) -> None:
        """Record the state at the start of an iteration or round; `answers` are the messages that count as such."""
        seconds = time.perf_counter() - self.start
        record = {"iteration": iteration, **metrics, "seconds": seconds}
        sent_bytes, late = meter.bytes_sent.total(), meter.late
        came = sum(meter.messages_received[name] for name in answers)
        record |= {"sent_bytes": sent_bytes, "answers": came, "late": late}
        self._write(record)
        self.heard(iteration, record)
        if self.quiet:
            return
        values = "".join(f"{name.replace('_', ' ')} {value:.4f}  " for name, value in metrics.items())
        time_text = f"{seconds:.1f} s{self._left(iteration, seconds)}"
        line = printable(
            f"{iteration:>5}/{self.steps}  {values}{time_text}  {sent_bytes / 1e6:.1f} MB  {came} answers, {late} late"
        )
        if self.live:
            print(f"{_CLEAR}{_NO_WRAP}{line}{_WRAP}", end="", flush=True)
            _open_lines.append(line)
        elif iteration == self.steps or iteration % self.every == 0:
            print(line, flush=True)
            self._last = ""
        else:
            self._last = line

    def _write(self, record: dict[str, Any]) -> None:
        """Record a step; what can't be written ends no training that has begun."""
        try:
            while self._said:
                self.folder.log(self._said[0])
                self._said.pop(0)
            self.folder.append_metrics(record)
            self._written = True
        except FilesError as error:
            if not self._written:
                raise
            if self.unwritten is None:
                warn_of_files(error)
            self.unwritten = error

    def _left(self, iteration: int, seconds: float) -> str:
        """How long it may take to the last step, for people; nothing where that is soon, or not known yet."""
        first, begun = self._first = self._first or (iteration, seconds)
        if iteration <= first:
            return ""
        left = (self.steps - iteration) * (seconds - begun) / (iteration - first)
        return f", about {duration(left)} left" if left >= SOON_SECONDS else ""

    def end(self) -> None:
        """Print the last step too, if the run ended before the number of steps that was expected."""
        if self._last and not self.quiet:
            print(self._last, flush=True)
        self._last = ""


_open_lines: list[str] = []
"""What stands on the terminal without a newline behind it."""


def end_live_line() -> None:
    """Print the newline that the live line of this process lacks: before anything else is printed, errors too."""
    if _open_lines:
        _open_lines.clear()
        print(flush=True)
