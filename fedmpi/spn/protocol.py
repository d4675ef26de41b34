"""Algorithms 2 to 4 of SPN [Fan et al. 2020], one function per role.

Letters: K clients, G the public model's h parameters, ΔW_i the change of client i. What a client keeps to itself, its
polarization layers and its targets, is in no message: `client.Clients` holds it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.federated.messages import SERVER, be_ready, leave
from fedmpi.net import Channel, Message
from fedmpi.net.meaning import DISTINCT, LARGEST, between, judged
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
    clients: Annotated[UInt32, judged("fedmpi.spn.protocol:asked_here", DISTINCT)]
    G: Float64


class Changes(Message, tag=4):
    """Host → server: ΔW_i of these clients, shape (n, h)."""

    round: int
    turn: int
    clients: Annotated[UInt32, judged("fedmpi.spn.protocol:check_changes", DISTINCT)]
    values: Annotated[Float64, judged("fedmpi.spn.protocol:collect")]


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
        shapes = {"values": (None, G.shape[1]), "clients": (None,)}
        ch.gather_within(0, [*ch.silent], Changes, shapes=shapes)  # late, but they are there: silent no more
        for rank in hosts:
            here = np.array([k for k in chosen if k % len(hosts) == rank - 1], np.uint32)
            if len(here) and rank not in ch.departed and rank not in ch.silent:
                asked[rank] = here
                ch.send(rank, Round(t, turn, here, G if len(G) == 1 else G[here]))
    if not asked and ch.departed.keys() | ch.silent >= set(hosts):
        silent = f"said nothing for {ch.timeout_seconds:g} s"
        gone = [str(ch.departed.get(rank, f"{ch.role_of(rank)} (rank {rank}) {silent}")) for rank in hosts]
        raise TooFewWorkers(f"round {t}: changes must come from at least 1 host, got 0: {'; '.join(gone)}")
    return asked


def collect(
    ch: Channel, t: int, turn: int, asked: dict[int, NDArray[np.uint32]], h: int
) -> tuple[dict[int, Vector], list[dict[str, Any]]]:
    """Client → ΔW_i, of those that came and are finite, and which are missing."""
    with ch.phase("wait"):
        shapes, judge = {"values": (None, h), "clients": (None,)}, partial(check_changes, asked)
        answers = ch.gather_within(ch.timeout_seconds, asked, Changes, shapes=shapes, judge=judge, round=t, turn=turn)
    ch.silent |= asked.keys() - answers.keys() - ch.departed.keys()
    within = between(-LARGEST, LARGEST)
    changes: dict[int, Vector] = {}
    lost = []
    for rank, clients in asked.items():
        answer = answers.get(rank)
        if answer is None:
            reason = (
                f"host {ch.departed[rank]}"
                if rank in ch.departed
                else f"host (rank {rank}) sent nothing for {ch.timeout_seconds:g} s"
            )
            lost += [{"client": k, "reason": reason} for k in clients.tolist()]
            continue
        for k, value in zip(clients.tolist(), answer.values, strict=True):
            if within.holds(value):
                changes[k] = value
            else:
                lost.append({"client": k, "reason": f"sent a change that must {within.text}"})
    return changes, lost


def check_changes(asked: Mapping[int, NDArray[np.uint32]], rank: int, answer: Changes) -> None:
    """Refuse changes of other clients than a host was asked for.

    Raises
    ------
    ProtocolError
    """
    if not np.array_equal(answer.clients, asked[rank]) or len(answer.values) != len(asked[rank]):
        raise ProtocolError(f"Changes from rank {rank} must be of clients {asked[rank]}, got {answer.clients}")


def asked_here(order: Round, here: Collection[int]) -> list[int]:
    """The clients of an order.

    Raises
    ------
    ProtocolError
        If they do not all live here, or one comes twice or has no model.
    """
    clients: list[int] = order.clients.tolist()
    once = 0 < len(set(clients)) == len(clients)
    if not once or not set(clients) <= set(here) or len(order.G) not in (1, len(clients)):
        raise ProtocolError(f"Round must be for clients of this rank, each with a model, got {clients}")
    return clients


def host(ch: Channel, own: "Clients") -> None:
    """All clients of one rank (Algorithm 1), round after round."""
    rows = {k: len(inputs) for k, inputs in own.inputs.items()}
    be_ready(ch, rows)
    while True:
        order = ch.recv_any(SERVER, (Round, Leave), shapes={"G": (None, own.parameters)}, patient=True)
        if not isinstance(order, Round):
            break
        clients = asked_here(order, rows)
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
