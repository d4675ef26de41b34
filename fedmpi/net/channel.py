"""The channel a role speaks through: typed, metered, every wait with a deadline."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FilesError, PeerFailed, ProtocolError
from fedmpi.files import PRIVATE, PRIVATE_FOLDER, own_folder, replacing
from fedmpi.net.endpoint import Endpoint
from fedmpi.net.message import Header, Message, Shape, decode
from fedmpi.net.transport import Frame, Transport

M = TypeVar("M", bound=Message)
R = TypeVar("R")

NO_SHAPES: Mapping[str, Shape] = {}
NO_MATCH: Mapping[str, bool | int | str] = {}
NO_ANSWERS: Mapping[int, Any] = {}


def no_judge(source: int, message: Any) -> None:
    """Takes every message whose fields keep their rules."""


CLOSE_SECONDS = 10.0
"""How long rank 0 waits at the end for ranks whose failure is tolerated."""


LINGER_SECONDS = 2.0
"""How long a rank waits at the end for those of whom not much is to be expected."""


class Closing(Message, tag=126):
    """Any rank → rank 0: all my sends have arrived. Rank 0 → all: everybody's have, and whether nobody departed."""

    complete: bool


@dataclass(eq=False)
class _UnderWay:
    """A message that is being received, and the call of gather_first that began it."""

    frame: Frame
    header: Header
    arrays: dict[str, NDArray[Any]]
    gather: int


class Channel(Endpoint):
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
        super().__init__(transport, timeout_seconds=timeout_seconds, role_of=role_of)
        self.limit_bytes = limit_bytes
        self.record_views = record_views
        self._views: list[tuple[int, Message]] = []
        self._under_way: list[_UnderWay] = []
        self._gathers = 0
        self._surplus: dict[int, Any] = {}  # good answers to the latest gather, beyond what it asked for

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
        self,
        sources: Collection[int],
        cls: type[M],
        *,
        shapes: Mapping[str, Shape] = NO_SHAPES,
        judge: Callable[[int, M], None] = no_judge,
    ) -> dict[int, M]:
        """One message of this type from every source, as they come."""
        return self.gather_first(len(sources), sources, cls, shapes=shapes, judge=judge)

    def gather_first(
        self,
        count: int,
        sources: Collection[int],
        cls: type[M],
        *,
        shapes: Mapping[str, Shape] = NO_SHAPES,
        more_than: Mapping[int, M] = NO_ANSWERS,
        heard: Callable[[int, Mapping[str, Any]], None] = lambda source, scalars: None,
        judge: Callable[[int, M], None] = no_judge,
        **match: bool | int | str,
    ) -> dict[int, M]:
        """The first `count` messages whose fields equal `match`, each from another source.

        Others (late answers to an earlier request, second answers) are dropped and counted in `meter.late`.

        Parameters
        ----------
        more_than : mapping, optional
            What an earlier call with the same `match` returned: counted, and returned again.
        heard : callable, optional
            Called with the source and the scalars of every message, late ones included.
        judge : callable, optional
            (source, message) → None; raises ProtocolError about what its receiver knows to be untrue. A tolerated
            source departs with it.

        Raises
        ------
        TooFewWorkers
            Once so many tolerated sources have departed that `count` messages can't come any more.
        PeerFailed
            If a source that is not tolerated failed, or sent nothing until the deadline.
        """
        answers: dict[int, M] = dict(more_than)
        last_arrival = time.monotonic()
        if more_than:
            answers |= {source: self._surplus[source] for source in self._present(self._surplus)}
        else:
            self._begin_gather()
        silent = self._silent(sources, answers)

        def complete() -> dict[int, M] | None:
            nonlocal last_arrival
            if self._collect(answers, count, sources, silent, cls, shapes, heard, match, judge):
                last_arrival = time.monotonic()
            if len(answers) >= count:
                return answers
            if self.departed and len(answers) + len(set(self._present(sources)) - answers.keys()) < count:
                raise self._too_few(cls.__name__, count, sources)
            return None

        def missing() -> int | None:
            return next((source for source in self._present(sources) if source not in answers), None)

        try:
            return self._wait(complete, cls.__name__, missing, lambda: last_arrival)
        except PeerFailed as failed:
            if self.failure is not None or failed.rank not in self.tolerated:
                raise
            for rank in set(self._present(sources)) - answers.keys():
                self.depart(self._peer_failed(rank, failed.reason))
            raise self._too_few(cls.__name__, count, sources) from None

    def gather_within(
        self,
        seconds: float,
        sources: Collection[int],
        cls: type[M],
        *,
        shapes: Mapping[str, Shape] = NO_SHAPES,
        judge: Callable[[int, M], None] = no_judge,
        **match: bool | int | str,
    ) -> dict[int, M]:
        """One message whose fields equal `match` of every source that has not departed and answers in time."""
        answers: dict[int, M] = {}
        end = time.monotonic() + seconds
        self._begin_gather()
        silent = self._silent(sources, answers)

        def complete() -> dict[int, M] | None:
            self._collect(
                answers, len(sources), sources, silent, cls, shapes, lambda source, scalars: None, match, judge
            )
            done = set(self._present(sources)) <= answers.keys() or time.monotonic() >= end
            return answers if done else None

        with self.patience(seconds + self.timeout_seconds):  # `complete` keeps the time
            return self._wait(complete, cls.__name__, None)

    def _silent(self, sources: Collection[int], answers: Mapping[int, M]) -> set[int]:
        """Those of whom nothing is under way: a peer that ran ahead may have sent what a later call will ask for."""
        return set(self._present(sources)) - answers.keys() - {entry.frame.source for entry in self._under_way}

    def _collect(
        self,
        answers: dict[int, M],
        count: int,
        sources: Collection[int],
        silent: set[int],
        cls: type[M],
        shapes: Mapping[str, Shape],
        heard: Callable[[int, Mapping[str, Any]], None],
        match: Mapping[str, bool | int | str],
        judge: Callable[[int, M], None],
    ) -> bool:
        """Take what has arrived, one message from each of the silent at a time; whether something had."""
        arrived = False
        silent.difference_update(self.departed)
        while True:
            while silent and (frame := self.transport.poll(cls.tag, silent)) is not None:
                silent.discard(frame.source)
                try:
                    self._under_way.append(_UnderWay(frame, *self._start(frame, cls, shapes, match), self._gathers))
                except ProtocolError as error:
                    self._blame(frame.source, error)
            done: list[_UnderWay] = []
            others: list[_UnderWay] = []
            for entry in self._under_way:
                try:
                    (done if entry.frame.done() else others).append(entry)
                except ProtocolError as error:
                    self._blame(entry.frame.source, error)
            self._under_way = [entry for entry in others if entry.frame.source not in self.departed]
            if not done:
                return arrived
            arrived = True
            for entry in done:
                source = entry.frame.source
                message = self._finish(entry.frame, entry.header, entry.arrays)
                heard(source, entry.header.scalars)
                wanted = entry.gather == self._gathers and entry.header.matches(match)
                if wanted and isinstance(message, cls):
                    try:
                        message.check(source)
                        judge(source, message)
                    except ProtocolError as error:
                        self._blame(source, error)
                        continue
                    if len(answers) < count:
                        answers[source] = message
                        continue
                self.meter.late += 1
                if wanted:
                    self._surplus[source] = message
                elif source in sources and source not in answers:
                    silent.add(source)  # a good answer may stand behind a stale one

    def _begin_gather(self) -> None:
        self._gathers += 1
        self._surplus.clear()

    def _blame(self, source: int, error: ProtocolError) -> None:
        """Let a tolerated rank that broke the protocol depart."""
        if source not in self.tolerated:
            raise error
        self.depart(self._peer_failed(source, f"broke the protocol: {error}"))

    def _start(
        self, frame: Frame, cls: type[Message], shapes: Mapping[str, Shape], match: Mapping[str, bool | int | str]
    ) -> tuple[Header, dict[str, Any]]:
        self.begun = time.monotonic()
        header = decode(cls, frame.header, frame.source)
        # What does not match will be dropped: it may be of another training, where other shapes were right.
        header.check(frame.source, shapes if header.matches(match) else NO_SHAPES, self.limit_bytes)
        arrays = header.allocate()
        frame.receive(header.size, list(arrays.values()))
        return header, arrays

    def _finish(self, frame: Frame, header: Header, arrays: dict[str, NDArray[Any]]) -> Message:
        name = header.cls.__name__
        self.silent.discard(frame.source)
        self.meter.bytes_received[name] += header.size + header.payload_bytes
        self.meter.messages_received[name] += 1
        message = header.message(arrays)
        self.frames.note(False, frame.source, message, header.size + header.payload_bytes)
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
        if not header.matches(match):
            return None
        message.check(frame.source)
        return message  # type: ignore[return-value]

    def _receive_any(self, frame: Frame, cls: type[M], shapes: Mapping[str, Shape]) -> M:
        message = self._receive(frame, cls, shapes)
        assert message is not None
        return message

    def depart(self, failed: PeerFailed) -> None:
        """Go on without a tolerated rank."""
        super().depart(failed)
        self._under_way = [entry for entry in self._under_way if entry.frame.source != failed.rank]

    # -- the end ----------------------------------------------------------------------------------------------

    def close(self) -> bool:
        """Leave when everybody's messages have arrived; late ones are dropped, so that no sender is left waiting.

        Rank 0 waits for tolerated ranks no longer than `CLOSE_SECONDS`, and for those that have departed no longer than
        `LINGER_SECONDS`; no rank waits longer than that until a tolerated one takes what was sent to it.

        Returns
        -------
        bool
            Whether all ranks are here: if not, nobody may wait for all, as MPI's own end does.
        """

        def drained(done: Callable[[], R | None]) -> Callable[[], R | None]:
            def ready() -> R | None:
                result = done()
                self._under_way = [entry for entry in self._under_way if not entry.frame.done()]
                while (dropped := self.transport.discard()) is not None:  # also what came before the last Closing
                    self.meter.late += dropped
                return result

            return ready

        others, begun, kept_back = set(range(self.size)) - {self.rank}, time.monotonic(), False
        sent, lead = "room for what was sent", self.rank == 0
        closed: dict[int, bool] = {}

        def missing() -> set[int]:
            if not lead:
                return {0} - closed.keys()
            lingered = time.monotonic() - begun > LINGER_SECONDS  # who has been silent before is silent now
            return others - (self.departed.keys() | self.silent if lingered else self._gone) - closed.keys()

        def all_closing() -> bool | None:
            while (frame := self.transport.poll(Closing.tag, others)) is not None:
                try:
                    closed[frame.source] = bool(decode(Closing, frame.header, frame.source).scalars["complete"])
                except ProtocolError as error:
                    self._blame(frame.source, error)
            return None if missing() else True

        def arrived() -> bool | None:
            nonlocal kept_back
            left = {rank for rank in others if self.transport.outstanding_bytes(rank)}
            lingered = time.monotonic() - begun > LINGER_SECONDS
            kept_back = lingered and bool(left) and left <= set(self.tolerated)
            return kept_back or not left or None

        tolerant = lead and bool(self.tolerated)
        with self.patience(min(CLOSE_SECONDS, self.timeout_seconds) if tolerant else self.timeout_seconds):
            try:
                self._wait(drained(arrived), sent, None, closing=True)
                if not lead:
                    self.send(0, Closing(complete=not kept_back))
                self._wait(drained(all_closing), "Closing", lambda: min(missing(), default=None), closing=True)
            except PeerFailed as failed:
                if not tolerant or not missing() <= set(self.tolerated):
                    raise
                for rank in missing() - self.departed.keys():
                    self.depart(self._peer_failed(rank, failed.reason))
            complete = closed.keys() >= others and all(closed.values()) and not kept_back if lead else closed[0]
            if lead:
                for rank in others:
                    self.send(rank, Closing(complete))
            self._wait(arrived, sent, None, closing=True)
        return complete

    def save_views(self, folder: Path) -> None:
        """Write all messages received to rank-<r>.npz, keys <sequence>-<source>-<Message>-<field>."""
        values = {}
        for sequence, (source, message) in enumerate(self._views):
            for name in type(message)._types:
                value = getattr(message, name)
                # numpy's own bytes drop trailing zeros
                array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
                values[f"{sequence:06d}-{source}-{type(message).__name__}-{name}"] = array
        path = folder / f"rank-{self.rank}.npz"
        try:
            folder.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            own_folder(folder, PRIVATE_FOLDER)
            with replacing(path, PRIVATE) as file:
                np.savez(file, **values)  # type: ignore[arg-type]
        except OSError as error:
            raise FilesError.of(error, path) from error
