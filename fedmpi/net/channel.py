"""The channel a role speaks through: typed, metered, every wait with a deadline."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FedmpiError, PeerFailed, ProtocolError
from fedmpi.net.message import Header, Message, Shape, decode, encode

M = TypeVar("M", bound=Message)
R = TypeVar("R")

NO_SHAPES: Mapping[str, Shape] = {}
NO_MATCH: Mapping[str, bool | int | str] = {}


class Notice(Message, tag=127):
    """A rank that fails → everybody: why, and the exit code to end with."""

    code: int
    reason: str


class Closing(Message, tag=126):
    """Any rank → rank 0: all my sends have arrived. Rank 0 → all: everybody's have."""


class Frame(Protocol):
    """A message of which the header is here and the arrays may still be on the way."""

    source: int
    header: memoryview

    def receive(self, header_size: int, arrays: list[NDArray[Any]]) -> None:
        """Start to fill the arrays. Raises ProtocolError where the payload is not of their size."""

    def done(self) -> bool:
        """Whether the arrays are filled."""
        ...


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

    def outstanding_bytes(self) -> int:
        """Bytes that were posted and that no receiver or network has taken over yet."""
        ...

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

    @property
    def cpu_seconds(self) -> float:
        """CPU time of this role's thread so far."""
        return time.thread_time() - self.cpu_start


@dataclass(eq=False)
class _UnderWay:
    """A message that is being received, and the call of gather_first that began it."""

    frame: Frame
    header: Header
    arrays: dict[str, NDArray[Any]]
    gather: int


class Channel:
    """One rank's end of all links.

    Parameters
    ----------
    transport : Transport
    timeout_seconds : float
        No wait lasts longer without anything arriving.
    limit_bytes : int
        Arrays of one message, at most.
    role_of : callable
        rank → role, for messages to people.
    record_views : bool
        Keep every message received, for `save_views`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_seconds: float = 600.0,
        limit_bytes: int = 1 << 32,
        role_of: Callable[[int], str] = lambda rank: "master" if rank == 0 else "worker",
        record_views: bool = False,
    ):
        self.transport = transport
        self.rank, self.size = transport.rank, transport.size
        self.timeout_seconds = timeout_seconds
        self.limit_bytes = limit_bytes
        self.role_of = role_of
        self.record_views = record_views
        self.meter = Meter()
        self._views: list[tuple[int, Message]] = []
        self._under_way: list[_UnderWay] = []
        self._gathers = 0
        self.failure: PeerFailed | None = None
        """What another rank said when it failed, if one did."""
        self._phases: list[str] = []
        self._phase_start = 0.0

    # -- sending ----------------------------------------------------------------------------------------------

    def send(self, dest: int, message: Message) -> None:
        """Send without blocking. Arrays may change afterwards: they are copied, unless they are marked read-only."""
        header, arrays = encode(message)
        owned = [array.copy() if array.flags.writeable else array for array in arrays]
        name = type(message).__name__
        self.meter.bytes_sent[name] += len(header) + sum(array.nbytes for array in owned)
        self.meter.messages_sent[name] += 1
        self.transport.post(dest, message.tag, header, owned)

    def flush(self, limit_bytes: int = 0) -> None:
        """Wait until at most `limit_bytes` of what was sent are still on the way: bounds the memory of a sender."""
        self._wait(lambda: self.transport.outstanding_bytes() <= limit_bytes or None, "room for what was sent", None)

    # -- receiving --------------------------------------------------------------------------------------------

    def recv(self, source: int, cls: type[M], *, shapes: Mapping[str, Shape] = NO_SHAPES) -> M:
        """The next message of this type from `source`.

        Parameters
        ----------
        shapes : mapping, optional
            Field → the shape its array must have, checked before memory is allocated.

        Raises
        ------
        ProtocolError
            If something else came.
        PeerFailed
            If a peer failed, or nothing came until the deadline.
        """
        frame = self._wait(lambda: self.transport.poll(cls.tag, (source,)), cls.__name__, source)
        return self._receive_any(frame, cls, shapes)

    def recv_any(
        self,
        source: int,
        classes: Sequence[type[Message]],
        *,
        shapes: Mapping[str, Shape] = NO_SHAPES,
        patient: bool = False,
    ) -> Message:
        """The next message of one of these types from `source`; of several that are there, the type named first.

        With `patient` there is no deadline: for an idle rank, which ends when the source does.
        """

        def first() -> tuple[Frame, type[Message]] | None:
            for cls in classes:
                if (frame := self.transport.poll(cls.tag, (source,))) is not None:
                    return frame, cls
            return None

        since = time.monotonic if patient else None
        frame, cls = self._wait(first, " or ".join(cls.__name__ for cls in classes), source, since)
        return self._receive_any(frame, cls, shapes)

    def recv_latest(
        self,
        source: int,
        cls: type[M],
        *,
        until: type[Message],
        shapes: Mapping[str, Shape] = NO_SHAPES,
        **match: bool | int | str,
    ) -> M | None:
        """The newest message whose fields equal `match`, others dropped; None once an `until` message has come."""

        def newest() -> tuple[M | None] | None:
            if (end := self.transport.poll(until.tag, (source,))) is not None:
                self._receive_any(end, until, NO_SHAPES)
                return (None,)
            latest = None
            while (frame := self.transport.poll(cls.tag, (source,))) is not None:
                message = self._receive(frame, cls, shapes, match)
                if message is None or latest is not None:
                    self.meter.late += 1
                latest = message or latest
            return None if latest is None else (latest,)

        return self._wait(newest, cls.__name__, source)[0]

    def gather(
        self, sources: Collection[int], cls: type[M], *, shapes: Mapping[str, Shape] = NO_SHAPES
    ) -> dict[int, M]:
        """One message of this type from every source, as they come."""
        return self.gather_first(len(sources), sources, cls, shapes=shapes)

    def gather_first(
        self,
        count: int,
        sources: Collection[int],
        cls: type[M],
        *,
        shapes: Mapping[str, Shape] = NO_SHAPES,
        **match: bool | int | str,
    ) -> dict[int, M]:
        """The first `count` messages whose fields equal `match`, each from another source.

        Others (late answers to an earlier request, second answers) are dropped and counted in `meter.late`.
        """
        answers: dict[int, M] = {}
        last_arrival = time.monotonic()
        self._gathers += 1

        def begin() -> None:
            # A peer that ran ahead may have sent what a later call will ask for: one from each source at a time.
            waiting = set(sources) - answers.keys() - {entry.frame.source for entry in self._under_way}
            while waiting and (frame := self.transport.poll(cls.tag, waiting)) is not None:
                waiting.discard(frame.source)
                self._under_way.append(_UnderWay(frame, *self._start(frame, cls, shapes, match), self._gathers))

        def complete() -> dict[int, M] | None:
            nonlocal last_arrival
            begin()
            while done := [entry for entry in self._under_way if entry.frame.done()]:
                last_arrival = time.monotonic()
                for entry in done:
                    self._under_way.remove(entry)
                    message = self._finish(entry.frame, entry.header, entry.arrays)
                    wanted = entry.gather == self._gathers and entry.header.matches(match)
                    if wanted and isinstance(message, cls) and len(answers) < count:
                        answers[entry.frame.source] = message
                    else:
                        self.meter.late += 1
                begin()  # a good answer may stand behind a stale one
            return answers if len(answers) >= count else None

        def missing() -> int | None:
            return next((source for source in sources if source not in answers), None)

        return self._wait(complete, cls.__name__, missing, lambda: last_arrival)

    def _start(
        self, frame: Frame, cls: type[Message], shapes: Mapping[str, Shape], match: Mapping[str, bool | int | str]
    ) -> tuple[Header, dict[str, Any]]:
        header = decode(cls, frame.header, frame.source)
        # What does not match will be dropped: it may be of another training, where other shapes were right.
        header.check(frame.source, shapes if header.matches(match) else NO_SHAPES, self.limit_bytes)
        arrays = header.allocate()
        frame.receive(header.size, list(arrays.values()))
        return header, arrays

    def _finish(self, frame: Frame, header: Header, arrays: dict[str, NDArray[Any]]) -> Message:
        name = header.cls.__name__
        self.meter.bytes_received[name] += header.size + header.payload_bytes
        self.meter.messages_received[name] += 1
        message = header.message(arrays)
        if self.record_views:
            self._views.append((frame.source, message))
        return message

    def _receive(
        self,
        frame: Frame,
        cls: type[M],
        shapes: Mapping[str, Shape],
        match: Mapping[str, bool | int | str] = NO_MATCH,
    ) -> M | None:
        """The message, or None if it does not match."""
        header, arrays = self._start(frame, cls, shapes, match)
        self._wait(lambda: frame.done() or None, f"the rest of {cls.__name__}", frame.source)
        message = self._finish(frame, header, arrays)
        return message if header.matches(match) else None  # type: ignore[return-value]

    def _receive_any(self, frame: Frame, cls: type[M], shapes: Mapping[str, Shape]) -> M:
        message = self._receive(frame, cls, shapes)
        assert message is not None
        return message

    # -- waiting and failing ----------------------------------------------------------------------------------

    def _wait(
        self,
        ready: Callable[[], R | None],
        what: str,
        peer: int | Callable[[], int | None] | None,
        since: Callable[[], float] | None = None,
        heed_notices: bool = True,
    ) -> R:
        start = time.monotonic()
        while (result := ready()) is None:
            if heed_notices:
                if self.failure is not None:  # and what arrived before the notice has been looked at
                    raise self.failure
                self.failure = self.poll_notice()
            now = time.monotonic()
            if now - (since() if since else start) > self.timeout_seconds:
                rank = peer() if callable(peer) else peer
                if rank is None:
                    message = f"waited {self.timeout_seconds:g} s for {what}"
                    raise PeerFailed(self.rank, self.role_of(self.rank), message)
                raise PeerFailed(rank, self.role_of(rank), f"sent no {what} for {self.timeout_seconds:g} s")
            self.transport.pause(now - start)
        return result

    def poll_notice(self) -> PeerFailed | None:
        """What the next rank said that failed, if one has."""
        frame = self.transport.poll(Notice.tag, range(self.size))
        if frame is None:
            return None
        try:
            notice = decode(Notice, frame.header, frame.source).scalars
        except ProtocolError as error:  # raised nowhere: this is also asked while another error ends the job
            notice = {"code": error.exit_code, "reason": str(error)}
        code = notice["code"]
        if not 0 < code < 256 and not code == frame.source == 0:  # only rank 0 can end the job without an error
            code = 4
        return PeerFailed(frame.source, self.role_of(frame.source), f"failed: {notice['reason']}", code)

    def fail(self, error: BaseException, code: int = 4) -> None:
        """Tell everybody that this rank can't go on, and the exit code to end with."""
        for rank in range(self.size):
            if rank != self.rank:
                self.send(rank, Notice(code, describe(error)[:1000]))

    def close(self) -> None:
        """Leave when everybody's messages have arrived; late ones are dropped, so that no sender is left waiting."""

        def drained(done: Callable[[], R | None]) -> Callable[[], R | None]:
            def ready() -> R | None:
                result = done()
                if result is None:
                    self._under_way = [entry for entry in self._under_way if not entry.frame.done()]
                    while (dropped := self.transport.discard()) is not None:
                        self.meter.late += dropped
                return result

            return ready

        others = set(range(self.size)) - {self.rank}
        closed: set[int] = set()

        def all_closing() -> bool | None:
            while (frame := self.transport.poll(Closing.tag, others)) is not None:
                closed.add(frame.source)
            return True if closed >= (others if self.rank == 0 else {0}) else None

        arrived: Callable[[], bool | None] = lambda: self.transport.outstanding_bytes() == 0 or None  # noqa: E731
        sent = "room for what was sent"
        self._wait(drained(arrived), sent, None, heed_notices=False)
        if self.rank != 0:
            self.send(0, Closing())
        self._wait(drained(all_closing), "Closing", lambda: next(iter(others - closed), None), heed_notices=False)
        if self.rank == 0:
            for rank in others:
                self.send(rank, Closing())
        self._wait(arrived, sent, None, heed_notices=False)

    # -- measuring --------------------------------------------------------------------------------------------

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
            self.meter.seconds[self._phases[-1]] += now - self._phase_start
        self._phase_start = now

    @contextmanager
    def patience(self, timeout_seconds: float) -> Iterator[None]:
        """Another deadline for the waits of a block."""
        before, self.timeout_seconds = self.timeout_seconds, timeout_seconds
        try:
            yield
        finally:
            self.timeout_seconds = before

    def save_views(self, folder: Path) -> None:
        """Write all messages received to rank-<r>.npz, keys <sequence>-<source>-<Message>-<field>."""
        values = {}
        for sequence, (source, message) in enumerate(self._views):
            for name in type(message)._types:
                value = getattr(message, name)
                # numpy's own bytes drop trailing zeros
                array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
                values[f"{sequence:06d}-{source}-{type(message).__name__}-{name}"] = array
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"rank-{self.rank}.npz", **values)  # type: ignore[arg-type]


def describe(error: BaseException) -> str:
    """One printable line about an error; for one that nobody foresaw, its type and place too."""
    text = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
    if isinstance(error, FedmpiError):
        return text
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = f" ({traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno})" if traceback else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
