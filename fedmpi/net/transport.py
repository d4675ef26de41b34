"""What carries frames between ranks, and what a rank measures of it."""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from fedmpi.errors import ProtocolError

KEPT_TAGS = range(124, 128)
"""Messages of the channel itself, by which a job ends: they are never dropped."""


class Frame(Protocol):
    """A message of which the header is here and the arrays may still be on the way."""

    source: int

    @property
    def header(self) -> memoryview:
        """The bytes of the header, and perhaps others behind it."""
        ...

    def receive(self, header_size: int, arrays: list[NDArray[Any]]) -> None:
        """Start to fill the arrays. Raises ProtocolError where the payload is not of their size."""

    def done(self) -> bool:
        """Whether the arrays are filled."""
        ...


class RefusedFrame:
    """What came, or will come, from a rank that broke the protocol: an error for whoever looks at it."""

    def __init__(self, source: int, why: str):
        self.source = source
        self._why = why

    @property
    def header(self) -> memoryview:
        """Raise."""
        raise ProtocolError(self._why)

    def receive(self, header_size: int, arrays: list[NDArray[Any]]) -> None:
        """Raise."""
        raise ProtocolError(self._why)

    def done(self) -> bool:
        """Raise."""
        raise ProtocolError(self._why)


class Transport(Protocol):
    """Carries frames. Implemented by `fedmpi.net.local` and `fedmpi.net.mpi`."""

    rank: int
    size: int
    library: str
    """What carries the frames, for result.json."""

    def post(self, dest: int, tag: int, header: bytes, arrays: list[NDArray[Any]]) -> None:
        """Send without blocking; the arrays are the transport's own or never change."""

    def poll(self, tag: int, sources: Collection[int]) -> Frame | None:
        """The next frame with this tag from one of the sources, if one has arrived."""
        ...

    def outstanding_bytes(self, dest: int | None = None) -> int:
        """Bytes that were posted (to one rank) and that no receiver or network has taken over yet."""
        ...

    def failed(self) -> Collection[int]:
        """Ranks that are known to be dead."""
        ...

    def stopped(self, rank: int) -> bool:
        """Whether the process of a rank is seen to be stopped: on this machine, where no launcher looks after it."""
        ...

    def end(self, rank: int) -> None:
        """End the process of a rank that is stopped."""

    def forget(self, rank: int) -> None:
        """Drop what arrives from a rank, but for `KEPT_TAGS`, and count what was posted to it as taken over."""

    def discard(self) -> int | None:
        """Drop what arrived next: the number of messages dropped (0 for a part of one), None if there is nothing."""
        ...

    def pause(self, waited_seconds: float) -> None:
        """Let others run while there is nothing to do."""


@dataclass
class Meter:
    """What one rank did: seconds per phase, messages and bytes per type."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    bytes_sent: Counter[str] = field(default_factory=Counter)
    bytes_received: Counter[str] = field(default_factory=Counter)
    messages_sent: Counter[str] = field(default_factory=Counter)
    messages_received: Counter[str] = field(default_factory=Counter)
    late: int = 0
    """Messages that came too late to be of use, or a second time."""
    cpu_start: float = field(default_factory=time.thread_time)
    _phases: list[str] = field(default_factory=list)
    _phase_start: float = 0.0

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this role's thread so far."""
        return time.thread_time() - self.cpu_start

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the wall time of a block to a phase; of nested phases the inner one."""
        self._charge()
        self._phases.append(name)
        try:
            yield
        finally:
            self._charge()
            self._phases.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._phases:
            self.seconds[self._phases[-1]] += now - self._phase_start
        self._phase_start = now
