"""Distributed selective SGD with Laplace noise [Shokri and Shmatikov 2015], the paper's private baseline.

Each iteration a participant shares c = ⌈θd⌉ coordinates of its gradient, clipped to [−γ, γ], with noise that makes
them ε-differentially private; S2 is not used. The coordinates are drawn at random, where the original spends 8/9 of
the budget on choosing large ones by the sparse vector technique.
"""

import math
import time
from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedmpi.crypto.random import SecretStream, Stream
from fedmpi.errors import Interrupted, ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Float64, Message, UInt32
from fedmpi.net.costs import report
from fedmpi.net.meaning import DISTINCT, between, judged
from fedmpi.ppadmm.admm import Scaling, Vector
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.plain import Observe, ignore
from fedmpi.ppadmm.protocol import Joined, Keeper, Model, State, Training, finish, join, strangers
from fedmpi.ppadmm.rounds import Finish, absence, check_present
from fedmpi.ppadmm.secure_sum import PRIMARY, participants


class Weights(Message, tag=18):
    """S1 → participants, each iteration: w, shape (d,), the intercept last if there is one."""

    iteration: int
    w: Float64


class SharedGradient(Message, tag=19):
    """Participant i → S1, each iteration: c coordinates, and noisy values at them, shapes (c,)."""

    iteration: int
    coordinates: Annotated[UInt32, judged("fedmpi.ppadmm.dssgd:check_shared", DISTINCT)]
    values: Annotated[Float64, judged("fedmpi.ppadmm.dssgd:check_shared")]


def parameter_server(
    ch: Channel,
    params: Params,
    observe: Observe = ignore,
    start: State | None = None,
    keeper: Keeper | None = None,
) -> Training:
    """S1: w ← w − η·(mean of what was shared), per coordinate.

    Parameters
    ----------
    ch : Channel
    params : Params
    observe : callable
        Called with (iteration, coefficients, intercept) while the participants compute.
    start : State, optional
        Go on from here; its z is w.
    keeper : Keeper, optional
        Writes checkpoints.
    """
    (d, joined), keeper = join(ch, params), keeper or Keeper()
    features, shared = d - params.fit_intercept, _shared(params, d)
    state = start or State(0, np.zeros(d), tuple(joined), Scaling.none(d), rho=0.0)
    state = replace(state, members=tuple(rank for rank in state.members if rank in joined))
    fewest, failures = params.fewest(len(participants(ch))), strangers(ch, joined, state.iteration)
    begun = time.perf_counter()
    try:
        while state.iteration < params.iterations:
            it, w, members = state.iteration, state.z, state.members
            if keeper.due(it):
                keeper.save(state)
            with ch.phase("communicate"):
                for rank in members:
                    ch.send(rank, Weights(it, w))
            with ch.phase("evaluate"):
                observe(it, *_model(w, features))
            with ch.phase("wait"):
                wanted = {"coordinates": (shared,), "values": (shared,)}
                judge = partial(check_shared, d, params.coordinate_clip)
                answers = ch.gather_within(
                    params.deadline, members, SharedGradient, shapes=wanted, judge=judge, iteration=it
                )
            check_present(params, fewest, members, answers)
            for rank in sorted(set(members) - answers.keys()):
                failures.append(absence(ch, rank, it))
                ch.silent |= {rank} - ch.departed.keys()
                ch.send(rank, Finish())
            with ch.phase("compute"):
                w = w - params.learning_rate * _mean({rank: answers[rank] for rank in sorted(answers)}, d)
            state = replace(state, iteration=it + 1, z=w, members=tuple(sorted(answers)))
            if keeper.advance(state):
                break
    except (Interrupted, TooFewWorkers, ProtocolError):
        if state.iteration and keeper.due(-1):
            keeper.save(state)
        raise
    seconds = time.perf_counter() - begun
    model = _model(state.z, features)
    with ch.phase("evaluate"):
        observe(state.iteration, *model)
    reports = finish(ch, Model(*model))
    return Training(*model, state.iteration, seconds=seconds, failures=failures, reports=reports)


def sgd_participant(ch: Channel, params: Params, A: Vector, b: Vector, random: Stream | None = None) -> None:
    """Participant i: shares a part of the gradient of ½‖A_i w − b_i‖²/m_i.

    Parameters
    ----------
    ch : Channel
    params : Params
    A : array, shape (m_i, d)
    b : array, shape (m_i,)
    random : Stream, optional
        Of the noise, secret.
    """
    random = SecretStream() if random is None else random
    ch.tolerated = [rank for rank in participants(ch) if rank != ch.rank]
    if params.fit_intercept:
        A = np.column_stack([A, np.ones(len(A))])
    d = A.shape[1]
    ch.send(PRIMARY, Joined(d))
    while (weights := ch.recv_latest(PRIMARY, Weights, until=Finish, shapes={"w": (d,)})) is not None:
        with ch.phase("compute"):
            gradient = A.T @ (A @ weights.w - b) / max(len(b), 1)
            coordinates, values = share(gradient, params, random)
        ch.send(PRIMARY, SharedGradient(weights.iteration, coordinates, values))
    ch.recv_any(PRIMARY, (Model,), patient=True)
    ch.send(PRIMARY, report(ch))


def share(gradient: Vector, params: Params, random: Stream) -> tuple[NDArray[np.uint32], Vector]:
    """Random coordinates of a clipped gradient, ε-differentially private against any change of the data.

    Notes
    -----
    Each of c values changes by at most 2γ, so Laplace noise of scale 2cγ/ε makes all of them together
    ε-differentially private [Dwork and Roth 2014, theorem 3.6]. Clipping again afterwards costs no privacy.
    """
    count, clip = _shared(params, len(gradient)), params.coordinate_clip
    chosen = np.argsort(_words(random, len(gradient)), kind="stable")[:count]
    values = np.clip(gradient[chosen], -clip, clip) + laplace(random, 2 * count * clip / params.epsilon, count)
    return chosen.astype(np.uint32), np.clip(values, -clip, clip)


def laplace(random: Stream, scale: float, count: int) -> Vector:
    """Laplace noise, the difference of two exponential variables, shape (count,).

    Notes
    -----
    In doubles, whose low bits tell more than the real distribution would [Mironov 2012].
    """
    words = _words(random, 4 * count).reshape(4, count).astype(np.float64)
    uniform = (np.floor(words[:2] / 2**6) * 2**27 + np.floor(words[2:] / 2**5) + 0.5) * 2.0**-53  # in (0, 1)
    one, other = np.log(uniform)
    noise: Vector = scale * (one - other)
    return noise


def _words(random: Stream, count: int) -> NDArray[np.uint32]:
    pieces = [random.words(min(1 << 16, count - start)).copy() for start in range(0, count, 1 << 16)]
    return np.concatenate(pieces)


def _shared(params: Params, d: int) -> int:
    return math.ceil(params.share_fraction * d)


def _mean(answers: dict[int, SharedGradient], d: int) -> Vector:
    """The mean over those who shared a coordinate; 0 where nobody did."""
    total, count = np.zeros(d), np.zeros(d)
    for answer in answers.values():
        total[answer.coordinates] += answer.values
        count[answer.coordinates] += 1
    mean: Vector = total / np.maximum(count, 1)
    return mean


def check_shared(d: int, clip: float, rank: int, answer: SharedGradient) -> None:
    """Refuse coordinates that there are not or that come twice, and values that are not clipped to [−γ, γ].

    Raises
    ------
    ProtocolError
    """
    coordinates = answer.coordinates
    if (coordinates >= d).any() or len(np.unique(coordinates)) < len(coordinates):
        raise ProtocolError(f"coordinates from rank {rank} must differ and be below {d}, got {coordinates}")
    if not between(-clip, clip).holds(answer.values):
        largest = np.abs(answer.values).max()
        raise ProtocolError(f"values from rank {rank} must be clipped to {clip:g}, got one of size {largest:.3g}")


def _model(w: Vector, features: int) -> tuple[Vector, float]:
    return w[:features].copy(), float(w[features:].sum())
