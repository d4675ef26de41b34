"""One rank's end of all links: it sends, waits, and heeds who fails."""

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, TypeVar

from fedmpi.errors import FedmpiError, PeerFailed, ProtocolError, TooFewWorkers
from fedmpi.net.frames import FrameRecord
from fedmpi.net.meaning import judged
from fedmpi.net.message import Message, decode, encode
from fedmpi.net.transport import Meter, Transport
from fedmpi.rules import printable

R = TypeVar("R")

_LOOK_SECONDS = 0.5
"""Whether rank 0 is stopped is looked at so often."""


class Notice(Message, tag=127):
    """A rank that fails → everybody: why, and the exit code to end with."""

    code: Annotated[int, judged("fedmpi.net.endpoint:Endpoint.poll_notice")]
    reason: Annotated[str, judged("fedmpi.net.endpoint:Endpoint.poll_notice")]


class Excused(Message, tag=124):
    """Rank 0 → a rank that failed: the job goes on without you."""


class Endpoint:
    """What of a channel does not depend on what is received. See `fedmpi.net.channel.Channel`."""

    def __init__(self, transport: Transport, *, timeout_seconds: float, role_of: Callable[[int], str]):
        self.transport = transport
        self.rank, self.size = transport.rank, transport.size
        self.timeout_seconds = timeout_seconds
        self.role_of = role_of
        self.begun = 0.0  # when the last message was begun: its rest, or the next one, may come soon
        self.meter = Meter()
        self.frames = FrameRecord()
        """The first frames that this rank sent or received: no contents."""
        self.tolerated: Collection[int] = ()
        """Ranks whose failure does not end this rank's waits, unless for a message of theirs."""
        self.departed: dict[int, PeerFailed] = {}
        """Tolerated ranks that failed, died, broke the protocol or fell silent, in that order of time, and how."""
        self.silent: set[int] = set()
        """Ranks that have not answered when they were asked, and that nothing has come from since."""
        self._gone: set[int] = set()  # departed, and not there to hear anything any more
        self.on_pause: Callable[[], None] = lambda: None
        """Called again and again while this rank waits; what it raises ends the wait."""
        self.leader_seconds = timeout_seconds
        """How long rank 0 may be seen to be stopped."""
        self.leader_stopped = False
        """Whether it was, for so long."""
        self._looked, self._stopped_since = 0.0, math.inf
        self.failure: PeerFailed | None = None
        """Of the ranks that are not tolerated the first that failed, if one did."""

    # -- sending ----------------------------------------------------------------------------------------------

    def send(self, dest: int, message: Message) -> None:
        """Send without blocking; to a rank that is dead or has failed nothing is sent.

        Arrays may change afterwards: they are copied, unless they are marked read-only.
        """
        if dest in self._gone:
            return
        header, arrays = encode(message)
        size, owned = len(header), []
        for array in arrays:
            size += array.nbytes
            owned.append(array.copy() if array.flags.writeable else array)
        name = type(message).__name__
        self.meter.bytes_sent[name] += size
        self.meter.messages_sent[name] += 1
        self.frames.note(True, dest, message, size)
        self.transport.post(dest, message.tag, header, owned)

    def flush(self, limit_bytes: int = 0) -> None:
        """Wait until at most `limit_bytes` of what was sent are still on the way: bounds the memory of a sender.

        A tolerated rank that takes nothing until the deadline has departed.
        """

        def room() -> bool | None:
            return self.transport.outstanding_bytes() <= limit_bytes or None

        try:
            self._wait(room, "room for what was sent", None)
        except PeerFailed:
            if not self._part_with([rank for rank in self.tolerated if self.transport.outstanding_bytes(rank)]):
                raise

    def await_room(self, ranks: Collection[int], limit_bytes: int, count: int, linger_seconds: float = 0.0) -> set[int]:
        """Those of the ranks with at most `limit_bytes` on the way to each, as soon as there are `count` of them.

        Then it waits for the others too, for so long as `linger_seconds`.

        So bulk data reaches everybody who takes it: a rank that is slow or frozen holds up nobody, if it is sent
        nothing while it is not among those named here. With a count of 0 the answer comes at once.

        Raises
        ------
        TooFewWorkers
            If fewer than `count` of the ranks are left. Once nobody has taken anything until the deadline, tolerated
            ranks that have no room have departed.
        PeerFailed
            If a rank that is not tolerated failed, or took nothing until the deadline.
        """
        outstanding, last_taken, enough_since = math.inf, time.monotonic(), math.inf

        def room() -> set[int] | None:
            nonlocal outstanding, last_taken, enough_since
            on_the_way = {rank: self.transport.outstanding_bytes(rank) for rank in self._present(ranks)}
            if len(on_the_way) < count:
                raise self._too_few("room for messages", count, ranks)
            if (total := sum(on_the_way.values())) < outstanding:
                outstanding, last_taken = total, time.monotonic()
            ready = {rank for rank, size in on_the_way.items() if size <= limit_bytes}
            if len(ready) >= count:
                enough_since = min(enough_since, time.monotonic())
            all_ready = len(ready) == len(on_the_way)
            return ready if all_ready or time.monotonic() - enough_since >= linger_seconds else None

        while True:
            try:
                return self._wait(room, "room for messages", None, lambda: last_taken)
            except PeerFailed:
                if not self._part_with([r for r in ranks if self.transport.outstanding_bytes(r) > limit_bytes]):
                    raise

    def _part_with(self, stuck: Collection[int]) -> bool:
        """Let those of the stuck ranks depart that are tolerated; whether there was one, and no other rank failed."""
        stuck = [rank for rank in self._present(stuck) if rank in self.tolerated and self.failure is None]
        for rank in stuck:
            self.depart(self._peer_failed(rank, f"took no message for {self.timeout_seconds:g} s"))
        return bool(stuck)

    # -- waiting and failing ----------------------------------------------------------------------------------

    def _wait(
        self,
        ready: Callable[[], R | None],
        what: str,
        peer: int | Callable[[], int | None] | None,
        since: Callable[[], float] | None = None,
        closing: bool = False,
    ) -> R:
        start = time.monotonic()
        while (result := ready()) is None:
            self.on_pause()
            if not closing:  # while closing, nothing that a rank says matters any more
                if self.failure is not None:  # and what arrived before the notice has been looked at
                    raise self.failure
                if isinstance(peer, int) and peer in self.departed:
                    raise self.departed[peer]
                self._heed(self.poll_notice())
            self._heed_deaths(closing)
            now = time.monotonic()
            if now - self._looked > _LOOK_SECONDS and self.rank != 0 and (peer() if callable(peer) else peer) == 0:
                self._look_at_leader(now)
            if now - (since() if since else start) > self.timeout_seconds:
                rank = peer() if callable(peer) else peer
                if rank is None:
                    raise self._peer_failed(self.rank, f"waited {self.timeout_seconds:g} s for {what}")
                raise self._peer_failed(rank, f"sent no {what} for {self.timeout_seconds:g} s")
            self.transport.pause(now - max(start, self.begun))
        return result

    def _look_at_leader(self, now: float) -> None:
        """Rank 0 can't say that it is stopped, and those who wait for its orders have no deadline.

        Raises
        ------
        PeerFailed
            Once it has been stopped for too long.
        """
        self._looked = now
        self._stopped_since = min(self._stopped_since, now) if self.transport.stopped(0) else math.inf
        if now - self._stopped_since > self.leader_seconds:
            self.leader_stopped = True
            raise self._peer_failed(0, f"is frozen: its process has been stopped for {self.leader_seconds:g} s")

    def _heed(self, failed: PeerFailed | None) -> None:
        if failed is None or failed.rank in self.departed:
            return
        if failed.rank in self.tolerated:
            if self.rank == 0:
                self.send(failed.rank, Excused())
            self.depart(failed)
            self._gone.add(failed.rank)
        else:
            self.failure = self.failure or failed

    def _heed_deaths(self, closing: bool) -> None:
        for rank in self.transport.failed():
            if rank not in self.departed:
                # What it said before it died says more.
                while (said := self.poll_notice()) is not None:
                    self._heed(said)
                died = self._peer_failed(rank, "died")
                if not closing:
                    self._heed(died)
                elif rank == 0:
                    raise died
                else:
                    self.depart(died)
                    self._gone.add(rank)

    def depart(self, failed: PeerFailed) -> None:
        """Go on without a tolerated rank."""
        self.departed[failed.rank] = failed
        self.transport.forget(failed.rank)

    def _present(self, ranks: Collection[int]) -> list[int]:
        return [rank for rank in ranks if rank not in self.departed] if self.departed else list(ranks)

    def _too_few(self, what: str, count: int, ranks: Collection[int]) -> TooFewWorkers:
        gone = "; ".join(str(failed) for rank, failed in self.departed.items() if rank in ranks)
        left = len(self._present(ranks))
        return TooFewWorkers(f"{what} must come from {count} of {len(ranks)} ranks, got {left}: {gone}")

    def _peer_failed(self, rank: int, reason: str) -> PeerFailed:
        return PeerFailed(rank, self.role_of(rank), reason)

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
        return PeerFailed(frame.source, self.role_of(frame.source), f"failed: {printable(notice['reason'])}", code)

    def fail(self, error: BaseException, code: int = 4) -> None:
        """Tell everybody that this rank can't go on, and the exit code to end with."""
        for rank in range(self.size):
            if rank != self.rank:
                self.send(rank, Notice(code, describe(error)[:1000]))

    # -- measuring --------------------------------------------------------------------------------------------

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Charge the wall time of a block to a phase; of nested phases the inner one."""
        return self.meter.phase(name)

    def outwait(self, seconds: float) -> None:
        """Wait twice as long as the rank that leads, so that it is the one to name whom everybody is waiting for.

        Raises
        ------
        ProtocolError
            If the leader's timeout is not positive.
        """
        if not seconds > 0:
            raise ProtocolError(f"the leader's timeout must be positive, got {seconds}")
        self.timeout_seconds, self.leader_seconds = 2 * seconds, seconds

    @contextmanager
    def patience(self, timeout_seconds: float) -> Iterator[None]:
        """Another deadline for the waits of a block."""
        before, self.timeout_seconds = self.timeout_seconds, timeout_seconds
        try:
            yield
        finally:
            self.timeout_seconds = before


def describe(error: BaseException) -> str:
    """One printable line about an error; for one that nobody foresaw, its type and place too."""
    text = printable(" ".join(str(error).split()), 4000)
    if isinstance(error, FedmpiError):
        return text
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = f" ({traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno})" if traceback else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
