"""A man in the middle: ranks in one thread, whose frames lie on the wire until somebody delivers them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedmpi.crypto.seal import KeyAgreement
from fedmpi.net import Channel
from fedmpi.net.local import LocalTransport, _Mailbox
from fedmpi.net.sealed import Handshake, SealedTransport
from fedmpi.net.transport import Transport

KEY = bytes(range(32))


def sealing(key: bytes = KEY) -> Callable[[Transport], Transport]:
    """What `job` and `run_local` take as `wrap`."""
    return lambda inner: SealedTransport(inner, KeyAgreement(key, inner.rank, inner.size))


@dataclass(frozen=True)
class Sent:
    """One frame on the wire."""

    source: int
    dest: int
    tag: int
    header: bytes
    payload: tuple[bytes, ...] = ()

    def __bytes__(self) -> bytes:
        return b"".join((self.header, *self.payload))

    def with_bytes(self, data: bytes) -> "Sent":
        """The same frame with other bytes: what is too much or missing stands at the end."""
        parts, start = [], 0
        for part in (self.header, *self.payload):
            parts.append(data[start : start + len(part)])
            start += len(part)
        parts[-1] += data[start:]
        return replace(self, header=parts[0], payload=tuple(parts[1:]))


class Wire:
    """All links of a job of `size` ranks.

    Parameters
    ----------
    wrap : callable, optional
        (rank, transport) → the transport of a rank.
    **options
        For every `Channel`.
    """

    def __init__(self, size: int, wrap: Callable[[int, Transport], Transport] | None = None, **options: Any):
        self.sent: list[Sent] = []
        self._mailboxes = [_Mailbox() for _ in range(size)]
        self._options = {"timeout_seconds": 0.5, **options}
        self.channels = [self.channel(rank, wrap or (lambda rank, inner: sealing()(inner))) for rank in range(size)]

    def channel(self, rank: int, wrap: Callable[[int, Transport], Transport]) -> Channel:
        return Channel(wrap(rank, _Held(rank, self._mailboxes, self.sent)), **self._options)

    def take(self) -> list[Sent]:
        """What has been sent since the last call."""
        taken, self.sent[:] = list(self.sent), []
        return taken

    def deliver(self, *frames: Sent) -> None:
        for frame in frames:
            payload = [np.frombuffer(part, np.uint8) for part in frame.payload]
            LocalTransport(frame.source, self._mailboxes).post(frame.dest, frame.tag, frame.header, payload)

    def settle(self) -> None:
        """Deliver everything, until nobody has anything to say: after that all are greeted."""
        while frames := self.take():
            self.deliver(*frames)
            for channel in self.channels:
                channel.transport.outstanding_bytes()  # looks at hellos


class _Held(LocalTransport):
    """Sends nothing: it lays frames down."""

    def __init__(self, rank: int, mailboxes: list[_Mailbox], sent: list[Sent]):
        super().__init__(rank, mailboxes)
        self._sent = sent

    def post(self, dest: int, tag: int, header: bytes, arrays: list[Any]) -> None:
        self._sent.append(Sent(self.rank, dest, tag, bytes(header), tuple(array.tobytes() for array in arrays)))


class Identity:
    """A handshake for links that seal nothing: a mutation that tests must notice."""

    overhead = 16

    def hello(self, dest: int) -> bytes:
        return bytes(64)

    def accept(self, source: int, hello: bytes) -> "Identity":
        return self

    def seal(self, tag: int, sequence: int, piece: int, plain: memoryview, out: memoryview) -> None:
        out[: len(plain)] = plain

    def open(self, tag: int, sequence: int, piece: int, sealed: memoryview, out: memoryview) -> bool:
        out[:] = sealed[: len(out)]
        return True


IDENTITY: Handshake = Identity()
