"""A record of a job's first frames, from which its protocol can be drawn: types, directions and sizes, no contents."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fedmpi.net.message import Message
from fedmpi.net.transport import KEPT_TAGS

STEPS = 2
"""Iterations or rounds that are recorded."""

START, END = -1, -2
"""In place of a step: before the first one; after the recorded ones."""

_SAME = 2
"""Frames of one type to or from the same peer in one step, at most; of longer exchanges these stand for all."""

_LINES = 4096
"""Lines of one record, at most."""

_TOLD = 256
"""Lines that one rank tells another, at most."""


@dataclass(frozen=True)
class Line:
    """One frame, as one end of it saw it."""

    sent: bool
    """Else it was received."""
    peer: int
    type: str
    """Name of the message class."""
    step: int
    """Iteration or round, `START` or `END`."""
    size: int
    """Bytes, header included."""


@dataclass
class FrameRecord:
    """What one rank sent and received in the first steps, in its own order. Costs about a microsecond a message."""

    lines: list[Line] = field(default_factory=list)
    _steps: list[int] = field(default_factory=list)
    _now: int = START
    _kept: Counter[tuple[bool, int, str, int]] = field(default_factory=Counter)
    _types: set[tuple[bool, int, str]] = field(default_factory=set)

    def note(self, sent: bool, peer: int, message: Message, size: int) -> None:
        """Record a frame, if it is one of the first; the channel's own are not."""
        if message.tag in KEPT_TAGS or len(self.lines) >= _LINES:
            return
        name = type(message).__name__
        step = self._step_of(message, (sent, peer, name))
        if step is None:
            return
        key = sent, peer, name, step
        self._kept[key] += 1
        if self._kept[key] <= _SAME:
            self._types.add((sent, peer, name))
            self.lines.append(Line(sent, peer, name, step, size))

    def _step_of(self, message: Message, kind: tuple[bool, int, str]) -> int | None:
        """The message's own step, or else the one that this rank is in; None if it is too late for the record."""
        own = getattr(message, "iteration", getattr(message, "round", None))
        if own is None:
            return self._now if self._now != END or kind not in self._types else None
        if own not in self._steps:
            if len(self._steps) == STEPS:
                self._now = END
                return None
            self._steps.append(own)
        if self._now != END:
            self._now = own
        return int(own)

    def told(self, roles: Sequence[str]) -> str:
        """What rank 0 may know of it: what was exchanged with whom, by role and type, neither how many nor how large.

        Who shares with whom can be a secret of the protocol, and sizes and counts can tell it.

        Parameters
        ----------
        roles : sequence of str
            Rank → role.
        """
        told = dict.fromkeys((line.sent, roles[line.peer], line.type, line.step) for line in self.lines)
        lines = [f"{'>' if sent else '<'}\t{role}\t{name}\t{step}" for sent, role, name, step in list(told)[:_TOLD]]
        return "\n".join(lines)


def read_told(text: str, roles: Sequence[str]) -> Iterator[tuple[bool, str, str, int]]:
    """What another rank told: (sent, role of the other end, type, step); what can't be true is left out."""
    for line in text.split("\n")[:_TOLD]:
        direction, role, name, step = (line.split("\t") + [""] * 4)[:4]
        known = direction in ("<", ">") and role in roles and name.isidentifier() and len(name) <= 64
        if known and len(step) < 12 and step.removeprefix("-").isdecimal() and step.isascii():
            yield direction == ">", role, name, int(step)
