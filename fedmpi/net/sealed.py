"""Links that are encrypted and authenticated, over any other transport."""

import struct
from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.net.endpoint import Notice
from fedmpi.net.message import decode
from fedmpi.net.transport import Frame, RefusedFrame, Transport

HELLO_TAG = Notice.tag
"""The first frame with this tag is a hello: frames with it are never dropped, and a rank that does not encrypt
notices it at once."""

PIECE_BYTES = 1 << 20
"""Arrays are sealed in pieces of this size: they stay in the cache between the cipher and its authentication."""

_LENGTH = struct.Struct("<I")  # bytes of the sealed header, in the clear before it
_PAYLOAD_BYTES = struct.Struct("<Q")  # bytes of all arrays, sealed with the header


class Link(Protocol):
    """Seals and opens what two ranks send each other. Every place on a link is sealed once."""

    overhead: int
    """Bytes by which a sealed piece is longer."""

    def seal(self, tag: int, sequence: int, piece: int, plain: memoryview, out: memoryview) -> None:
        """Encrypt `plain` into `out`, for one place on the link."""

    def open(self, tag: int, sequence: int, piece: int, sealed: memoryview, out: memoryview) -> bool:
        """Decrypt `sealed` into `out`. False if it is not what the peer sealed for this place: `out` is void then."""
        ...


class Handshake(Protocol):
    """How two ranks agree on the keys of a link."""

    def hello(self, dest: int) -> bytes:
        """What to send to a rank in the clear, before anything else."""
        ...

    def accept(self, source: int, hello: bytes) -> Link:
        """The link with a rank that said hello. Raises ProtocolError where it is not to be trusted."""
        ...


class SealedTransport:
    """Frames that nobody else can read, change, repeat, reorder or invent. See `fedmpi.net.transport.Transport`.

    Parameters
    ----------
    inner : Transport
        Carries the sealed frames. What it delivers from one rank is in the order of sending, for each tag; and
        nothing overtakes that rank's first frame, its hello.
    handshake : Handshake
        `fedmpi.crypto.seal.KeyAgreement`.

    Notes
    -----
    Rank 0 and the others say hello at once. Two others do so when one of them first sends, and the frame waits for the
    answer: a connection of MPI has its cost, and of N² most are never needed.

    A frame goes out with its number among those of the same tag to the same rank, and is opened only as the next of
    them. What does not open is a `ProtocolError` that names the link, raised when the frame is looked at; so a
    frame that was dropped is seen at the next one, or by the deadline if it was the last. Tags, sizes and times are
    not hidden.
    """

    def __init__(self, inner: Transport, handshake: Handshake):
        self.rank, self.size = inner.rank, inner.size
        self.library = f"{inner.library}, encrypted"
        self.discarding = False
        """Whether frames were dropped unopened: then only the channel's own are still complete and in order."""
        self._inner = inner
        self._handshake = handshake
        self._links: dict[int, Link] = {self.rank: handshake.accept(self.rank, handshake.hello(self.rank))}
        self._refused: dict[int, str] = {}  # rank → why its hello was
        self._strangers = set(range(inner.size)) - {self.rank}  # whose hello has not come yet
        self._greeted: set[int] = set()
        self._forgotten: set[int] = set()
        self._waiting: defaultdict[int, list[tuple[int, bytes, list[NDArray[Any]]]]] = defaultdict(list)
        self._sent: Counter[tuple[int, int]] = Counter()  # (rank, tag) → frames
        self._received: Counter[tuple[int, int]] = Counter()
        for dest in self._strangers if self.rank == 0 else {0}:
            self._say_hello(dest)

    def _say_hello(self, dest: int) -> None:
        if dest not in self._greeted:
            self._greeted.add(dest)
            self._inner.post(dest, HELLO_TAG, self._handshake.hello(dest), [])

    def _greet(self) -> None:
        """Take the hellos that have come, and send what waited for them."""
        while self._strangers and (frame := self._inner.poll(HELLO_TAG, self._strangers)) is not None:
            self._accept(frame)

    def _accept(self, frame: Frame) -> None:
        source, hello = frame.source, b""
        self._strangers.discard(source)
        self._say_hello(source)
        waiting = self._waiting.pop(source, [])
        try:
            hello = bytes(frame.header)
            self._links[source] = self._handshake.accept(source, hello)
        except ProtocolError as error:
            self._refused[source] = f"{self.link_from(source)}: {_own_words(hello, source) or error}"
            return
        for message in waiting:
            self._send(source, *message)

    def post(self, dest: int, tag: int, header: bytes, arrays: list[NDArray[Any]]) -> None:
        """Seal and send, now or as soon as the rank's hello has come; to a rank that is not trusted nothing."""
        if dest in self._strangers:
            self._say_hello(dest)
            self._greet()
        if dest in self._links:
            self._send(dest, tag, header, arrays)
        elif dest in self._strangers - self._forgotten:
            self._waiting[dest].append((tag, header, arrays))

    def _send(self, dest: int, tag: int, header: bytes, arrays: list[NDArray[Any]]) -> None:
        link, sequence, pieces = self._links[dest], self._sent[dest, tag], _pieces(arrays)
        self._sent[dest, tag] += 1
        plain = _PAYLOAD_BYTES.pack(sum(map(len, pieces))) + header
        first = bytearray(_LENGTH.size + len(plain) + link.overhead)
        _LENGTH.pack_into(first, 0, len(plain) + link.overhead)
        link.seal(tag, sequence, 0, memoryview(plain), memoryview(first)[_LENGTH.size :])
        sealed = np.empty(sum(len(piece) + link.overhead for piece in pieces), np.uint8)
        rest = sealed.data
        for number, piece in enumerate(pieces, 1):
            link.seal(tag, sequence, number, piece, rest[: len(piece) + link.overhead])
            rest = rest[len(piece) + link.overhead :]
        self._inner.post(dest, tag, bytes(first), [sealed] if pieces else [])

    def poll(self, tag: int, sources: Collection[int]) -> Frame | None:
        """The next frame with this tag from one of the sources; its header raises ProtocolError if it is forged."""
        self._greet()
        frame = self._inner.poll(tag, sources)
        if frame is None:
            if tag == Notice.tag:  # asked while another error ends the job
                return None
            refused = self._refused.keys() - self._forgotten
            return next((RefusedFrame(source, self._refused[source]) for source in refused if source in sources), None)
        source = frame.source
        if source in self._strangers:
            if tag == HELLO_TAG:  # it has come just now
                self._accept(frame)
                return self.poll(tag, sources)
            self._greet()  # its hello has come just now, before this frame
        if source in self._refused:
            return RefusedFrame(source, self._refused[source])
        if source in self._strangers:
            return RefusedFrame(source, f"{self.link_from(source)} must begin with a hello, got a frame of tag {tag}")
        sequence = self._received[source, tag]
        self._received[source, tag] += 1
        try:
            return _SealedFrame(frame, self._links[source], self, tag, sequence)
        except ProtocolError as error:
            return RefusedFrame(source, str(error))

    def link_from(self, source: int) -> str:
        """For messages to people."""
        return f"the link from rank {source} to rank {self.rank}"

    def outstanding_bytes(self, dest: int | None = None) -> int:
        """Bytes that wait for a hello, and those of the transport below."""
        self._greet()
        waiting = [message for rank, messages in self._waiting.items() if dest in (None, rank) for message in messages]
        own = sum(len(header) + sum(array.nbytes for array in arrays) for _, header, arrays in waiting)
        return own + self._inner.outstanding_bytes(dest)

    def failed(self) -> Collection[int]:
        """Ranks that are known to be dead."""
        return self._inner.failed()

    def stopped(self, rank: int) -> bool:
        """Whether the process of a rank is seen to be stopped."""
        return self._inner.stopped(rank)

    def end(self, rank: int) -> None:
        """End the process of a rank that is stopped."""
        self._inner.end(rank)

    def forget(self, rank: int) -> None:
        """Drop what arrives from a rank, but for `KEPT_TAGS`, and what waits for its hello."""
        self._forgotten.add(rank)
        self._waiting.pop(rank, None)
        self._inner.forget(rank)

    def discard(self) -> int | None:
        """Drop what arrived next, unopened, but for what the channel itself needs to say goodbye."""
        self._greet()
        self.discarding = True
        return self._inner.discard()

    def pause(self, waited_seconds: float) -> None:
        """Let others run while there is nothing to do."""
        self._greet()
        self._inner.pause(waited_seconds)


class _SealedFrame:
    """A frame of which the header is open; the arrays are opened when all of them has come.

    Raises
    ------
    ProtocolError
        If the header is not the peer's for this place.
    """

    def __init__(self, inner: Frame, link: Link, transport: SealedTransport, tag: int, sequence: int):
        self.source = inner.source
        self._inner, self._link, self._transport = inner, link, transport
        self._tag, self._sequence = tag, sequence
        self._sealed = memoryview(b"")
        self._pieces: list[memoryview] = []
        whole = self._whole()
        self._first_bytes = _LENGTH.size + (_LENGTH.unpack_from(whole)[0] if len(whole) >= _LENGTH.size else 0)
        sealed = whole[_LENGTH.size : self._first_bytes]  # behind it the transport below may have put the arrays
        plain = memoryview(bytearray(max(len(sealed) - link.overhead, 0)))
        self._open(0, sealed, plain)
        self._payload_bytes = int(_PAYLOAD_BYTES.unpack_from(plain)[0])
        self.header = plain[_PAYLOAD_BYTES.size :]

    def _whole(self) -> memoryview:
        try:
            return self._inner.header
        except ProtocolError as error:
            raise self._forged() from error

    def receive(self, header_size: int, arrays: list[NDArray[Any]]) -> None:
        if header_size != len(self.header):
            raise self._wrong_size("header", header_size, len(self.header))
        if (expected := sum(array.nbytes for array in arrays)) != self._payload_bytes:
            raise self._wrong_size("payload", expected, self._payload_bytes)
        self._pieces = _pieces(arrays)
        sealed = np.empty(sum(len(piece) + self._link.overhead for piece in self._pieces), np.uint8)
        self._sealed = sealed.data
        try:
            self._inner.receive(self._first_bytes, [sealed] if self._pieces else [])
        except ProtocolError as error:
            raise self._forged() from error

    def done(self) -> bool:
        if self._transport.discarding:
            return False  # and never will be: parts of it may be gone
        try:
            if not self._inner.done():
                return False
        except ProtocolError as error:
            raise self._forged() from error
        pieces, self._pieces = self._pieces, []
        for number, piece in enumerate(pieces, 1):
            self._open(number, self._sealed[: len(piece) + self._link.overhead], piece)
            self._sealed = self._sealed[len(piece) + self._link.overhead :]
        return True

    def _open(self, piece: int, sealed: memoryview, out: memoryview) -> None:
        whole = len(sealed) == len(out) + self._link.overhead
        if not whole or not self._link.open(self._tag, self._sequence, piece, sealed, out):
            raise self._forged()

    def _forged(self) -> ProtocolError:
        return ProtocolError(
            f"{self._transport.link_from(self.source)}: frame {self._sequence} of tag {self._tag} must be authentic "
            "and in its place, got a changed, lost, repeated, reordered or foreign one"
        )

    def _wrong_size(self, what: str, expected: int, got: int) -> ProtocolError:
        return ProtocolError(f"the {what} from rank {self.source} must be {expected} bytes, got {got}")


def _pieces(arrays: list[NDArray[Any]]) -> list[memoryview]:
    flat = [array.reshape(-1).view(np.uint8).data for array in arrays if array.size]
    return [raw[start : start + PIECE_BYTES] for raw in flat for start in range(0, len(raw), PIECE_BYTES)]


def _own_words(hello: bytes, source: int) -> str | None:
    """What a rank said in the clear instead of hello: that it has no key, most often. Nobody vouches for it."""
    try:
        return f"not encrypted, and says {decode(Notice, hello, source).scalars['reason']!r}"
    except ProtocolError:
        return None
