"""Algorithm 2 of NISS [Yang et al. 2021], one function per role.

Letters: K clients, M_t the m clients of round t, p_k their weights, h parameters, n_i a share of noise, r_i a share
received (the -n_i of another), s_i its distortion, σ_k² the variance of a client's noise, v the number of its shares.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.federated import messages as federation
from fedmpi.net import Channel, Message
from fedmpi.net.message import Float64, UInt8, UInt32

if TYPE_CHECKING:  # the tracker does not load torch
    from fedmpi.niss.params import Params

TRACKER, FIRST_HOST = 1, 2

KEY_BYTES = 32
"""Of a client's public key."""


class TrackerSetup(Message, tag=12):
    """Server → tracker, once: σ², a fixed v (0: none), and what `assignment.Kept` knows; public."""

    unit_variance: float
    share_count: int
    coalitions: int
    tau2: float
    collusion: float
    delta: float
    paper_noise: bool
    timeout_seconds: float


class Round(Message, tag=3):
    """Server → host, each round: its clients in M_t, their weights p_k, and w_t, shape (h,)."""

    round: int
    clients: UInt32
    weights: Float64
    w: Float64


class Sampled(Message, tag=4):
    """Server → tracker, each round: M_t."""

    round: int
    clients: UInt32


class Alive(Message, tag=5):
    """Host → tracker, each round: its clients that want to share, their σ_k² (public), fresh public keys (n, 32)."""

    round: int
    clients: UInt32
    variances: Float64
    keys: UInt8


class Neighbours(Message, tag=6):
    """Tracker → host, each round: the shares (sender, receiver) with an end there, σ_k²/v of each, the ends' keys."""

    round: int
    senders: UInt32
    receivers: UInt32
    variances: Float64
    clients: UInt32
    keys: UInt8


class Shares(Message, tag=7):
    """Host → host, each round: sealed shares -n_i, shape (shares, bytes)."""

    round: int
    senders: UInt32
    receivers: UInt32
    sealed: UInt8


class Uploads(Message, tag=8):
    """Host → server, each round: p_k w + Σ(n_i + s_i r_i) of its clients that are still there, shape (n, h)."""

    round: int
    clients: UInt32
    values: Float64


class Arrived(Message, tag=9):
    """Server → tracker, each round: the clients whose uploads count."""

    round: int
    clients: UInt32


class Ledger(Message, tag=10):
    """Tracker → server, each round: clients that shared, least and largest v, variance of the noise that stayed."""

    round: int
    alive: int
    least: int
    largest: int
    variance: float


@dataclass(frozen=True, eq=False)
class State:
    """What a training goes on from."""

    round: int
    """Rounds that are done."""
    w: NDArray[np.float64]
    """Parameters, shape (h,)."""
    uploads: NDArray[np.int64]
    """Rounds in which each client was asked for an upload, shape (K,)."""
    noise: tuple[float, ...] = ()
    """Of each round the standard deviation of the noise in the aggregate over the largest sensitivity."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Who is asked in a round."""

    clients: NDArray[np.uint32]
    """M_t, sorted."""
    rows: NDArray[np.int64]
    """d_k of each."""

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """p_k of each."""
        weights: NDArray[np.float64] = self.rows / self.rows.sum()
        return weights


@dataclass(frozen=True)
class Outcome:
    """What the server saw of a round."""

    round: int
    sampled: int
    arrived: int
    lost: list[dict[str, Any]]
    """Clients without an upload that counts, and why."""
    least_shares: int = 0
    largest_shares: int = 0
    noise_std: float = 0.0
    """Per coordinate, of the noise in the new parameters, from σ_k, τ and the dropouts."""


@dataclass(frozen=True)
class Watch:
    """What the server's caller is told; each may end the training by raising."""

    before: Callable[[State, NDArray[np.uint32]], bool] = lambda state, clients: True
    """(state, M_t) → whether the round may begin."""
    during: Callable[[State], None] = lambda state: None
    """While the clients compute."""
    after: Callable[[State, Outcome], bool] = lambda state, outcome: False
    """Whether the round was the last."""


@dataclass(frozen=True, eq=False)
class Federation:
    """Who is there."""

    rows: NDArray[np.int64]
    """d_k of every client, shape (K,)."""
    hosts: range
    """Ranks."""

    def host(self, client: int) -> int:
        """The rank on which a client lives."""
        return self.hosts[client % len(self.hosts)]


def setup(ch: Channel, params: "Params", job: str, clients: int, digest: bytes = b"") -> Federation:
    """Server: tell everybody what is to be done, and hear who holds how many rows."""
    fixed = params.share_count or 0
    kept, tau2 = params.kept, params.tau2 if params.paper_noise else params.kept.tau2
    rule = TrackerSetup(
        params.unit_variance, fixed, kept.coalitions, tau2, kept.collusion, kept.delta, params.paper_noise,
        ch.timeout_seconds,
    )  # fmt: skip
    ch.send(TRACKER, rule)
    return Federation(federation.setup(ch, job, clients, FIRST_HOST, digest), range(FIRST_HOST, ch.size))


def server(
    ch: Channel,
    params: "Params",
    fed: Federation,
    sample: Callable[[int], NDArray[np.uint32]],
    start: State,
    watch: Watch,
) -> State:
    """Algorithm 2, the lines of the PS. Clients and hosts may drop out; their uploads are then missing in the sum.

    Parameters
    ----------
    sample : callable
        Round → M_t, sorted.
    start : State
        Initial parameters, or those of an earlier run.

    Raises
    ------
    TooFewWorkers
        If no host is left.
    """
    state = start
    for t in range(start.round, params.rounds):
        chosen = sample(t)
        if not watch.before(state, chosen):
            break
        cohort = Cohort(chosen, fed.rows[chosen])
        weights = cohort.weights
        with ch.phase("communicate"):
            if params.method == "niss":
                ch.send(TRACKER, Sampled(t, chosen))
            asked = {}
            w = state.w.copy()
            w.flags.writeable = False  # lets the channel send it without a copy
            for rank in fed.hosts:
                here = chosen % len(fed.hosts) == rank - FIRST_HOST
                if here.any() and rank not in ch.departed:
                    asked[rank] = chosen[here]
                    ch.send(rank, Round(t, chosen[here], weights[here], w))
        with ch.phase("evaluate"):
            watch.during(state)
        with ch.phase("wait"):
            answers = ch.gather_within(
                ch.timeout_seconds, asked, Uploads, shapes={"values": (None, len(w)), "clients": (None,)}, round=t
            )
        with ch.phase("decode"):
            total, arrived, lost = aggregate(ch, chosen, asked, answers)
        if len(ch.departed.keys() & set(fed.hosts)) == len(fed.hosts):
            raise TooFewWorkers(
                f"round {t}: uploads must come from at least 1 host, got 0: {next(iter(ch.departed.values()))}"
            )
        outcome = Outcome(t, len(chosen), len(arrived), lost)
        part = weights[np.isin(chosen, arrived)].sum()
        outcome = account(ch, params, outcome, cohort, np.array(arrived, np.uint32))
        uploads = state.uploads.copy()
        uploads[chosen] += 1
        largest = max(params.sensitivity(p, d) for p, d in zip(weights, cohort.rows, strict=True))
        noise = (*state.noise, outcome.noise_std * float(part) / largest)
        state = State(t + 1, total / part if len(arrived) else state.w, uploads, noise)
        if watch.after(state, outcome):
            break
    return state


def aggregate(
    ch: Channel, chosen: NDArray[np.uint32], asked: dict[int, NDArray[np.uint32]], answers: dict[int, Uploads]
) -> tuple[NDArray[np.float64], list[int], list[dict[str, Any]]]:
    """Σ of the uploads that came and are numbers, the clients they are from, and why others are not among them."""
    values: dict[int, NDArray[np.float64]] = {}
    for rank, answer in answers.items():
        own = set(asked[rank].tolist())
        named = answer.clients.tolist()
        if len(named) != len(answer.values) or len(set(named)) != len(named) or not set(named) <= own:
            raise ProtocolError(f"Uploads from rank {rank} must be of clients {sorted(own)}, got {named}")
        values |= dict(zip(named, answer.values, strict=True))
    wrong = {k for k, value in values.items() if not np.isfinite(value).all()}
    arrived = sorted(values.keys() - wrong)
    total = np.zeros(next(iter(values.values())).shape if values else 0)
    for k in arrived:
        total += values[k]
    lost = []
    for rank, clients in asked.items():
        gone = (
            f"host {ch.departed[rank]}" if rank in ch.departed else "dropped out" if rank in answers else "sent nothing"
        )
        lost += [
            {"client": k, "reason": "uploaded a value that must be finite" if k in wrong else gone}
            for k in clients.tolist()
            if k not in arrived
        ]
    known = {entry["client"] for entry in lost} | set(arrived)
    lost += [{"client": k, "reason": "lives on a host that has departed"} for k in chosen.tolist() if k not in known]
    return total, arrived, sorted(lost, key=lambda entry: int(entry["client"]))


def account(ch: Channel, params: "Params", outcome: Outcome, cohort: Cohort, arrived: NDArray[np.uint32]) -> Outcome:
    """The noise that is left in the new parameters; with NISS the tracker works it out from who arrived."""
    here = np.isin(cohort.clients, arrived)
    part = cohort.weights[here].sum()
    if params.method != "niss":
        stds = [params.std(p, d) for p, d in zip(cohort.weights[here], cohort.rows[here], strict=True)]
        variance = sum(std**2 for std in stds)
        return replace(outcome, noise_std=variance**0.5 / part if part else 0.0)
    with ch.phase("wait"):
        ch.send(TRACKER, Arrived(outcome.round, arrived))
        ledger = ch.gather_first(1, [TRACKER], Ledger, round=outcome.round)[TRACKER]
    if not 0 <= ledger.variance < float("inf"):
        raise ProtocolError(f"the variance of the noise left must not be negative, got {ledger.variance}")
    return replace(
        outcome,
        least_shares=ledger.least,
        largest_shares=ledger.largest,
        noise_std=ledger.variance**0.5 / part if part else 0.0,
    )
