"""Algorithm 2 of NISS [Yang et al. 2021], one function per role.

Letters: K clients, M_t the m clients of round t, p_k their weights, h parameters, n_i a share of noise, r_i a share
received (the -n_i of another), s_i its distortion, σ_k² the variance of a client's noise, v the number of its shares.
"""

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.federated import masked
from fedmpi.federated import messages as federation
from fedmpi.net import Channel, Message
from fedmpi.net.meaning import DISTINCT, LARGEST, LIST, PART, POSITIVE, SEALED, between, judged
from fedmpi.net.message import Float64, UInt8, UInt32
from fedmpi.niss.noise import GRID_BITS
from fedmpi.securesum.public_keys import PUBLIC_KEYS
from fedmpi.securesum.scheme import Scheme, Words

if TYPE_CHECKING:  # the tracker does not load torch
    from fedmpi.niss.params import Params

TRACKER, FIRST_HOST = 1, 2

KEY_BYTES = 32
"""Of a client's public key."""


class TrackerSetup(Message, tag=12):
    """Server → tracker, once: σ², a fixed v (0: none), and what `assignment.Kept` knows; public.

    `tau2s`: τ_k² of each client that has its own, NaN for the others, shape (K,); empty where none has.
    """

    unit_variance: Annotated[float, POSITIVE]
    share_count: int
    coalitions: Annotated[int, between(1, 2**32)]
    tau2: Annotated[float, PART]
    collusion: Annotated[float, between(0, 1)]
    delta: Annotated[float, between(0, 1)]
    paper_noise: bool
    timeout_seconds: Annotated[float, POSITIVE]
    tau2s: Annotated[Float64, judged("fedmpi.niss.tracker:own_rules")]


class Round(Message, tag=3):
    """Server → host, each round: its clients in M_t, their weights p_k, and w_t, shape (h,)."""

    round: int
    clients: Annotated[UInt32, judged("fedmpi.niss.client:asked_here", DISTINCT)]
    weights: Annotated[Float64, between(0, 1)]
    w: Float64


class Sampled(Message, tag=4):
    """Server → tracker, each round: M_t, and the ranks of the hosts that are asked: the others have said nothing."""

    round: int
    clients: Annotated[UInt32, DISTINCT]
    hosts: Annotated[UInt32, DISTINCT]


class Alive(Message, tag=5):
    """Host → tracker, each round: its clients that want to share, their σ_k² (public), fresh public keys (n, 32)."""

    round: int
    clients: Annotated[UInt32, judged("fedmpi.niss.tracker:check_attendance", DISTINCT)]
    variances: Annotated[Float64, PART]
    keys: Annotated[UInt8, PUBLIC_KEYS]


class Neighbours(Message, tag=6):
    """Tracker → host, each round: the shares (sender, receiver) with an end there, σ_k²/v of each, the ends' keys."""

    round: int
    senders: Annotated[UInt32, judged("fedmpi.niss.client:understood", LIST)]
    receivers: Annotated[UInt32, judged("fedmpi.niss.client:understood", LIST)]
    variances: Annotated[Float64, PART]
    clients: Annotated[UInt32, DISTINCT]
    keys: Annotated[UInt8, PUBLIC_KEYS]


class Shares(Message, tag=7):
    """Host → host, each round: sealed shares -n_i, shape (shares, bytes)."""

    round: int
    senders: Annotated[UInt32, judged("fedmpi.niss.client:open_shares", LIST)]
    receivers: Annotated[UInt32, judged("fedmpi.niss.client:open_shares", LIST)]
    sealed: Annotated[UInt8, SEALED]


class Uploads(Message, tag=8):
    """Host → server, each round: p_k w + Σ(n_i + s_i r_i) of its clients that are still there, shape (n, h)."""

    round: int
    clients: Annotated[UInt32, judged("fedmpi.niss.protocol:check_uploads", DISTINCT)]
    values: Annotated[Float64, judged("fedmpi.niss.protocol:aggregate")]


class Arrived(Message, tag=9):
    """Server → tracker, each round: the clients whose uploads count."""

    round: int
    clients: Annotated[UInt32, DISTINCT]


class Ledger(Message, tag=10):
    """Tracker → server, each round: clients that shared, least and largest v, variance of the noise that stayed."""

    round: int
    alive: int
    least: int
    largest: int
    variance: Annotated[float, PART]


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


def setup(
    ch: Channel,
    params: "Params",
    job: str,
    clients: int,
    digest: bytes = b"",
    dealt: NDArray[np.int64] | None = None,
) -> Federation:
    """Server: tell everybody what is to be done, and hear who holds how many rows; `dealt` as in `federation.setup`."""
    fixed = params.share_count or 0
    kept, tau2 = params.kept, params.tau2 if params.paper_noise else params.kept.tau2
    rule = TrackerSetup(
        params.unit_variance, fixed, kept.coalitions, tau2, kept.collusion, kept.delta, params.paper_noise,
        ch.timeout_seconds, params.own_tau2s(clients),
    )  # fmt: skip
    ch.send(TRACKER, rule)
    return Federation(federation.setup(ch, job, clients, FIRST_HOST, digest, dealt), range(FIRST_HOST, ch.size))


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
    state, scheme = start, params.summing(len(fed.rows), len(start.w))
    together = params.distributed(len(fed.rows), len(start.w))
    for t in range(start.round, params.rounds):
        chosen = sample(t)
        chosen = chosen[fed.rows[chosen] > 0]  # of whom no host ever came
        if not watch.before(state, chosen):
            break
        cohort = Cohort(chosen, fed.rows[chosen])
        weights = cohort.weights
        with ch.phase("communicate"):
            w = state.w.copy()
            w.flags.writeable = False  # lets the channel send it without a copy
            shapes = {"values": (None, len(w)), "clients": (None,)}
            ch.gather_within(0, [*ch.silent], Uploads, shapes=shapes)  # late, but they are there: silent no more
            homes = {rank: chosen % len(fed.hosts) == rank - FIRST_HOST for rank in fed.hosts}
            there = [rank for rank in fed.hosts if rank not in ch.departed and rank not in ch.silent]
            asked = {rank: chosen[homes[rank]] for rank in there if homes[rank].any()}
            if params.method == "niss":
                ch.send(TRACKER, Sampled(t, chosen, np.array([*asked], np.uint32)))
            for rank, clients in asked.items():
                ch.send(rank, Round(t, clients, weights[homes[rank]], w))
        with ch.phase("evaluate"):
            watch.during(state)
        if together is not None and scheme is not None:
            words, survivors, lost = words_of(ch, scheme, asked, t, chosen)
            outcome = Outcome(t, len(chosen), len(survivors), lost, noise_std=together.spread(len(survivors)))
            uploads, noise = state.uploads.copy(), (*state.noise, together.multiplier(len(survivors)))
            uploads[chosen] += 1
            state = State(t + 1, state.w + together.mean(words, len(survivors)), uploads, noise)
            if watch.after(state, outcome):
                break
            continue
        total, arrived, lost = uploads_of(ch, scheme, asked, t, len(w), chosen)
        outcome = Outcome(t, len(chosen), len(arrived), lost)
        part = weights[np.isin(chosen, arrived)].sum()
        outcome = account(ch, params, outcome, cohort, np.array(arrived, np.uint32))
        if ch.departed.keys() | ch.silent >= set(fed.hosts):
            raise TooFewWorkers(f"round {t}: uploads must come from at least 1 host, got 0: {told_of(ch, fed.hosts)}")
        uploads = state.uploads.copy()
        uploads[chosen] += 1
        each = [params.sensitivity(p, d) for p, d in zip(weights, cohort.rows, strict=True)]
        noise = (*state.noise, outcome.noise_std * float(part) / max(each) if each else float("inf"))
        state = State(t + 1, total / part if len(arrived) else state.w, uploads, noise)
        if watch.after(state, outcome):
            break
    return state


def uploads_of(
    ch: Channel,
    scheme: Scheme | None,
    asked: dict[int, NDArray[np.uint32]],
    t: int,
    h: int,
    chosen: NDArray[np.uint32],
) -> tuple[NDArray[np.float64], list[int], list[dict[str, Any]]]:
    """Σ of the uploads of a round, the clients they are from, and why others are not among them.

    Parameters
    ----------
    scheme : Scheme or None
        How they are added up in secret; None: they come as they are.
    asked : dict
        Host → its clients of the round.
    """
    if scheme is None:
        with ch.phase("wait"):
            shapes, judge = {"values": (None, h), "clients": (None,)}, partial(check_uploads, asked)
            answers = ch.gather_within(ch.timeout_seconds, asked, Uploads, shapes=shapes, judge=judge, round=t)
        ch.silent |= asked.keys() - answers.keys() - ch.departed.keys()
        with ch.phase("decode"):
            return aggregate(ch, chosen, asked, answers)
    words, survivors, lost = words_of(ch, scheme, asked, t, chosen)
    return scheme.decode(words, GRID_BITS), sorted(survivors), lost


def words_of(
    ch: Channel, scheme: Scheme, asked: dict[int, NDArray[np.uint32]], t: int, chosen: NDArray[np.uint32]
) -> tuple[Words, set[int], list[dict[str, Any]]]:
    """Σ of the words of the clients that survive a secure sum, who they are, and why others are not among them."""
    with ch.phase("wait"):
        homes = {rank: frozenset(clients.tolist()) for rank, clients in asked.items()}
        words, survivors = masked.collect(ch, scheme, homes, t)
    present = {rank for rank in asked if rank not in ch.departed}
    return words, survivors, missing(ch, chosen, asked, survivors, present)


def told_of(ch: Channel, hosts: range) -> str:
    """Why hosts are not there, for people."""
    silent = f"said nothing for {ch.timeout_seconds:g} s"
    return "; ".join(str(ch.departed.get(rank, f"{ch.role_of(rank)} (rank {rank}) {silent}")) for rank in hosts)


def check_uploads(asked: Mapping[int, NDArray[np.uint32]], rank: int, answer: Uploads) -> None:
    """Refuse uploads of other clients than a host was asked for, or of one twice.

    Raises
    ------
    ProtocolError
    """
    own, named = set(asked[rank].tolist()), answer.clients.tolist()
    if len(named) != len(answer.values) or len(set(named)) != len(named) or not set(named) <= own:
        raise ProtocolError(f"Uploads from rank {rank} must be of clients {sorted(own)}, got {named}")


def aggregate(
    ch: Channel, chosen: NDArray[np.uint32], asked: dict[int, NDArray[np.uint32]], answers: dict[int, Uploads]
) -> tuple[NDArray[np.float64], list[int], list[dict[str, Any]]]:
    """Σ of the uploads that came and are numbers, the clients they are from, and why others are not among them."""
    values: dict[int, NDArray[np.float64]] = {}
    within = between(-LARGEST, LARGEST)
    for answer in answers.values():
        values |= dict(zip(answer.clients.tolist(), answer.values, strict=True))
    wrong = {k for k, value in values.items() if not within.holds(value)}
    arrived = sorted(values.keys() - wrong)
    total = np.zeros(next(iter(values.values())).shape if values else 0)
    for k in arrived:
        total += values[k]
    lost = missing(ch, chosen, asked, arrived, answers)
    for entry in lost:
        if entry["client"] in wrong:
            entry["reason"] = f"uploaded values that must {within.text}"
    return total, arrived, lost


def missing(
    ch: Channel,
    chosen: NDArray[np.uint32],
    asked: dict[int, NDArray[np.uint32]],
    arrived: Collection[int],
    answered: Container[int],
) -> list[dict[str, Any]]:
    """The clients of a round of which nothing counts, and why."""
    lost = []
    for rank, clients in asked.items():
        gone = "dropped out" if rank in answered else f"host (rank {rank}) sent nothing for {ch.timeout_seconds:g} s"
        if rank in ch.departed:
            gone = f"host {ch.departed[rank]}"
        lost += [{"client": k, "reason": gone} for k in clients.tolist() if k not in arrived]
    known = {entry["client"] for entry in lost} | set(arrived)
    lost += [{"client": k, "reason": "lives on a host that is not there"} for k in chosen.tolist() if k not in known]
    return sorted(lost, key=lambda entry: int(entry["client"]))


def account(ch: Channel, params: "Params", outcome: Outcome, cohort: Cohort, arrived: NDArray[np.uint32]) -> Outcome:
    """The noise that is left in the new parameters; with NISS the tracker works it out from who arrived."""
    here = np.isin(cohort.clients, arrived)
    part = cohort.weights[here].sum()
    if params.method != "niss":
        each = zip(cohort.clients[here].tolist(), cohort.weights[here], cohort.rows[here], strict=True)
        stds = [params.of(k).std(p, d) for k, p, d in each]
        variance = sum(std**2 for std in stds)
        return replace(outcome, noise_std=variance**0.5 / part if part else 0.0)
    # Where no host has answered, all may have waited for a tracker that is silent: it is not given so long again.
    again = max(ch.timeout_seconds / 4, min(ch.timeout_seconds / 2, 5.0))
    with ch.phase("wait"), ch.patience(ch.timeout_seconds if len(arrived) else again):
        ch.send(TRACKER, Arrived(outcome.round, arrived))
        ledger = ch.gather_first(1, [TRACKER], Ledger, round=outcome.round)[TRACKER]
    return replace(
        outcome,
        least_shares=ledger.least,
        largest_shares=ledger.largest,
        noise_std=ledger.variance**0.5 / part if part else 0.0,
    )
