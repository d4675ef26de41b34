"""The paper's baselines: the same gradient, computed by groups of workers with BGW or BH08.

[So et al. 2021, section V and appendix D]. The workers form G groups; each group holds Shamir shares of 1/G of
the rows, and computes its sub-gradient X̄ᵀs(X̄w̄) with two matrix-vector products and a degree reduction between
them. Letters as in `protocol`; [x]_T is a sharing of degree T.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.protocol import (
    CHUNK_BYTES,
    MASTER,
    CodedData,
    Stop,
    Training,
    receive_data,
    row_blocks,
)
from fedmpi.core import FieldArray, PrimeField, Shamir
from fedmpi.errors import ProtocolError
from fedmpi.mpc import Party, double_sharings, reduce_bgw, reduce_bh08
from fedmpi.mpc.party import elements
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.report import report

if TYPE_CHECKING:  # a worker never loads what only the master needs
    from fedmpi.codedml.descent import State
    from fedmpi.codedml.params import Params
    from fedmpi.core.quantize import Reals


class GroupSetup(Message, tag=10):
    """Master → worker, once: its group, the shape of its share of the data, and s(z); all of it public."""

    timeout_seconds: float
    protocol: str
    first_rank: int
    parties: int
    threshold: int
    prime: int
    rows: int
    columns: int
    outputs: int
    first_iteration: int
    iterations: int
    byzantine: int
    coefficients: UInt32


class Ready(Message, tag=11):
    """Worker → master: the data has arrived; with BH08 again, when the offline phase is done.

    Master → worker, with BH08: everybody's data has arrived; begin the offline phase.
    """


class Caught(Message, tag=14):
    """Worker → master, at the end, where liars are to be caught: the ranks whose shares it had to correct."""

    ranks: UInt32


class SharedWeights(Message, tag=12):
    """Master → worker, each iteration: [W̄]_T, shape (d, r, C)."""

    iteration: int
    W: UInt32


class SharedGradient(Message, tag=13):
    """Worker → master, each iteration: [X̄_gᵀ s̄]_2T of its group, shape (d, C)."""

    iteration: int
    gradient: UInt32


def mpc_master(
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
    """Share the data once and the weights in every iteration; reconstruct the sub-gradients.

    Every worker is needed. With --byzantine, wrong shares are corrected or noticed where a group has members to spare.

    The parameters are those of `master`.
    """
    from fedmpi.codedml.descent import descend

    field, (m, d), outputs = params.field, X_bar.shape, Y.shape[1]
    threshold, groups = params.groups(ch.size - 1)
    blocks = row_blocks(m, len(groups))
    sharings = [Shamir(field, len(group), threshold) for group in groups]
    coefficients = field.array(np.array(params.coefficients, object))
    rows = blocks[0].stop
    first = start.iteration if start else 0
    ch.tolerated = ()
    liars: dict[int, int] = {}
    with ch.phase("encode"):
        for group, sharing, block in zip(groups, sharings, blocks, strict=True):
            for rank in group:
                who = (params.method, group[0], len(group), threshold)
                what = (rows, d, outputs, first, params.iterations, params.byzantine)
                ch.send(rank, GroupSetup(ch.timeout_seconds, *who, field.p, *what, coefficients))
            distribute_shares(ch, sharing, group, X_bar[block], rows, uniform)
    members = [rank for group in groups for rank in group]
    with ch.phase("communicate"):
        ch.gather(members, Ready)
    if params.method == "bh08":
        with ch.phase("offline"):
            for rank in members:
                ch.send(rank, Ready())
            ch.gather(members, Ready)

    def block_gradients(it: int, W_bar: FieldArray, W: NDArray[np.float64]) -> FieldArray:
        for group, sharing in zip(groups, sharings, strict=True):
            with ch.phase("encode"):
                shares = sharing.share(W_bar, uniform)
                shares.flags.writeable = False  # lets the channel send them without a copy
            with ch.phase("communicate"):
                for rank, values in zip(group, shares, strict=True):
                    ch.send(rank, SharedWeights(it, values))
        with ch.phase("evaluate"):
            observe(it, W)
        decoded = np.empty((len(groups), d, outputs), np.uint32)
        for g, (group, sharing) in enumerate(zip(groups, sharings, strict=True)):
            with ch.phase("wait"):
                answers = ch.gather(group, SharedGradient, shapes={"gradient": (d, outputs)})
            with ch.phase("decode"):
                known = {group.index(rank): gradient_of(field, answer, it, rank) for rank, answer in answers.items()}
                if params.byzantine:
                    decoded[g], wrong = sharing.reconstruct_checked(known, 2 * threshold, params.byzantine, uniform)
                    liars.update({group[i]: it for i in wrong if group[i] not in liars})
                else:
                    decoded[g] = sharing.reconstruct(known, 2 * threshold)
        return decoded

    trained = descend(ch, params, X_bar, Y, learning_rate, noise, blocks, block_gradients, observe, start, advance)
    return replace(trained, liars=liars)


def gradient_of(field: PrimeField, answer: SharedGradient, iteration: int, rank: int) -> FieldArray:
    """A worker's share, refused unless it is of this iteration."""
    if answer.iteration != iteration:
        raise ProtocolError(f"SharedGradient from rank {rank} must be of iteration {iteration}, got {answer.iteration}")
    return elements(field, answer.gradient, rank)


def distribute_shares(
    ch: Channel,
    sharing: Shamir,
    group: range,
    X_bar: "Reals",
    rows: int,
    uniform: Callable[[tuple[int, ...]], FieldArray],
) -> None:
    """Share a group's rows, padded with zeros, a few at a time, so that the master's memory does not grow with n."""
    columns = X_bar.shape[1]
    step = max(1, CHUNK_BYTES // (4 * columns * len(group)))
    for start in range(0, rows, step):
        raw = X_bar[start : start + step]
        piece = np.zeros((min(step, rows - start), columns), np.uint32)
        piece[: len(raw)] = sharing.field.from_signed(raw)
        shares = sharing.share(piece, uniform)
        shares.flags.writeable = False  # lets the channel send them without a copy
        with ch.phase("communicate"):
            ch.flush(CHUNK_BYTES)
            for rank, values in zip(group, shares, strict=True):
                ch.send(rank, CodedData(values))


def member(ch: Channel, setup: GroupSetup) -> None:
    """A worker's part in its group: the whole training."""
    ch.tolerated = ()  # every member of every group is needed
    from fedmpi.crypto.random import FieldRandom  # not loaded by workers of the coded protocol, who need no secrets

    field = PrimeField(setup.prime)
    if not (setup.rows > 0 and setup.columns > 0 and setup.outputs > 0 and len(setup.coefficients) > 1):
        raise ProtocolError(f"GroupSetup must hold positive sizes, got {setup.rows}, {setup.columns}, {setup.outputs}")
    ranks = range(setup.first_rank, setup.first_rank + setup.parties)
    if not 0 < ranks.start <= ch.rank < ranks.stop <= ch.size:
        raise ProtocolError(f"the group must have rank {ch.rank} and be among {ch.size} ranks, got {ranks}")
    party = Party(ch, field, ranks, setup.threshold, FieldRandom(field.p), byzantine=setup.byzantine)
    coefficients = elements(field, setup.coefficients, MASTER)
    degree = len(coefficients) - 1
    ch.outwait(setup.timeout_seconds)
    X = receive_data(ch, field, setup.rows, setup.columns)
    ch.send(MASTER, Ready())
    reduce = reduction(party, setup, degree)
    shapes = {"W": (setup.columns, degree, setup.outputs)}
    for it in range(setup.first_iteration, setup.iterations + 1):
        weights = ch.recv_any(MASTER, (SharedWeights, Stop), shapes=shapes)
        if not isinstance(weights, SharedWeights):
            break
        if weights.iteration != it:
            raise ProtocolError(f"SharedWeights must be of iteration {it}, got {weights.iteration}")
        with ch.phase("compute"):
            flat = elements(field, weights.W, MASTER).reshape(setup.columns, -1)
            z_2t = field.product(X, flat)  # [X̄ w̄]_2T
        z = reduce(z_2t).reshape(setup.rows, degree, setup.outputs)  # [X̄ w̄]_T
        power = z[:, 0]
        s = field.add(field.multiply(coefficients[1:2], power), coefficients[0:1])
        for i in range(1, degree):
            power = reduce(field.multiply(power, z[:, i]))  # [Π z]_T
            s = field.add(s, field.multiply(coefficients[i + 1 : i + 2], power))
        with ch.phase("compute"):
            gradient = field.transposed_product(X, s)  # [X̄ᵀ s̄]_2T
        ch.send(MASTER, SharedGradient(it, gradient))
    if setup.byzantine:
        ch.send(MASTER, Caught(np.array(sorted(party.liars), np.uint32)))
    ch.send(MASTER, report(ch))


def reduction(party: Party, setup: GroupSetup, degree: int) -> Callable[[FieldArray], FieldArray]:
    """The degree reduction of the protocol, for arrays of any shape; BH08 makes its double sharings here, offline."""
    ch, doubles = party.ch, None
    if setup.protocol == "bh08":
        per_iteration = setup.rows * setup.outputs * (2 * degree - 1)  # z_1 … z_r, and r - 1 products of them
        ch.recv(MASTER, Ready)
        with ch.patience(setup.timeout_seconds / 2), ch.phase("offline"):
            doubles = double_sharings(party, per_iteration * (setup.iterations - setup.first_iteration))
        ch.send(MASTER, Ready())
    elif setup.protocol != "bgw":
        raise ProtocolError(f"GroupSetup.protocol must be bgw or bh08, got {setup.protocol}")

    def reduce(product: FieldArray) -> FieldArray:
        flat = product.reshape(-1)
        # Less patience than the master's, so that the member that is silent is named, and not one that waits for it.
        with ch.patience(setup.timeout_seconds / 2):
            reduced = reduce_bgw(party, flat) if doubles is None else reduce_bh08(party, flat, doubles)
        return reduced.reshape(product.shape)

    return reduce
