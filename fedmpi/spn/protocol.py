"""Algorithms 2 to 4 of SPN [Fan et al. 2020], one function per role.

Letters: K clients, G the public model's h parameters, ΔW_i the change of client i. What a client keeps to itself, its
polarization layers and its targets, is in no message: `client.Clients` holds it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.federated.messages import SERVER, be_ready, leave
from fedmpi.net import Channel, Message
from fedmpi.net.message import Float64, UInt32
from fedmpi.net.orders import Leave

if TYPE_CHECKING:
    from fedmpi.federated.serving import Host
    from fedmpi.spn.client import Clients
    from fedmpi.spn.params import Params

Vector = NDArray[np.float64]


class Round(Message, tag=3):
    """Server → host: train these clients, each from its row of G, shape (n, h), or all from one row (1, h)."""

    round: int
    turn: int
    clients: UInt32
    G: Float64


class Changes(Message, tag=4):
    """Host → server: ΔW_i of these clients, shape (n, h)."""

    round: int
    turn: int
    clients: UInt32
    values: Float64


@dataclass(frozen=True, eq=False)
class State:
    """What a training goes on from."""

    round: int
    """Rounds that are done."""
    G: Vector
    """Shape (1, h); with standalone clients (K, h)."""


@dataclass(frozen=True)
class Watch:
    """What the server's caller is told; each may end the training by raising."""

    during: Callable[[State], None] = lambda state: None
    """While the clients compute."""
    after: Callable[[State, list[dict[str, Any]]], bool] = lambda state, lost: False
    """After a round: its new state, and the clients without a change that counts, and why; whether it was the last."""


def server(ch: Channel, params: "Params", clients: int, start: State, watch: Watch) -> State:
    """Algorithms 3 and 4, with the server update of Algorithm 2.

    Parameters
    ----------
    clients : int
        K.
    start : State
        Initial parameters, or those of an earlier run.

    Raises
    ------
    TooFewWorkers
        If no host is left.
    """
    state = start
    everybody = list(range(clients))
    turns = [[k] for k in everybody] if params.aggregation == "round-robin" else [everybody]
    for t in range(start.round, params.rounds):
        G, lost = state.G.copy(), []
        for turn, chosen in enumerate(turns):
            asked = ask(ch, t, turn, chosen, G)
            if turn == 0:
                with ch.phase("evaluate"):
                    watch.during(state)
            changes, missing = collect(ch, t, turn, asked, G.shape[1])
            lost += missing
            with ch.phase("decode"):
                if params.method == "standalone":
                    for k, change in changes.items():
                        G[k] += change
                elif changes:
                    G[0] += np.sum([changes[k] for k in sorted(changes)], axis=0) / len(changes)
        state = State(t + 1, G)
        if watch.after(state, lost):
            break
    return state


def ask(ch: Channel, t: int, turn: int, chosen: Sequence[int], G: Vector) -> dict[int, NDArray[np.uint32]]:
    """Send G to the hosts of the chosen clients: rank → the clients that it was asked for."""
    hosts = range(1, ch.size)
    asked = {}
    with ch.phase("communicate"):
        for rank in hosts:
            here = np.array([k for k in chosen if k % len(hosts) == rank - 1], np.uint32)
            if len(here) and rank not in ch.departed:
                asked[rank] = here
                ch.send(rank, Round(t, turn, here, G if len(G) == 1 else G[here]))
    if not asked and all(rank in ch.departed for rank in hosts):
        reason = next(iter(ch.departed.values()))
        raise TooFewWorkers(f"round {t}: changes must come from at least 1 host, got 0: {reason}")
    return asked


def collect(
    ch: Channel, t: int, turn: int, asked: dict[int, NDArray[np.uint32]], h: int
) -> tuple[dict[int, Vector], list[dict[str, Any]]]:
    """Client → ΔW_i, of those that came and are finite, and which are missing."""
    with ch.phase("wait"):
        answers = ch.gather_within(
            ch.timeout_seconds, asked, Changes, shapes={"values": (None, h), "clients": (None,)}, round=t, turn=turn
        )
    changes: dict[int, Vector] = {}
    lost = []
    for rank, clients in asked.items():
        answer = answers.get(rank)
        if answer is None:
            reason = f"host {ch.departed[rank]}" if rank in ch.departed else "sent nothing"
            lost += [{"client": k, "reason": reason} for k in clients.tolist()]
            continue
        if not np.array_equal(answer.clients, clients) or len(answer.values) != len(clients):
            raise ProtocolError(f"Changes from rank {rank} must be of clients {clients}, got {answer.clients}")
        for k, value in zip(clients.tolist(), answer.values, strict=True):
            if np.isfinite(value).all():
                changes[k] = value
            else:
                lost.append({"client": k, "reason": "sent a change that must be finite"})
    return changes, lost


def host(ch: Channel, own: "Clients") -> None:
    """All clients of one rank (Algorithm 1), round after round."""
    rows = {k: len(inputs) for k, inputs in own.inputs.items()}
    be_ready(ch, rows)
    while True:
        order = ch.recv_any(SERVER, (Round, Leave), shapes={"G": (None, own.parameters)}, patient=True)
        if not isinstance(order, Round):
            break
        clients = order.clients.tolist()
        if not set(clients) <= rows.keys() or len(order.G) not in (1, len(clients)):
            raise ProtocolError(f"Round must be for clients of this rank, each with a model, got {clients}")
        with ch.phase("compute"):
            starts = order.G if len(order.G) == len(clients) else np.repeat(order.G, len(clients), axis=0)
            values = own.update(clients, order.round, starts)
        values.flags.writeable = False  # lets the channel send them without a copy
        ch.send(SERVER, Changes(order.round, order.turn, order.clients, values))
    leave(ch)


def serve(ch: Channel, own: "Host[Params]") -> None:
    """Host: load the rows of the clients that live here, and train them."""
    from fedmpi.spn.client import Clients

    host(ch, Clients.load(own.job, own.number, own.hosts, own.clients, own.threads))
