"""Algorithm 1 of CodedPrivateML [So et al. 2021], one function per role.

Letters: X̄ (m, d) quantized data, W̄ (d, r, C) quantized weights, K blocks, T masks, N workers, R recovery
threshold, r degree of the polynomial, C outputs (1, or one per class). A suffix `_tilde` means coded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.faults import NO_FAULTS, Faults
from fedmpi.core import FieldArray, LagrangeCode, PrimeField
from fedmpi.errors import ProtocolError
from fedmpi.mpc.party import elements
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.report import Report, report

if TYPE_CHECKING:  # a worker never loads what only the master needs
    from fedmpi.codedml.descent import State
    from fedmpi.codedml.params import Params
    from fedmpi.core.quantize import Reals

MASTER = 0

REPORT_SECONDS = 10.0
"""How long the master waits at the end for what the workers have to report."""

CHUNK_BYTES = 16 << 20
"""Coded data that the master holds for all workers together, at a time."""


class Setup(Message, tag=1):
    """Master → worker i, once: the field, the shape of X̃_i, and s(z) = Σ c̄_n z^n; all of it public."""

    training: int
    timeout_seconds: float
    prime: int
    rows: int
    columns: int
    outputs: int
    coefficients: UInt32


class CodedData(Message, tag=2):
    """Master → worker i, once, in pieces: rows of X̃_i, shape (rows, d)."""

    X_tilde: UInt32


class CodedWeights(Message, tag=3):
    """Master → worker i, each iteration: W̃_i, shape (d, r, C)."""

    training: int
    iteration: int
    W_tilde: UInt32


class CodedGradient(Message, tag=4):
    """Worker i → master, each iteration: f(X̃_i, W̃_i), shape (d, C)."""

    training: int
    iteration: int
    gradient: UInt32


class Stop(Message, tag=5):
    """Master → worker: training is over."""


@dataclass(frozen=True, eq=False)
class Training:
    """What the master ends with."""

    W: NDArray[np.float64]
    """Weights, shape (d, C)."""
    headroom_bits: float
    reports: dict[int, Report]
    departures: dict[int, int] = dataclass_field(default_factory=dict)
    """Worker → the iteration in which the training went on without it."""
    liars: dict[int, int] = dataclass_field(default_factory=dict)
    """Member of a group → the first iteration in which its share had to be corrected."""


def master(
    ch: Channel,
    params: "Params",
    X_bar: "Reals",
    Y: NDArray[np.float64],
    learning_rate: float,
    noise: Callable[[int, tuple[int, ...]], NDArray[np.float64]],
    uniform: Callable[[tuple[int, ...]], FieldArray],
    observe: Callable[[int, NDArray[np.float64]], None] = lambda iteration, W: None,
    start: "State | None" = None,
    advance: Callable[["State"], None] = lambda state: None,
) -> Training:
    """Algorithm 1, lines 1–8 and 12–18.

    Workers may be slow, die or lie: the training needs R of them, and for A = --byzantine liars R + A to R + 2A.

    Parameters
    ----------
    X_bar : array, shape (m, d)
        Signed integers (line 1 is done by `Transform.quantized`).
    Y : array of float64, shape (m, C)
        Targets: 0 or 1, or reals for a linear model.
    learning_rate : float
        η.
    noise : callable
        (iteration, shape) → the public and repeatable noise of stochastic quantization.
    uniform : callable
        shape → secret uniform elements of F_p.
    observe : callable
        Called with (iteration, W) while the workers compute on W.
    start : State, optional
        Go on from here.
    advance : callable
        Called with the state after every iteration.

    Raises
    ------
    TooFewWorkers
        If so many workers have departed that the training can't go on.
    """
    from fedmpi.codedml.descent import descend
    from fedmpi.codedml.survival import Answers, Pacing

    field, code = params.field, params.code(ch.size - 1)
    workers = range(1, ch.size)
    (m, d), outputs = X_bar.shape, Y.shape[1]
    blocks = row_blocks(m, code.parallelization)
    # On a channel that trains several times, answers may come after their training: they must not count in the next.
    training = ch.meter.messages_sent["Setup"]
    ch.tolerated = workers
    pacing, collected = Pacing(ch), Answers(ch, code, params.byzantine, uniform)
    with ch.phase("encode"):  # lines 2–3
        coefficients = field.array(np.array(params.coefficients, object))
        shape = (blocks[0].stop, d, outputs)
        for worker in workers:
            ch.send(worker, Setup(training, ch.timeout_seconds, field.p, *shape, coefficients))
        distribute(ch, code, X_bar, blocks, uniform)

    def block_gradients(it: int, W_bar: FieldArray, W: NDArray[np.float64]) -> FieldArray:
        with ch.phase("encode"):  # line 7
            shares = code.encode_repeated(W_bar, uniform)
            shares.flags.writeable = False  # lets the channel send them without a copy
        with ch.phase("communicate"):  # line 8
            for worker in workers:
                pacing.send(worker, it, CodedWeights(training, it, shares[worker - 1]))
        with ch.phase("evaluate"):
            observe(it, W)

        def receive(count: int, more_than: Mapping[int, CodedGradient]) -> dict[int, CodedGradient]:
            return ch.gather_first(
                count,
                workers,
                CodedGradient,
                shapes={"gradient": (d, outputs)},
                more_than=more_than,
                heard=pacing.heard,
                training=training,
                iteration=it,
            )

        with ch.phase("wait"):  # line 12: from the fastest workers
            answers = collected.gather(it, receive, "gradient")
        with ch.phase("decode"):  # line 13
            return code.decode(answers)

    trained = descend(ch, params, X_bar, Y, learning_rate, noise, blocks, block_gradients, observe, start, advance)
    return replace(trained, departures=collected.departures)


def stop(ch: Channel) -> dict[int, Report]:
    """Line 18: end the training, and return what the workers report; the model does not wait for one that hangs."""
    workers = range(1, ch.size)
    with ch.phase("close"):
        for worker in workers:
            ch.send(worker, Stop())
        return ch.gather_within(min(REPORT_SECONDS, ch.timeout_seconds), workers, Report)


def row_blocks(rows: int, parallelization: int) -> list[slice]:
    """K blocks of ⌈m/K⌉ rows; what is missing in the last ones counts as rows of zeros, which change no gradient."""
    size = -(-rows // parallelization)
    return [slice(k * size, (k + 1) * size) for k in range(parallelization)]


def distribute(
    ch: Channel,
    code: LagrangeCode,
    X_bar: "Reals",
    blocks: list[slice],
    uniform: Callable[[tuple[int, ...]], FieldArray],
) -> None:
    """Lines 2–3: encode X̄ and send it, a few rows of every block at a time.

    The next rows are encoded while the last ones are on their way, and no more than two pieces are: the
    master's memory does not grow with N.
    """
    size, columns = blocks[0].stop, X_bar.shape[1]
    step = max(1, CHUNK_BYTES // (4 * columns * code.workers))
    for start in range(0, size, step):
        rows = min(step, size - start)
        pieces = np.zeros((len(blocks), rows, columns), np.uint32)
        for piece, block in zip(pieces, blocks, strict=True):
            raw = X_bar[block][start : start + rows]
            piece[: len(raw)] = code.field.from_signed(raw)
        shares = code.encode(pieces, uniform)
        shares.flags.writeable = False  # lets the channel send them without a copy
        with ch.phase("communicate"):
            ch.flush(CHUNK_BYTES)
            for worker in range(1, code.workers + 1):
                ch.send(worker, CodedData(shares[worker - 1]))


def worker(ch: Channel, setup: Setup, faults: Faults = NO_FAULTS) -> None:
    """Algorithm 1, lines 9–11. A worker that falls behind skips to the newest weights."""
    field = PrimeField(setup.prime)
    ch.outwait(setup.timeout_seconds)
    coefficients = elements(field, setup.coefficients, MASTER)
    if not (setup.rows > 0 and setup.columns > 0 and setup.outputs > 0 and len(coefficients) > 1):
        raise ProtocolError(f"Setup must hold positive sizes, got {setup.rows}, {setup.columns}, {setup.outputs}")
    X = receive_data(ch, field, setup.rows, setup.columns)
    wanted = {"W_tilde": (setup.columns, len(coefficients) - 1, setup.outputs)}
    while True:
        weights = ch.recv_latest(MASTER, CodedWeights, until=Stop, shapes=wanted, training=setup.training)
        if weights is None:
            break
        with ch.phase("compute"):
            gradient = field.gradient(X, elements(field, weights.W_tilde, MASTER), coefficients)
        answer = faults.strike(field, weights.iteration, gradient)
        if answer is not None:
            ch.send(MASTER, CodedGradient(setup.training, weights.iteration, answer))
    ch.send(MASTER, report(ch))


def receive_data(ch: Channel, field: PrimeField, rows: int, columns: int) -> FieldArray:
    """X̃_i, put together from its pieces, shape (rows, d)."""
    try:
        X = np.empty((rows, columns), np.uint32)
    except (ValueError, MemoryError):
        raise ProtocolError(f"the data must fit into memory, got {rows} rows of {columns} columns") from None
    filled = 0
    while filled < rows:
        message = ch.recv(MASTER, CodedData, shapes={"X_tilde": (None, columns)})
        piece = elements(field, message.X_tilde, MASTER)
        if not 0 < len(piece) <= rows - filled:
            raise ProtocolError(f"CodedData must hold 1 to {rows - filled} rows, got {len(piece)}")
        X[filled : filled + len(piece)] = piece
        filled += len(piece)
    return X
