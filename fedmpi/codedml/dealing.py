"""How workers come by their shares of the data: T of them by a seed, all others in packed pieces.

The shares of any T workers are uniform, whatever the data. So T workers get a seed, which they stretch into their
share; these shares and the data determine the polynomial, and so the shares of the others. `completion`, of a code or
of Shamir's sharing, is the matrix that makes them.
"""

import time
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from fedmpi.core import FieldArray, PrimeField, Residues
from fedmpi.core.packing import pack, packed_words, unpack
from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Message, UInt8, UInt32
from fedmpi.net.meaning import ROWS, SECRET, between, judged

if TYPE_CHECKING:  # a worker never loads what only the master needs
    from fedmpi.codedml.transform import Quantized

MASTER = 0

CHUNK_BYTES = 16 << 20
"""Coded data that the master holds for all workers together, at a time."""

SEED_BYTES = 32

LINGER_SECONDS, LINGER_PART = 0.25, 0.1
"""A worker that keeps others from their next piece for so long, or for such a part of the time so far, is late."""


class CodedData(Message, tag=2):
    """Master → worker i, once, in pieces: so many rows of X̃_i, as `packed`."""

    rows: Annotated[int, between(1, ROWS)]
    X_tilde: Annotated[UInt32, judged("fedmpi.codedml.dealing:Share.take")]


class DataSeed(Message, tag=14):
    """Master → worker i, once, in place of all pieces: what X̃_i is stretched from, `step` rows at a time."""

    step: Annotated[int, between(1, ROWS)]
    seed: Annotated[UInt8, SECRET]


class Deal:
    """The shares of one part of the data, for a group of workers.

    Parameters
    ----------
    completions : sequence of arrays, shape (N - T, K + T)
        `completion` of the code, or of Shamir's sharing, for each prime.
    residues : Residues
    X_bar : array, shape (m, d)
    blocks : sequence of slices
        What is shared: K blocks of rows of X̄, padded with zeros where it ends; of Shamir's sharing there is one.
    seed : callable
        Gives fresh secret seeds.
    """

    def __init__(
        self,
        completions: Sequence[FieldArray],
        residues: Residues,
        X_bar: "Quantized",
        blocks: Sequence[slice],
        seed: Callable[[], bytes],
    ):
        self._completions, self._residues, self._X_bar, self._blocks = completions, residues, X_bar, blocks
        self._rows = blocks[0].stop - blocks[0].start
        others, known = completions[0].shape
        self._columns = X_bar.shape[1]
        self.seeds = [seed() for _ in range(known - len(blocks))]
        """Of the first T workers."""
        workers = len(self.seeds) + others
        self.step = max(1, CHUNK_BYTES // (4 * self._columns * workers * len(residues)))
        """Rows of a piece."""

    @property
    def starts(self) -> range:
        """The first row of each piece."""
        return range(0, self._rows, self.step)

    def piece(self, start: int, which: slice | list[int] = slice(None)) -> list[CodedData]:
        """The rows from `start` on of some of the workers behind the first T: 0 is the first of them."""
        rows = min(self.step, self._rows - start)
        values = np.empty((len(self._blocks), rows, self._columns), np.uint32)
        words = []
        for j, (completion, field) in enumerate(zip(self._completions, self._residues.fields, strict=True)):
            for value, block in zip(values, self._blocks, strict=True):
                raw = self._X_bar[block.start + start : block.start + start + rows]
                value[: len(raw)] = field.from_signed(raw)  # `Transform.quantized` has seen to its size
                value[len(raw) :] = 0
            drawn = [stretched(seed, field.p, j, start // self.step, values.shape[1:]) for seed in self.seeds]
            shares = field.matmul(completion[which], [*values, *drawn])
            words.append([pack(share, bits_of(field)) for share in shares])
        return [CodedData(rows, _joined(parts)) for parts in zip(*words, strict=True)]


def distribute(ch: Channel, workers: Sequence[int], deal: Deal) -> None:
    """Send everybody its share, a few rows at a time; all of them are waited for.

    The next rows are encoded while the last ones are on their way, and no more than two pieces are: the
    master's memory does not grow with N.
    """
    others = send_seeds(ch, workers, deal)
    for start in deal.starts:
        pieces = deal.piece(start)
        with ch.phase("communicate"):
            ch.flush(CHUNK_BYTES)
            for worker, piece in zip(others, pieces, strict=True):
                ch.send(worker, piece)


def send_seeds(ch: Channel, workers: Sequence[int], deal: Deal) -> Sequence[int]:
    """Send the first T workers their seeds; the others are returned."""
    for worker, seed in zip(workers, deal.seeds, strict=False):
        ch.send(worker, DataSeed(deal.step, np.frombuffer(seed, np.uint8)))
    return workers[len(deal.seeds) :]


class Delivery:
    """A deal on its way to workers that may be slow: one that takes nothing holds up nobody.

    Each worker has a window of its own. One whose window stays full while enough others take their pieces is not
    waited for any longer: its pieces are encoded anew, for it alone, once it has room.
    """

    def __init__(self, ch: Channel, workers: Sequence[int], deal: Deal):
        self._ch, self._deal = ch, deal
        self._workers = send_seeds(ch, workers, deal)
        self._window = CHUNK_BYTES // len(workers)
        self._sent = dict.fromkeys(self._workers, 0)
        """Worker → pieces."""

    @property
    def behind(self) -> list[int]:
        """The workers that have not been sent everything."""
        pieces = len(self._deal.starts)
        return [worker for worker in self._present(self._workers) if self._sent[worker] < pieces]

    def begin(self, enough: int) -> None:
        """Send pieces until so many workers, those with seeds among them, have been sent all of theirs."""
        begun, on_time = time.monotonic(), set(self._workers)
        enough -= len(self._deal.seeds)
        for start in self._deal.starts:
            pieces = self._deal.piece(start)
            with self._ch.phase("communicate"):
                linger = max(LINGER_SECONDS, LINGER_PART * (time.monotonic() - begun))
                on_time = self._room(on_time, enough, linger)
                for worker, piece in zip(self._workers, pieces, strict=True):
                    if worker in on_time:
                        self._send(worker, piece)
        while (behind := self.behind) and len(self._present(self._workers)) - len(behind) < enough:
            self.catch_up(1)

    def catch_up(self, count: int = 0) -> None:
        """Send the next piece to workers that are behind and have room, once so many of them have."""
        ready = self._room(self.behind, count, 0.0)
        number = min((self._sent[worker] for worker in ready), default=0)
        chosen = [i for i, worker in enumerate(self._workers) if worker in ready and self._sent[worker] == number]
        if chosen:
            pieces = self._deal.piece(self._deal.starts[number], chosen)
            for i, piece in zip(chosen, pieces, strict=True):
                self._send(self._workers[i], piece)

    def _send(self, worker: int, piece: CodedData) -> None:
        self._ch.send(worker, piece)
        self._sent[worker] += 1

    def _room(self, workers: Collection[int], count: int, linger_seconds: float) -> set[int]:
        while present := self._present(workers):
            try:
                return self._ch.await_room(present, self._window, min(count, len(present)), linger_seconds)
            except TooFewWorkers:  # the first iteration says what that means
                pass
        return set()

    def _present(self, workers: Collection[int]) -> list[int]:
        return [worker for worker in workers if worker not in self._ch.departed]


class Share:
    """A worker's share of the data, as it arrives.

    Raises
    ------
    ProtocolError
        If it does not fit into memory.
    """

    def __init__(self, residues: Residues, rows: int, columns: int):
        try:
            self.X = np.empty((len(residues), rows, columns), np.uint32)
        except (ValueError, MemoryError):
            raise ProtocolError(f"the data must fit into memory, got {rows} rows of {columns} columns") from None
        self._residues = residues
        self._ends = [0]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self._ends[-1] == self.X.shape[1]

    @property
    def pieces(self) -> list[FieldArray]:
        """What has arrived, shape (q, rows, d) each."""
        return [self.X[:, start:end] for start, end in pairwise(self._ends)]

    def take(self, message: CodedData | DataSeed) -> None:
        """A message from the master.

        Raises
        ------
        ProtocolError
            If it is none that could come now.
        """
        start, rows = self._ends[-1], self.X.shape[1]
        if isinstance(message, DataSeed):
            if start:
                raise ProtocolError(f"DataSeed must come alone, got one behind {start} rows")
            self._ends = [*range(0, rows, message.step), rows]
            for number, piece in enumerate(self.pieces):
                for j, (field, part) in enumerate(zip(self._residues.fields, piece, strict=True)):
                    part[:] = stretched(message.seed.tobytes(), field.p, j, number, part.shape)
            return
        if message.rows > rows - start:
            raise ProtocolError(f"CodedData must hold 1 to {rows - start} rows, got {message.rows}")
        self._ends.append(start + message.rows)
        self._unpack(message, self.pieces[-1])

    def _unpack(self, message: CodedData, piece: FieldArray) -> None:
        parts = list(zip(self._residues.fields, piece, strict=True))
        ends = np.cumsum([packed_words(part.size, bits_of(field)) for field, part in parts])
        if message.X_tilde.shape != (ends[-1],):
            raise ProtocolError(
                f"CodedData of {message.rows} rows must have {ends[-1]} words, got {message.X_tilde.shape}"
            )
        for (field, part), words in zip(parts, np.split(message.X_tilde, ends[:-1]), strict=True):
            try:
                unpack(words, bits_of(field), part.shape, out=part)
            except ValueError as error:
                raise ProtocolError(f"CodedData: {error}") from None
            if not field.contains(part):  # the kernels rely on it
                raise ProtocolError(f"field elements from rank {MASTER} must be below {field.p}, got {part.max()}")


def receive_data(ch: Channel, residues: Residues, rows: int, columns: int, until: type[Message]) -> FieldArray | None:
    """X̃_i, stretched from its seed or put together from its pieces, shape (q, rows, d).

    None if an `until` message comes before it is complete: the training has ended without this worker.
    """
    share = Share(residues, rows, columns)
    shapes = {"X_tilde": (None,), "seed": (SEED_BYTES,)}
    while not share.complete:
        message = ch.recv_any(MASTER, (CodedData, DataSeed, until), shapes=shapes)
        if not isinstance(message, CodedData | DataSeed):
            return None
        share.take(message)
    return share.X


def stretched(seed: bytes, p: int, j: int, piece: int, shape: tuple[int, ...]) -> FieldArray:
    """Elements of the j-th field that look uniform to whoever has not got the seed; others for each piece."""
    from fedmpi.crypto.random import FieldRandom, SecretStream  # half of the workers need no secrets

    return FieldRandom(p, SecretStream(seed, j << 32 | piece))(shape)


def bits_of(field: PrimeField) -> int:
    """Bits of an element."""
    return (field.p - 1).bit_length()


def _joined(parts: Sequence[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    words = parts[0] if len(parts) == 1 else np.concatenate(parts)
    words.flags.writeable = False  # lets the channel send them without a copy
    return words
