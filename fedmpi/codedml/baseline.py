"""The paper's baselines: the same gradient, computed by groups of workers with BGW or BH08.

[So et al. 2021, section V and appendix D]. The workers form G groups; each group holds Shamir shares of 1/G of
the rows, and computes its sub-gradient X̄ᵀs(X̄w̄) with two matrix-vector products and a degree reduction between
them, modulo each prime apart. Letters as in `protocol`; [x]_T is a sharing of degree T.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.dealing import MASTER, Deal, distribute, receive_data
from fedmpi.codedml.protocol import Stop, elements, forget, residues_of, row_blocks, shares_by_worker, stop
from fedmpi.core import FieldArray, PrimeField, Residues, Shamir
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.mpc import DoubleSharings, Party, double_sharings, reduce_bgw, reduce_bh08
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.costs import report
from fedmpi.net.meaning import POSITIVE, ROWS, between, judged

if TYPE_CHECKING:  # a worker never loads what only the master needs
    from fedmpi.codedml.task import Task, Training


class GroupSetup(Message, tag=10):
    """Master → worker, once: its group, the shape of its share of the data, and s(z); all of it public."""

    timeout_seconds: Annotated[float, POSITIVE]
    protocol: str
    first_rank: int
    parties: int
    threshold: int
    rows: Annotated[int, between(1, ROWS)]
    columns: Annotated[int, between(1, ROWS)]
    outputs: Annotated[int, between(1, ROWS)]
    first_iteration: int
    iterations: int
    byzantine: int
    primes: Annotated[UInt32, judged("fedmpi.codedml.protocol:residues_of")]
    coefficients: Annotated[UInt32, judged("fedmpi.codedml.protocol:elements")]


class Ready(Message, tag=11):
    """Worker → master: the data has arrived; with BH08 again, when the offline phase is done.

    Master → worker, with BH08: everybody's data has arrived; begin the offline phase.
    """


class SharedWeights(Message, tag=12):
    """Master → worker, each iteration: [W̄]_T, shape (q, d, r, C)."""

    iteration: int
    W: Annotated[UInt32, judged("fedmpi.codedml.protocol:elements")]


class SharedGradient(Message, tag=13):
    """Worker → master, each iteration: [X̄_gᵀ s̄]_2T of its group, shape (q, d, C)."""

    iteration: int
    gradient: Annotated[UInt32, judged("fedmpi.codedml.baseline:gradient_of")]


def mpc_master(ch: Channel, task: "Task") -> "Training":
    """Share the data once and the weights in every iteration; reconstruct the sub-gradients.

    Every worker is needed. With --byzantine, wrong shares are corrected or noticed where a group has members to spare.
    """
    from fedmpi.codedml.descent import check_ahead

    workers = GroupWorkers(ch, task)
    check_ahead(task.params, task.problem, workers.blocks)
    ch.tolerated = ()
    forget(ch)
    workers.set_up()
    trained = task.train(ch, workers, workers.blocks, lambda: stop(ch))
    return replace(trained, liars=workers.liars)


class GroupWorkers:
    """The groups as the master sees them. Implements `fedmpi.codedml.descent.Workers`, but for `multiply`."""

    def __init__(self, ch: Channel, task: "Task"):
        self._ch, self._task, self._params, self._problem = ch, task, task.params, task.problem
        self._residues = task.problem.precision.residues
        self._threshold, self._groups = task.params.groups(ch.size - 1)
        (m, self._d), self._outputs = self._problem.X_bar.shape, self._problem.objective.Y.shape[1]
        self.blocks = row_blocks(m, len(self._groups))
        self._sharings = [
            [Shamir(field, len(group), self._threshold) for field in self._residues.fields] for group in self._groups
        ]
        self.liars: dict[int, int] = {}

    def set_up(self) -> None:
        """Share the data, and begin the offline phase of BH08 once everybody has it."""
        from fedmpi.codedml.descent import public_coefficients

        ch, params, residues = self._ch, self._params, self._residues
        public = public_coefficients(params, self._problem)
        coefficients = np.stack([field.array(np.array(public, object)) for field in residues.fields])
        first = self._task.start.iteration if self._task.start else 0
        what = (self.blocks[0].stop, self._d, self._outputs, first, params.iterations, params.byzantine)
        primes = np.array(residues.primes, np.uint32)
        with ch.phase("encode"):
            for group, sharings, block in zip(self._groups, self._sharings, self.blocks, strict=True):
                for rank in group:
                    who = (params.method, group[0], len(group), self._threshold)
                    ch.send(rank, GroupSetup(ch.timeout_seconds, *who, *what, primes, coefficients))
                completions = [s.completion for s in sharings]
                distribute(ch, group, Deal(completions, residues, self._problem.X_bar, [block], self._task.seed))
        members = [rank for group in self._groups for rank in group]
        with ch.phase("communicate"):
            ch.gather(members, Ready)
        if params.method == "bh08":
            with ch.phase("offline"):
                for rank in members:
                    ch.send(rank, Ready())
                ch.gather(members, Ready)

    def _shares(self, sharings: list[Shamir], secret: FieldArray) -> list[FieldArray]:
        parts = [
            sharing.share(part, uniform)
            for sharing, part, uniform in zip(sharings, secret, self._task.uniforms, strict=True)
        ]
        return shares_by_worker(parts)

    def multiply(
        self, step: int, V: NDArray[np.int64], transposed: bool, bits: int, meanwhile: Callable[[], None]
    ) -> NDArray[np.float64]:
        """Not of the baselines: with the master between the two products nothing is left of their degree reductions."""
        raise UsageError(f"--method {self._params.method} must be used with a polynomial, -r 1 or more, got none")

    def polynomial(
        self, step: int, W_bar: NDArray[np.int64], bits: int, runs: int, meanwhile: Callable[[], None]
    ) -> NDArray[np.float64]:
        """2^-bits·X̄ᵀ s̄(X̄, W̄), from the sub-gradients of all groups."""
        ch, byzantine = self._ch, self._params.byzantine
        for group, sharings in zip(self._groups, self._sharings, strict=True):
            with ch.phase("encode"):
                shares = self._shares(sharings, self._residues.from_signed(W_bar.transpose(1, 0, 2)))
            with ch.phase("communicate"):
                for rank, share in zip(group, shares, strict=True):
                    ch.send(rank, SharedWeights(step, share))
        with ch.phase("evaluate"):
            meanwhile()
        decoded = np.empty((len(self._residues), len(self._groups), self._d, self._outputs), np.uint32)
        for g, (group, sharings) in enumerate(zip(self._groups, self._sharings, strict=True)):
            with ch.phase("wait"):
                shape = (len(self._residues), self._d, self._outputs)
                answers = ch.gather(group, SharedGradient, shapes={"gradient": shape})
            with ch.phase("decode"):
                known = {rank: gradient_of(self._residues, answer, step, rank) for rank, answer in answers.items()}
                for j, (sharing, uniform) in enumerate(zip(sharings, self._task.uniforms, strict=True)):
                    shares_j = {group.index(rank): share[j] for rank, share in known.items()}
                    if byzantine:
                        decoded[j, g], wrong = sharing.reconstruct_checked(
                            shares_j, 2 * self._threshold, byzantine, uniform
                        )
                        self.liars.update({group[i]: step for i in wrong if group[i] not in self.liars})
                    else:
                        decoded[j, g] = sharing.reconstruct(shares_j, 2 * self._threshold)
        return self._residues.sum_reals(decoded, bits)


def gradient_of(residues: Residues, answer: SharedGradient, iteration: int, rank: int) -> FieldArray:
    """A worker's share, refused unless it is of this iteration."""
    if answer.iteration != iteration:
        raise ProtocolError(f"SharedGradient from rank {rank} must be of iteration {iteration}, got {answer.iteration}")
    return elements(residues, answer.gradient, rank)


def member(ch: Channel, setup: GroupSetup) -> None:
    """A worker's part in its group: the whole training."""
    ch.tolerated = ()  # every member of every group is needed
    from fedmpi.crypto.random import FieldRandom  # not loaded by workers of the coded protocol, who need no secrets

    residues = residues_of(setup.primes)
    ranks = range(setup.first_rank, setup.first_rank + setup.parties)
    if not 0 < ranks.start <= ch.rank < ranks.stop <= ch.size:
        raise ProtocolError(f"the group must have rank {ch.rank} and be among {ch.size} ranks, got {ranks}")
    coefficients = elements(residues, setup.coefficients, MASTER)
    if coefficients.ndim != 2 or coefficients.shape[1] < 2:
        raise ProtocolError(f"GroupSetup must hold two coefficients or more, got shape {coefficients.shape}")
    degree = coefficients.shape[1] - 1
    parties = [
        Party(ch, field, ranks, setup.threshold, FieldRandom(field.p), byzantine=setup.byzantine)
        for field in residues.fields
    ]
    ch.outwait(setup.timeout_seconds)
    X = receive_data(ch, residues, setup.rows, setup.columns, Stop)
    if X is None:
        ch.send(MASTER, report(ch))
        return
    ch.send(MASTER, Ready())
    reductions = reductions_of(parties, setup, degree)
    shapes = {"W": (len(residues), setup.columns, degree, setup.outputs)}
    for it in range(setup.first_iteration, setup.iterations + 1):
        weights = ch.recv_any(MASTER, (SharedWeights, Stop), shapes=shapes)
        if not isinstance(weights, SharedWeights):
            break
        if weights.iteration != it:
            raise ProtocolError(f"SharedWeights must be of iteration {it}, got {weights.iteration}")
        W = elements(residues, weights.W, MASTER)
        gradients = [
            shared_gradient(ch, field, *of_prime)
            for field, *of_prime in zip(residues.fields, X, W, coefficients, reductions, strict=True)
        ]
        ch.send(MASTER, SharedGradient(it, np.stack(gradients)))
    ch.send(MASTER, report(ch))


Reduce = Callable[[FieldArray], FieldArray]
"""From shares of degree 2T to shares of degree T, of an array of any shape."""


def shared_gradient(
    ch: Channel, field: PrimeField, X: FieldArray, W: FieldArray, coefficients: FieldArray, reduce: Reduce
) -> FieldArray:
    """[X̄ᵀ s̄]_2T from [X̄]_T and [W̄]_T, modulo one prime, shape (d, C)."""
    columns, degree, outputs = W.shape
    with ch.phase("compute"):
        z_2t = field.product(X, W.reshape(columns, -1))  # [X̄ w̄]_2T
    z = reduce(z_2t).reshape(len(X), degree, outputs)  # [X̄ w̄]_T
    power = z[:, 0]
    s = field.add(field.multiply(coefficients[1:2], power), coefficients[0:1])
    for i in range(1, degree):
        power = reduce(field.multiply(power, z[:, i]))  # [Π z]_T
        s = field.add(s, field.multiply(coefficients[i + 1 : i + 2], power))
    with ch.phase("compute"):
        return field.transposed_product(X, s)


def reductions_of(parties: list[Party], setup: GroupSetup, degree: int) -> list[Reduce]:
    """For each prime, the degree reduction of the protocol; BH08 makes its double sharings here, offline."""
    ch = parties[0].ch
    doubles: list[DoubleSharings | None] = [None] * len(parties)
    if setup.protocol == "bh08":
        per_iteration = setup.rows * setup.outputs * (2 * degree - 1)  # z_1 … z_r, and r - 1 products of them
        ch.recv(MASTER, Ready)
        with ch.patience(setup.timeout_seconds / 2), ch.phase("offline"):
            count = per_iteration * (setup.iterations - setup.first_iteration)
            doubles = list[DoubleSharings | None](double_sharings(party, count) for party in parties)
        ch.send(MASTER, Ready())
    elif setup.protocol != "bgw":
        raise ProtocolError(f"GroupSetup.protocol must be bgw or bh08, got {setup.protocol}")

    def reduction(party: Party, double: DoubleSharings | None) -> Reduce:
        def reduce(product: FieldArray) -> FieldArray:
            flat = product.reshape(-1)
            # Less patience than the master's: the member that is silent is named, and not one that waits for it.
            with ch.patience(setup.timeout_seconds / 2):
                reduced = reduce_bgw(party, flat) if double is None else reduce_bh08(party, flat, double)
            return reduced.reshape(product.shape)

        return reduce

    return [reduction(party, double) for party, double in zip(parties, doubles, strict=True)]
