"""PBPFL [Feng et al. 2020, section 3]: the messages, and the server.

Letters: W (h) the parameters, Ŵ perturbed ones, r_a the additive noise that clients are told, n_L outputs, K clients
with N_k rows each, η the learning rate. A host is a rank on which clients live.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi import federation
from fedmpi.errors import PeerFailed, ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Message
from fedmpi.net.message import Float64, Shape, UInt8, UInt32, UInt64
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.perturbation import Noise, Uniform, Vector, draw, perturb, recover, unshift, without_addition
from fedmpi.pbpfl.structure import Structure

M = TypeVar("M", bound=Message)

FINAL_ROWS = 1000
"""Rows on which a client tries the final model, at most."""


class Outputs(Message, tag=1):
    """Server → host, once: the name of the last layer; public."""

    layer: str


class Round(Message, tag=3):
    """Server → host, each round: Ŵ (h numbers of --dtype, as bytes), r_a, shape (n_L,), and N = Σ N_k."""

    round: int
    rows: int
    w: UInt8
    r_a: Float64


class Terms(Message, tag=4):
    """Host → server, each round: ∂L̂/∂Ŵ, σ and β of its clients, shape (clients, 3 h numbers as bytes), and shifts γ̂.

    In the clear, the gradient alone.
    """

    round: int
    clients: UInt32
    shifts: Float64
    values: UInt8


class Final(Message, tag=5):
    """Server → host, at the end: weights for the clients' use, perturbed without r_a and γ ("data processing")."""

    w: UInt8


class Evaluation(Message, tag=6):
    """Host → server, at the end: the final model on rows of its clients: Σ‖y - ȳ‖², and rows that are right."""

    clients: UInt32
    squared_errors: Float64
    right: UInt64


@dataclass(frozen=True, eq=False)
class Federation:
    """Who is there."""

    homes: dict[int, frozenset[int]]
    """Host → its clients."""
    rows: NDArray[np.int64]
    """N_k, shape (K,)."""


@dataclass(frozen=True, eq=False)
class State:
    """What training goes on from."""

    round: int
    """Rounds done."""
    w: Vector
    """W, shape (h,)."""


@dataclass(frozen=True)
class Watch:
    """What the caller wants to know."""

    observe: Callable[[State], None] = lambda state: None
    """Called with the state at the start of a round, while the clients compute."""
    advance: Callable[[State], None] = lambda state: None
    """Called with the state after a round."""
    lost: Callable[[int, int], None] = lambda round_, client: None
    """Called with a round and a client whose gradient is missing from it."""


def setup(ch: Channel, job: str, last: str, clients: int) -> Federation:
    """Tell the hosts what is trained, and learn how many rows their clients have."""
    hosts = range(1, ch.size)
    for host in hosts:
        ch.send(host, Outputs(last))
    rows = federation.setup(ch, job, clients)
    return Federation({host: frozenset(range(host - 1, clients, len(hosts))) for host in hosts}, rows)


def server(
    ch: Channel,
    params: Params,
    structure: Structure,
    fed: Federation,
    start: State,
    uniform: Uniform,
    watch: Watch,
) -> State:
    """Sections 3.1 and 3.3, round after round.

    Parameters
    ----------
    structure : Structure
        Of the model.
    start : State
    uniform : callable
        count → secret uniform reals.
    watch : Watch

    Raises
    ------
    TooFewWorkers
        If fewer clients are left than a round needs.
    """
    from fedmpi.pbpfl.masked import collect_masked

    collect = collect_masked if params.masked else collect_clear
    rounds, N = params.total_rounds(int(fed.rows.max())), int(fed.rows.sum())
    state = start
    for t in range(start.round, rounds):
        with ch.phase("perturb"):  # section 3.1
            noise = draw(structure, params, uniform) if params.perturbed else None
            r_a = np.zeros(0) if noise is None else noise.r_a
            w_hat = state.w if noise is None else perturb(structure, state.w, noise)
        with ch.phase("communicate"):
            order = Round(t, N, to_bytes(w_hat, params), r_a)
            for host in fed.homes:
                if host not in ch.departed:
                    ch.send(host, order)
        with ch.phase("evaluate"):
            watch.observe(state)
        with ch.phase("wait"):
            terms, present = collect(ch, params, fed, order, structure.parameters)
        with ch.phase("update"):  # section 3.3
            state = State(t + 1, state.w - params.learning_rate * gradient_of(structure, terms, noise))
        for client in sorted(set(range(len(fed.rows))) - present):
            watch.lost(t, client)
        watch.advance(state)
    return state


def gradient_of(structure: Structure, terms: Vector, noise: Noise | None) -> Vector:
    """∇F(W) from the weighted mean of the clients' terms, shape (h,)."""
    gradient: Vector = terms[0] if noise is None else recover(structure, terms, noise)
    return gradient


def collect_clear(ch: Channel, params: Params, fed: Federation, order: Round, h: int) -> tuple[Vector, set[int]]:
    """Σ N_k terms_k / Σ N_k over the clients that answered, shape (terms, h), and which those are."""
    shapes = {"values": (None, params.terms * h * params.item_bytes), "shifts": (None,)}
    total, present, t = np.zeros((params.terms, h)), set[int](), order.round
    for answer in ask(ch, fed, Terms, t, shapes).values():
        for client, values, shift in zip(answer.clients.tolist(), answer.values, answer.shifts, strict=True):
            terms = from_bytes(values, params).reshape(params.terms, h)
            total += fed.rows[client] * (unshift(terms, shift, order.r_a) if params.perturbed else terms)
            present.add(client)
    if len(present) < 1:
        raise too_few(ch, t, 1, 0)
    mean: Vector = total / fed.rows[[*present]].sum()
    if not np.isfinite(mean).all():
        raise ProtocolError(
            f"round {t}: gradients must be finite, got inf or nan: the training diverges, or a client lies"
        )
    return mean, present


def ask(ch: Channel, fed: Federation, cls: type[M], t: int, shapes: Mapping[str, Shape]) -> dict[int, M]:
    """One message of every host that is there, in the order of their ranks; hosts that send none depart.

    So does one that names a client twice or one that is not its own, or as many clients as it has no values for.
    """
    hosts = [host for host in fed.homes if host not in ch.departed]
    answers: dict[int, M] = ch.gather_within(ch.timeout_seconds, hosts, cls, shapes=shapes, round=t)
    for host in hosts:
        answer: Any = answers.get(host)
        if answer is None:
            reason = f"sent no {cls.__name__} for {ch.timeout_seconds:g} s"
        else:
            named = answer.clients.tolist()
            own = len(set(named)) == len(named) and fed.homes[host].issuperset(named)
            if own and all(len(getattr(answer, field)) == len(named) for field in shapes):
                continue
            reason = f"broke the protocol: {cls.__name__} must be of its own clients, got {named}"
            del answers[host]
        if host not in ch.departed:
            ch.depart(PeerFailed(host, ch.role_of(host), reason))
    return dict(sorted(answers.items()))


def too_few(ch: Channel, t: int, least: int, got: int) -> TooFewWorkers:
    """The error where a round has not the clients it needs."""
    gone = "".join(f"; {failed}" for failed in ch.departed.values())
    return TooFewWorkers(f"round {t} must have at least {least} clients, got {got}{gone}")


def finish(
    ch: Channel, params: Params, structure: Structure, fed: Federation, w: Vector, uniform: Uniform
) -> dict[str, float]:
    """Give the clients a model to use, without addition, and learn how good it is on `FINAL_ROWS` of theirs."""
    with ch.phase("close"):
        if params.perturbed:
            w = perturb(structure, w, without_addition(draw(structure, params, uniform)))
        present = [host for host in fed.homes if host not in ch.departed]
        for host in present:
            ch.send(host, Final(to_bytes(w, params)))
        answers = ch.gather_within(ch.timeout_seconds, present, Evaluation)
    errors, right, rows = 0.0, 0, 0
    for host, answer in answers.items():
        if fed.homes[host].issuperset(answer.clients.tolist()):
            errors += float(answer.squared_errors.sum())
            right += int(answer.right.sum())
            rows += int(np.minimum(fed.rows[answer.clients], FINAL_ROWS).sum())
    if not rows:
        return {}
    return {"clients_mse": errors / (rows * structure.outputs), "clients_accuracy": right / rows}


def to_bytes(values: Vector, params: Params) -> NDArray[np.uint8]:
    """Numbers of --dtype, little-endian, as bytes that the channel need not copy."""
    raw = np.ascontiguousarray(values, dtype=f"<f{params.item_bytes}").reshape(-1).view(np.uint8)
    if raw.base is values:
        raw = raw.copy()
    raw.flags.writeable = False
    return raw


def from_bytes(raw: NDArray[np.uint8], params: Params) -> Vector:
    """What `to_bytes` packed, as float64."""
    return np.ascontiguousarray(raw).view(f"<f{params.item_bytes}").astype(np.float64)
