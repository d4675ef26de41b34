"""Ranks as threads of one process: for tests, debugging and small demos."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import FedmpiError, Interrupted, ProtocolError
from fedmpi.net.channel import Channel
from fedmpi.net.transport import KEPT_TAGS, Transport

LAST_SECONDS = 10.0
"""What a thread has left to end after Ctrl-C."""


@dataclass(eq=False)
class _LocalFrame:
    source: int
    header: memoryview
    payload: list[NDArray[Any]]

    def receive(self, header_size: int, arrays: list[NDArray[Any]]) -> None:
        if len(self.header) != header_size:
            raise ProtocolError(
                f"the header from rank {self.source} must be {header_size} bytes, got {len(self.header)}"
            )
        if [a.nbytes for a in arrays] != [p.nbytes for p in self.payload]:
            sizes = [p.nbytes for p in self.payload]
            raise ProtocolError(
                f"the payload from rank {self.source} must be {[a.nbytes for a in arrays]} bytes, got {sizes}"
            )
        for array, payload in zip(arrays, self.payload, strict=True):
            np.copyto(array.reshape(-1).view(np.uint8), payload.reshape(-1).view(np.uint8))

    def done(self) -> bool:
        return True


class _Mailbox:
    """What has arrived for one rank, by tag, in order."""

    def __init__(self) -> None:
        self.arrived = threading.Condition()
        self.frames: defaultdict[int, deque[_LocalFrame]] = defaultdict(deque)


class LocalTransport:
    """Frames between threads. See `fedmpi.net.transport.Transport`."""

    library = "threads"

    def __init__(self, rank: int, mailboxes: Sequence[_Mailbox]):
        self.rank, self.size = rank, len(mailboxes)
        self._mailboxes = mailboxes
        self._own = mailboxes[rank]
        self._forgotten: set[int] = set()

    def post(self, dest: int, tag: int, header: bytes, arrays: list[NDArray[Any]]) -> None:
        """Put a frame into the other thread's mailbox."""
        mailbox = self._mailboxes[dest]
        with mailbox.arrived:
            mailbox.frames[tag].append(_LocalFrame(self.rank, memoryview(header), arrays))
            mailbox.arrived.notify_all()

    def poll(self, tag: int, sources: Collection[int]) -> _LocalFrame | None:
        """The oldest frame with this tag from one of the sources."""
        with self._own.arrived:
            frames = self._own.frames[tag]
            if self._forgotten and tag not in KEPT_TAGS:
                frames = self._own.frames[tag] = deque(f for f in frames if f.source not in self._forgotten)
            for frame in frames:
                if frame.source in sources:
                    frames.remove(frame)
                    return frame
        return None

    def outstanding_bytes(self, dest: int | None = None) -> int:
        """Always 0: a mailbox takes over at once."""
        return 0

    def failed(self) -> Collection[int]:
        """None: a thread that fails says so."""
        return ()

    def stopped(self, rank: int) -> bool:
        """Never: threads stop with their process."""
        return False

    def end(self, rank: int) -> None:
        """Nothing: see `stopped`."""

    def forget(self, rank: int) -> None:
        """Drop what arrives from a rank, but for `KEPT_TAGS`."""
        self._forgotten.add(rank)

    def discard(self) -> int | None:
        """Nothing to do: mailboxes vanish with the threads."""
        return None

    def pause(self, waited_seconds: float) -> None:
        """Sleep until something arrives, 50 ms at most."""
        with self._own.arrived:
            self._own.arrived.wait(0.05 if waited_seconds > 0.001 else 0.0005)


def channels(ranks: int) -> list[Channel]:
    """One for each rank, all in this thread: whoever waits must have been sent to before."""
    mailboxes = [_Mailbox() for _ in range(ranks)]
    return [Channel(LocalTransport(rank, mailboxes)) for rank in range(ranks)]


def _interrupted() -> None:
    raise Interrupted("stopped by Ctrl-C", 130)


def run_local(
    roles: Sequence[Callable[[Channel], Any]],
    *,
    wrap: Callable[[Transport], Transport] = lambda transport: transport,
    **options: Any,
) -> list[Any]:
    """Run one role per rank, each in a thread, and return what they return.

    Parameters
    ----------
    roles : sequence of callables
        Called with their `Channel`; the position is the rank.
    wrap : callable
        Applied to each transport before anything is sent.
    **options
        For every `Channel`.

    Raises
    ------
    Exception
        That of the rank that failed first; the others end with `PeerFailed`.
    KeyboardInterrupt
        Once rank 0 has ended the job in order; what computes for longer than `LAST_SECONDS` is left to itself.
    """
    mailboxes = [_Mailbox() for _ in roles]
    results: list[Any] = [None] * len(roles)
    failures: list[BaseException] = []
    lead: list[Channel] = []

    def run(rank: int, role: Callable[[Channel], Any]) -> None:
        channel = Channel(wrap(LocalTransport(rank, mailboxes)), **options)
        lead.extend([channel] if rank == 0 else [])
        try:
            results[rank] = role(channel)
        except BaseException as error:
            failures.append(error)
            channel.fail(error, error.exit_code if isinstance(error, FedmpiError) else 4)

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(roles)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(1.0)  # a signal may have reached another thread than this one
    except KeyboardInterrupt:
        for channel in lead:
            channel.on_pause = _interrupted
        for thread in threads:
            thread.join(LAST_SECONDS)
        raise KeyboardInterrupt(*map(str, failures[:1])) from None  # which says how to go on
    if failures:
        raise failures[0]
    return results
