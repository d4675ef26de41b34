"""Consensus ADMM over participants whose updates S1 sees in sums only, one function per role.

Rank 0 is S1, the primary server; rank 1 is S2, the auxiliary server (`auxiliary.auxiliary_server`); all further
ranks are participants. Letters as in `admm`: participant i holds A_i (m_i, d), b_i (m_i,), x_i and u_i; S1 holds z.
"""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np

from fedmpi.crypto.keys import KeyPair
from fedmpi.errors import Interrupted, ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Float64, Message
from fedmpi.net.costs import Report, gather_reports, report
from fedmpi.net.meaning import between
from fedmpi.net.orders import refuse_broken_rules
from fedmpi.ppadmm.admm import Consensus, Scaling, Shard, Vector
from fedmpi.ppadmm.auxiliary import Ready
from fedmpi.ppadmm.local import Local, Shelf
from fedmpi.ppadmm.params import FIRST_ITERATION, SQUARES, SUMS, Params
from fedmpi.ppadmm.plain import Observe, ignore
from fedmpi.ppadmm.rounds import (
    Back,
    ClearUpdate,
    Finish,
    Kept,
    Order,
    Rounds,
    Unkept,
    absence,
    check_present,
    words_of,
)
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY, Done, Sender, participants


class Joined(Message, tag=2):
    """Participant i → S1, once: d, the number of features."""

    columns: Annotated[int, between(1, 2**32)]


class Model(Message, tag=16):
    """S1 → participants, at the end: coefficients in the units of the features, shape (d,), and intercept."""

    coefficients: Float64
    intercept: float


@dataclass(frozen=True, eq=False)
class State:
    """Where S1 stands before an iteration; x_i and u_i are with the participants."""

    iteration: int
    z: Vector
    """Shape (d,)."""
    members: tuple[int, ...]
    """The ranks of the participants in the last sum."""
    scaling: Scaling
    rho: float
    curvature: float = 1.0
    """The mean eigenvalue of the A_iᵀA_i."""
    dual_residual: float = math.inf


class Keeper:
    """Keeps nothing. What writes checkpoints has the same methods; see `checkpoints`."""

    def due(self, iteration: int) -> bool:
        """Whether a checkpoint is to be written before this iteration, or with -1 at a premature end."""
        return False

    def save(self, state: State) -> None:
        """Write one; every member has written its part."""

    def lack(self, iteration: int, why: str) -> None:
        """A member could not write its part: none of this iteration can be gone on from."""

    def advance(self, state: State) -> bool:
        """After an iteration: whether the training is to end; so does what it raises."""
        return False


@dataclass(frozen=True, eq=False)
class Training:
    """What S1 ends with."""

    coefficients: Vector
    """In the units of the features, shape (d,)."""
    intercept: float
    iterations: int = 0
    converged: bool = False
    """Whether the residuals stopped it."""
    rho: float = 0.0
    """At the end."""
    curvature: float = 1.0
    """The mean eigenvalue of the A_iᵀA_i."""
    seconds: float = 0.0
    """From when all had joined."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    reports: dict[int, Report] = field(default_factory=dict)


def primary_server(
    ch: Channel,
    params: Params,
    observe: Observe = ignore,
    start: State | None = None,
    keeper: Keeper | None = None,
) -> Training:
    """S1: z ← prox of the mean of x_i + u_i, of which it sees the sums only.

    Parameters
    ----------
    ch : Channel
    params : Params
    observe : callable
        Called with (iteration, coefficients, intercept) while the participants compute.
    start : State, optional
        Go on from here.
    keeper : Keeper, optional
        Writes checkpoints.
    """
    (columns, joined), keeper = join(ch, params), keeper or Keeper()
    begun = time.perf_counter()
    rounds = Rounds(ch, params, columns, [rank for rank in joined if start is None or rank in start.members])
    rounds.failures += strangers(ch, joined, start.iteration if start else 0)
    state = prepare(rounds) if start is None else start
    converged = False
    try:
        while state.iteration < params.iterations and not converged:
            state, converged = iterate(rounds, state, observe, keeper)
            if keeper.advance(state):
                break
    except (Interrupted, TooFewWorkers, ProtocolError):
        stage = FIRST_ITERATION + state.iteration
        if state.iteration and keeper.due(-1) and rounds.keep(stage, state.z, state.rho, state.members):
            keeper.save(state)
        raise
    model = state.scaling.original_units(state.z)
    seconds = time.perf_counter() - begun
    with ch.phase("evaluate"):
        observe(state.iteration, *model)
    reports = finish(ch, Model(*model))
    rho, curvature = state.rho, state.curvature
    return Training(*model, state.iteration, converged, rho, curvature, seconds, rounds.failures, reports)


def join(ch: Channel, params: Params) -> tuple[int, list[int]]:
    """S1: wait until all are ready; returns d, on which all participants must agree, and the ranks of those.

    Who is lost before that is left out, unless --on-dropout is stop.

    Raises
    ------
    TooFewWorkers
        If fewer are left than S2 answers for.
    """
    seconds, stop = ch.timeout_seconds, params.on_dropout == "stop"
    with ch.phase("offline"):
        everybody = participants(ch)
        joined = ch.gather(everybody, Joined) if stop else ch.gather_within(seconds, everybody, Joined)
        refuse_broken_rules(ch)
        if params.method == "ppadmm":
            # Where nobody has joined, all may have waited for an S2 that is silent: it is not given so long again.
            with ch.patience(seconds if joined else max(seconds / 4, min(seconds / 2, 5.0))):
                ch.recv(AUXILIARY, Ready)
    check_present(params, params.fewest(len(everybody)), everybody, joined)
    columns = joined[min(joined)].columns
    for rank, message in joined.items():
        if message.columns != columns or columns < 1:
            raise ProtocolError(f"participant (rank {rank}) must have {columns} columns, got {message.columns}")
    return columns, sorted(joined)


def strangers(ch: Channel, joined: Collection[int], iteration: int) -> list[dict[str, Any]]:
    """S1: who has never joined, for result.json."""
    ch.silent |= set(participants(ch)) - set(joined) - ch.departed.keys()
    found = [absence(ch, rank, iteration) for rank in participants(ch) if rank not in joined]
    return [one if one["rank"] in ch.departed else {**one, "reason": "did not join in time"} for one in found]


def prepare(rounds: Rounds) -> State:
    """S1: means, deviations and ρ, from sums over all participants."""
    params = rounds.params
    _, totals = rounds.add_up(SUMS, np.empty(0))
    scaling = Scaling.fit(params, totals)
    _, squares = rounds.add_up(SQUARES, scaling.means)
    scaling = scaling.with_scales(squares, totals[0])
    members = tuple(sorted(rounds.members))
    curvature = scaling.curvature(totals[0], len(members))
    return State(0, np.zeros(rounds.columns), members, scaling, params.first_rho(curvature), curvature)


def iterate(rounds: Rounds, state: State, observe: Observe, keeper: Keeper) -> tuple[State, bool]:
    """S1: one iteration; whether the z before it had converged."""
    it, keep = state.iteration, keeper.due(state.iteration)
    values = state.z if it else state.scaling.scales
    meanwhile = partial(observe, it, *state.scaling.original_units(state.z))
    total, norms = rounds.add_up(FIRST_ITERATION + it, values, state.rho, keep=keep, meanwhile=meanwhile)
    if keep and (unkept := rounds.unkept(FIRST_ITERATION + it)):
        keeper.lack(it, unkept)
    elif keep:
        keeper.save(replace(state, members=tuple(sorted(rounds.members))))
    with rounds.ch.phase("compute"):
        weights = state.scaling.weights(rounds.params)
        consensus = Consensus(rounds.params, weights, state.rho, state.z, state.curvature, state.dual_residual)
        converged = consensus.update(total, norms, len(rounds.members), it)
    members, dual = tuple(sorted(rounds.members)), consensus.dual_residual
    z, rho = consensus.z, consensus.rho
    return replace(state, iteration=it + 1, z=z, rho=rho, dual_residual=dual, members=members), converged


def finish(ch: Channel, model: Message) -> dict[int, Report]:
    """S1: end the training everywhere, and return what the ranks report; it does not wait for one that hangs."""
    with ch.phase("close"):
        ch.send(AUXILIARY, Done())
        for rank in participants(ch):
            ch.send(rank, Finish())
            ch.send(rank, model)
        return gather_reports(ch)


@dataclass(frozen=True, eq=False)
class Own:
    """What a participant brings along. Its rows stay with it."""

    A: Vector
    """Shape (m_i, d)."""
    b: Vector
    """Shape (m_i,)."""
    salt: bytes
    """As for `secure_sum.Sender`."""
    new_pair: Callable[[], KeyPair] = KeyPair
    """As for `secure_sum.Sender`."""
    shelf: Shelf | None = None
    """Where its checkpoints are."""
    first_iteration: int = 0
    """The one that a resumed run goes on with."""


def participant(ch: Channel, params: Params, own: Own) -> tuple[Vector, float]:
    """Participant i: x_i ← (A_iᵀA_i + ρI)⁻¹(A_iᵀb_i + ρ(z − u_i)), u_i ← u_i + x_i − z.

    Returns
    -------
    coefficients : array, shape (d,)
    intercept : float
        The model that S1 publishes at the end.
    """
    ch.tolerated = [rank for rank in participants(ch) if rank != ch.rank]
    local, columns = Local(Shard(own.A, own.b), own.shelf, own.first_iteration), own.A.shape[1]
    sender: Sender | None = None
    if params.method == "ppadmm":
        with ch.phase("offline"):
            sender = Sender(ch, params, words_of(FIRST_ITERATION, columns), own.salt, own.new_pair)
    ch.send(PRIMARY, Joined(columns))
    waiting = False
    while (order := ch.recv_latest(PRIMARY, Order, until=Finish, shapes={"values": (None,)})) is not None:
        if not order.asked:
            if order.keep and order.counted:
                local.step(order)
                ch.send(PRIMARY, Unkept(order.stage, local.refused) if local.refused else Kept(order.stage))
            elif not waiting:
                ch.send(PRIMARY, Back())
                waiting = True
            continue
        waiting = False
        with ch.phase("compute"):
            vector = local.answer(order)
        if local.refused:
            ch.send(PRIMARY, Unkept(order.stage, local.refused))
        if vector is None:
            continue
        if sender is not None:
            sender.send(order.round, order.stage, (order.counted, order.digest), *vector)
        else:
            ch.send(PRIMARY, ClearUpdate(order.round, np.concatenate(vector)))
    # Who was left out waits for as long as the others work.
    model = ch.recv_any(PRIMARY, (Model,), shapes={"coefficients": (columns,)}, patient=True)
    assert isinstance(model, Model)
    ch.send(PRIMARY, report(ch))
    return model.coefficients, model.intercept
