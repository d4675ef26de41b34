"""Consensus ADMM over participants whose updates S1 sees in sums only, one function per role.

Rank 0 is S1, the primary server; rank 1 is S2, the auxiliary server (`secure_sum.auxiliary_server`); all further
ranks are participants. Letters as in `admm`: participant i holds A_i (m_i, d), b_i (m_i,), x_i and u_i; S1 holds z.

Everything is added up in stages, each in one round unless a round fails: stage 0 the moments, stage 1 the squares,
stage 2 + k iteration k.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fedmpi.core.fixed_point import decode, decode_wide
from fedmpi.crypto.keys import KeyPair
from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Float64, Message
from fedmpi.net.report import Report
from fedmpi.ppadmm.admm import NORMS, Consensus, Scaling, Shard, Vector
from fedmpi.ppadmm.params import FIRST_ITERATION, SQUARES, SUMS, Params
from fedmpi.ppadmm.plain import Observe, ignore
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY, Done, MaskedUpdate, Ready, Sender, open_sum, participants

REPORT_SECONDS = 10.0
"""How long S1 waits at the end for what the others have to report."""


class Joined(Message, tag=2):
    """Participant i → S1, once: d, the number of features."""

    columns: int


class Order(Message, tag=3):
    """S1 → participant i, each round: what to send now, and what came of the last round.

    `counted`: whether i's vector was in the last sum. `asked`: whether i takes part in this round; else it may
    say that it is `Back`. `values` are, by stage: nothing; the means of features and target, shape (d + 1,); ρ and
    the scales, shape (d + 1,); then z, shape (d,).
    """

    round: int
    stage: int
    counted: bool
    asked: bool
    values: Float64


class ClearUpdate(Message, tag=5):
    """Participant i → S1, each round of --method admm: v_i as it is, shape (d + NORMS,). Not private."""

    round: int
    values: Float64


class Back(Message, tag=14):
    """Participant i → S1: I was left out, and can take part again."""


class Finish(Message, tag=15):
    """S1 → participants: no more orders; the model comes behind."""


class Model(Message, tag=16):
    """S1 → participants, at the end: coefficients in the units of the features, shape (d,), and intercept."""

    coefficients: Float64
    intercept: float


@dataclass(frozen=True, eq=False)
class Training:
    """What S1 ends with."""

    coefficients: Vector
    """In the units of the features, shape (d,)."""
    intercept: float
    iterations: int = 0
    rows: float = 0.0
    """m, of all participants together."""
    rho: float = 0.0
    seconds: float = 0.0
    """From when all had joined."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    reports: dict[int, Report] = field(default_factory=dict)


def primary_server(ch: Channel, params: Params, observe: Observe = ignore) -> Training:
    """S1: z ← prox of the mean of x_i + u_i, of which it sees the sums only.

    Parameters
    ----------
    ch : Channel
    params : Params
    observe : callable
        Called with (iteration, coefficients, intercept) while the participants compute.
    """
    columns = join(ch, params)
    start = time.perf_counter()
    rounds = Rounds(ch, params, columns)
    _, totals = rounds.add_up(SUMS, np.empty(0))
    scaling = Scaling.fit(params, totals)
    _, squares = rounds.add_up(SQUARES, np.append(scaling.means, scaling.target_mean))
    if params.standardize:
        scaling = scaling.with_scales(squares, totals[0])
    rho = params.penalty_parameter(float((squares / scaling.scales**2).sum()), columns, len(rounds.members))
    consensus, values = Consensus(params, columns, rho), np.append(rho, scaling.scales)
    done, converged = 0, False
    while done < params.iterations and not converged:
        model = scaling.original_units(consensus.z)
        total, norms = rounds.add_up(FIRST_ITERATION + done, values, partial(observe, done, *model))
        with ch.phase("compute"):
            converged = consensus.update(total, norms, len(rounds.members))
        values, done = consensus.z, done + 1
    model = scaling.original_units(consensus.z)
    seconds = time.perf_counter() - start
    with ch.phase("evaluate"):
        observe(done, *model)
    reports = finish(ch, Model(*model))
    return Training(*model, done, float(totals[0]), rho, seconds, rounds.failures, reports)


def join(ch: Channel, params: Params) -> int:
    """S1: wait until all are ready; returns d, on which all participants must agree."""
    with ch.phase("offline"):
        joined = ch.gather(participants(ch), Joined)
        if params.method == "ppadmm":
            ch.recv(AUXILIARY, Ready)
    columns = joined[participants(ch)[0]].columns
    for rank, message in joined.items():
        if message.columns != columns or columns < 1:
            raise ProtocolError(f"participant (rank {rank}) must have {columns} columns, got {message.columns}")
    return columns


class Rounds:
    """S1's end of every sum, and who takes part in it.

    Parameters
    ----------
    ch : Channel
    params : Params
    columns : int
        d.
    """

    def __init__(self, ch: Channel, params: Params, columns: int):
        self.ch, self.params, self.columns = ch, params, columns
        self.members = set(participants(ch))
        self.away: set[int] = set()
        self.failures: list[dict[str, Any]] = []
        self.fewest = params.fewest(len(self.members))
        self._round = -1
        if params.on_dropout != "stop":
            ch.tolerated = participants(ch)

    def add_up(self, stage: int, values: Vector, meanwhile: Callable[[], None] = lambda: None) -> tuple[Vector, Vector]:
        """The sums of what the participants send in a stage: one number a feature, and the wide ones behind.

        Parameters
        ----------
        stage : int
        values : array
            For the `Order`.
        meanwhile : callable
            Called while the participants compute.
        """
        values = values.copy()
        values.flags.writeable = False  # lets the channel send it without a copy
        counted = set(self.members)
        while True:
            self._round += 1
            with self.ch.phase("communicate"):
                self._order(stage, counted, values)
            with self.ch.phase("evaluate"):
                meanwhile()
            opened = self._open_masked(stage) if self.params.method == "ppadmm" else self._open_clear(stage)
            if opened is not None:
                return opened
            meanwhile = lambda: None  # noqa: E731

    def _order(self, stage: int, counted: set[int], values: Vector) -> None:
        if self.away:
            back = self.ch.gather_within(0, self.away, Back)
            self.members |= back.keys()
            self.away -= back.keys()
        for rank in sorted(self.members | (self.away - self.ch.departed.keys())):
            # One that is away and has not taken the last order gets no more of them.
            if rank in self.members or not self.ch.transport.outstanding_bytes(rank):
                self.ch.send(rank, Order(self._round, stage, rank in counted, rank in self.members, values))

    def _gather(self, cls: type[Any], name: str, count: int) -> dict[int, Any]:
        with self.ch.phase("wait"):
            updates: dict[int, Any] = self.ch.gather_within(
                self.params.deadline, self.members, cls, shapes={name: (count,)}, round=self._round
            )
        for failed in self.ch.departed.values():
            if failed.exit_code == 2:  # its data or its values break a rule: no round can mend that
                raise failed
        return updates

    def _open_masked(self, stage: int) -> tuple[Vector, Vector] | None:
        narrow, wide = layout(stage, self.columns)
        updates: dict[int, MaskedUpdate] = self._gather(MaskedUpdate, "words", narrow + 2 * wide)
        with self.ch.phase("wait"):
            opened = open_sum(self.ch, self.params, self._round, stage, updates)
        if opened is None:
            return None
        words, members = opened
        self._leave_out(members, stage)
        return decode(words[:narrow], self.params.fraction_bits), decode_wide(words[narrow:])

    def _open_clear(self, stage: int) -> tuple[Vector, Vector]:
        narrow, wide = layout(stage, self.columns)
        updates: dict[int, ClearUpdate] = self._gather(ClearUpdate, "values", narrow + wide)
        lost = sorted(self.members - updates.keys())
        if len(updates) < self.fewest or (lost and self.params.on_dropout == "stop"):
            raise TooFewWorkers(f"at least {self.fewest} participants must answer, got {len(updates)}; none of {lost}")
        self._leave_out(set(updates), stage)
        total = np.zeros(narrow + wide)
        for rank in sorted(updates):
            total += updates[rank].values
        return total[:narrow], total[narrow:]

    def _leave_out(self, members: set[int], stage: int) -> None:
        """Go on with the members; the others are sent home, or may come back."""
        for rank in sorted(self.members - members):
            failed = self.ch.departed.get(rank)
            reason = str(failed) if failed else f"participant (rank {rank}) missed the deadline"
            self.failures.append({"rank": rank, "iteration": stage - FIRST_ITERATION, "reason": reason})
            if self.params.on_dropout == "rejoin":
                self.away.add(rank)
            else:
                self.ch.send(rank, Finish())
        self.members = members


def layout(stage: int, columns: int) -> tuple[int, int]:
    """How many numbers of a stage take one word, and how many behind them take two."""
    if stage < FIRST_ITERATION:
        return 0, columns + 2 if stage == SUMS else columns
    return columns, NORMS


def finish(ch: Channel, model: Message) -> dict[int, Report]:
    """S1: end the training everywhere, and return what the ranks report; it does not wait for one that hangs."""
    with ch.phase("close"):
        ch.send(AUXILIARY, Done())
        for rank in participants(ch):
            ch.send(rank, Finish())
            ch.send(rank, model)
        return ch.gather_within(min(REPORT_SECONDS, ch.timeout_seconds), range(1, ch.size), Report)


def participant(
    ch: Channel, params: Params, A: Vector, b: Vector, salt: bytes, new_pair: Callable[[], KeyPair] = KeyPair
) -> tuple[Vector, float]:
    """Participant i: x_i ← (A_iᵀA_i + ρI)⁻¹(A_iᵀb_i + ρ(z − u_i)), u_i ← u_i + x_i − z.

    Parameters
    ----------
    ch : Channel
    params : Params
    A : array, shape (m_i, d)
        Its rows; they stay here.
    b : array, shape (m_i,)
    salt, new_pair
        As for `secure_sum.Sender`.

    Returns
    -------
    coefficients : array, shape (d,)
    intercept : float
        The model that S1 publishes at the end.
    """
    ch.tolerated = [rank for rank in participants(ch) if rank != ch.rank]
    local = Local(Shard(A, b))
    columns = A.shape[1]
    sender: Sender | None = None
    if params.method == "ppadmm":
        with ch.phase("offline"):
            sender = Sender(ch, params, sum(layout(FIRST_ITERATION, columns)) + NORMS, salt, new_pair)
    ch.send(PRIMARY, Joined(columns))
    sent, waiting = -1, False
    while (order := ch.recv_latest(PRIMARY, Order, until=Finish, shapes={"values": (None,)})) is not None:
        if not order.asked:
            if not waiting:
                ch.send(PRIMARY, Back())
            waiting = True
            continue
        waiting = False
        with ch.phase("compute"):
            vector = local.answer(order, counted=order.counted and order.round == sent + 1)
        if vector is None:
            continue
        if sender is not None:
            sender.send(order.round, order.stage, *vector)
        else:
            ch.send(PRIMARY, ClearUpdate(order.round, np.concatenate(vector)))
        sent = order.round
    model = ch.recv(PRIMARY, Model, shapes={"coefficients": (columns,)})
    return model.coefficients, model.intercept


class Local:
    """What a participant makes of S1's orders.

    Parameters
    ----------
    shard : Shard
    """

    def __init__(self, shard: Shard):
        self.shard = shard
        self._stage = -1
        self._vector: tuple[Vector, Vector] | None = None

    def answer(self, order: Order, counted: bool) -> tuple[Vector, Vector] | None:
        """What to send: one number a feature, and the wide ones behind; None if it can't take part.

        Parameters
        ----------
        order : Order
        counted : bool
            Whether its last vector was in the last sum. If it was not, u_i stays as it is.
        """
        if order.stage == self._stage:  # a round failed: the same again, under another mask
            return self._vector
        if not self.shard.begun and order.stage != self._stage + 1:  # it slept through a part of the preparation
            return None
        shard, nothing, values = self.shard, np.empty(0), order.values
        sizes = {SUMS: 0, SQUARES: shard.columns + 1, FIRST_ITERATION: shard.columns + 1}
        if values.shape != (sizes.get(order.stage, shard.columns),):
            raise ProtocolError(f"Order of stage {order.stage} must have other values, got shape {values.shape}")
        if order.stage == SUMS:
            self._vector = nothing, shard.sums()
        elif order.stage == SQUARES:
            self._vector = nothing, shard.squares(values)
        elif order.stage == FIRST_ITERATION:
            shard.begin(float(values[0]), values[1:])
            self._vector = shard.update(np.zeros(shard.columns))
        else:
            if counted:
                shard.dual_step(values)
            self._vector = shard.update(values)
        self._stage = order.stage
        return self._vector
