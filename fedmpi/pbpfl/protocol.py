"""PBPFL [Feng et al. 2020, section 3]: the server.

Letters: W (h) the parameters, Ŵ perturbed ones, r_a the additive noise that clients are told, n_L outputs, K clients
with N_k rows each, η the learning rate. A host is a rank on which clients live.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.federated import masked
from fedmpi.federated import messages as federation
from fedmpi.federated.messages import ask, check_named, too_few
from fedmpi.net import Channel
from fedmpi.pbpfl.messages import (
    FINAL_ROWS,
    WITHIN,
    Evaluation,
    Federation,
    Final,
    Outputs,
    Round,
    Terms,
    from_bytes,
    to_bytes,
)
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.perturbation import Noise, Uniform, Vector, draw, perturb, recover, unshift, without_addition
from fedmpi.pbpfl.ring import to_reals
from fedmpi.pbpfl.structure import Structure


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
    advance: Callable[[State], bool] = lambda state: False
    """Called with the state after a round: whether it was the last."""
    lost: Callable[[int, int], None] = lambda round_, client: None
    """Called with a round and a client whose gradient is missing from it."""


def setup(
    ch: Channel, job: str, last: str, clients: int, digest: bytes = b"", dealt: NDArray[np.int64] | None = None
) -> Federation:
    """Tell the hosts what is trained, and learn how many rows their clients have."""
    hosts = range(1, ch.size)
    for host in hosts:
        ch.send(host, Outputs(last))
    rows = federation.setup(ch, job, clients, digest=digest, dealt=dealt)
    return Federation({host: frozenset(range(host - 1, clients, len(hosts))) for host in hosts}, rows)


@dataclass(frozen=True, eq=False)
class Task:
    """One training."""

    params: Params
    structure: Structure
    """Of the model."""
    fed: Federation
    uniform: Uniform
    """count → secret uniform reals."""
    trained: NDArray[np.bool_] | None = None
    """Which parameters are trained and not frozen, shape (h,). Default: all."""


def server(ch: Channel, task: Task, start: State, watch: Watch) -> State:
    """Sections 3.1 and 3.3, round after round.

    Raises
    ------
    TooFewWorkers
        If fewer clients are left than a round needs.
    """
    params, structure, fed = task.params, task.structure, task.fed
    collect = collect_masked if params.masked else collect_clear
    rounds, N = params.total_rounds(int(fed.rows.max())), int(fed.rows.sum())
    state = start
    for t in range(start.round, rounds):
        with ch.phase("perturb"):  # section 3.1
            noise = draw(structure, params, task.uniform) if params.perturbed else None
            r_a = np.zeros(0) if noise is None or not params.corrected else noise.r_a
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
            gradient = gradient_of(structure, terms, noise)
            if task.trained is not None:
                gradient = np.where(task.trained, gradient, 0.0)
            state = State(t + 1, state.w - params.learning_rate * gradient)
        for client in sorted(set(range(len(fed.rows))) - present):
            watch.lost(t, client)
        if watch.advance(state):
            break
    return state


def gradient_of(structure: Structure, terms: Vector, noise: Noise | None) -> Vector:
    """∇F(W) from the weighted mean of the clients' terms, shape (h,)."""
    gradient: Vector = terms[0] if noise is None else recover(structure, terms, noise)
    return gradient


def collect_masked(ch: Channel, params: Params, fed: Federation, order: Round, h: int) -> tuple[Vector, set[int]]:
    """As `collect_clear`, of which the server sees the sum only [Feng et al. 2020, appendix C].

    Raises
    ------
    TooFewWorkers
        If fewer clients than the threshold are left in any step: then nothing is learned.
    """
    words, survivors = masked.collect(ch, params.secure_sum(len(fed.rows), h), fed.homes, order.round)
    weight = fed.rows[[*survivors]].sum() / fed.rows.sum()
    return to_reals(words, params).reshape(params.terms, h) / weight, survivors


def collect_clear(ch: Channel, params: Params, fed: Federation, order: Round, h: int) -> tuple[Vector, set[int]]:
    """Σ N_k terms_k / Σ N_k over the clients that answered, shape (terms, h), and which those are."""
    shapes = {"values": (None, params.terms * h * params.item_bytes), "shifts": (None,)}
    total, present, t = np.zeros((params.terms, h)), set[int](), order.round
    answers = ask(ch, fed.homes, Terms, t, shapes)
    for answer in answers.values():
        for client, values, shift in zip(answer.clients.tolist(), answer.values, answer.shifts, strict=True):
            terms = from_bytes(values, params).reshape(params.terms, h)
            if not WITHIN.holds(terms):
                continue
            total += fed.rows[client] * (unshift(terms, shift, order.r_a) if params.corrected else terms)
            present.add(client)
    if not present and any(len(answer.clients) for answer in answers.values()):
        raise ProtocolError(
            f"round {t}: gradients must {WITHIN.text}, got none: the training diverges, or a client lies"
        )
    if not present:
        raise too_few(ch, t, 1, 0)
    mean: Vector = total / fed.rows[[*present]].sum()
    return mean, present


def check_evaluation(fed: Federation, host: int, answer: Evaluation) -> None:
    """Refuse the evaluation of a client that does not live there, of one twice, or of more rows than it has.

    Raises
    ------
    ProtocolError
    """
    check_named(fed.homes, ("squared_errors", "right"), host, answer)
    if (answer.right > np.minimum(fed.rows[answer.clients], FINAL_ROWS)).any():
        raise ProtocolError(f"Evaluation from rank {host} must be of rows that it has, got {answer.right}")


def finish(ch: Channel, task: Task, w: Vector) -> dict[str, float]:
    """Give the clients a model to use, without addition, and learn how good it is on `FINAL_ROWS` of theirs."""
    params, structure, fed = task.params, task.structure, task.fed
    with ch.phase("close"):
        if params.perturbed:
            w = perturb(structure, w, without_addition(draw(structure, params, task.uniform)))
        present = [host for host in fed.homes if host not in ch.departed]
        for host in present:
            ch.send(host, Final(to_bytes(w, params)))
        answers = ch.gather_within(ch.timeout_seconds, present, Evaluation, judge=partial(check_evaluation, fed))
    errors, right, rows = 0.0, 0, 0
    for answer in answers.values():
        errors += float(answer.squared_errors.sum())
        right += int(answer.right.sum())
        rows += int(np.minimum(fed.rows[answer.clients], FINAL_ROWS).sum())
    if not rows:
        return {}
    return {"clients_mse": errors / (rows * structure.outputs), "clients_accuracy": right / rows}
