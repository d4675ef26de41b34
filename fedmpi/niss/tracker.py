"""The tracker of NISS: it knows who is alive, tells everybody whom to share noise with, and never sees noise."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.federated.messages import SERVER, leave
from fedmpi.net import Channel
from fedmpi.net.orders import Leave
from fedmpi.niss.assignment import Assignment, Kept, assign, share_count
from fedmpi.niss.protocol import (
    FIRST_HOST,
    KEY_BYTES,
    Alive,
    Arrived,
    Ledger,
    Neighbours,
    Sampled,
    TrackerSetup,
)


def tracker(ch: Channel, setup: TrackerSetup, permutation: Callable[[int], NDArray[np.integer]]) -> None:
    """Algorithm 2, the tracker.

    Parameters
    ----------
    setup : TrackerSetup
    permutation : callable
        n → a secret random order of 0 … n-1.
    """
    if not (setup.unit_variance > 0 and setup.coalitions > 0 <= setup.share_count):
        raise ProtocolError(f"TrackerSetup must hold positive numbers, got {setup}")
    rule, own = Kept(setup.tau2, setup.collusion, setup.delta, setup.coalitions), own_rules(setup)
    ch.tolerated = hosts = range(FIRST_HOST, ch.size)
    ch.outwait(setup.timeout_seconds)
    while True:
        order = ch.recv_any(SERVER, (Sampled, Leave), patient=True)
        if not isinstance(order, Sampled):
            break
        homes = {FIRST_HOST + int(k) % len(hosts) for k in order.clients} & set(order.hosts.tolist())
        # Half of the time that the server waits: those who are there wait for those who are not.
        judge = partial(check_attendance, order, len(hosts))
        alive = ch.gather_within(setup.timeout_seconds / 2, homes, Alive, judge=judge, round=order.round)
        variances, keys = attendance(alive)
        groups = [[k for k in variances if k % setup.coalitions == group] for group in range(setup.coalitions)]
        wanted = {k: share_count(variances[k], setup.unit_variance, setup.share_count) for k in variances}
        assignment = assign([group for group in groups if group], wanted, permutation)
        for rank in homes - ch.departed.keys():  # who comes too late has nobody to share with
            ch.send(rank, neighbours(order.round, rank - FIRST_HOST, len(hosts), assignment, variances, keys))
        arrived = ch.gather_first(1, [SERVER], Arrived, round=order.round)[SERVER].clients.tolist()
        here = [k for k in arrived if k in variances]
        if setup.paper_noise:
            left = assignment.leftover(variances, here, lambda k: own.get(k, rule).tau2)
        else:
            kept = assignment.kept(variances, lambda k: own.get(k, rule), len(order.clients), order.round)
            left = assignment.leftover(variances, here, kept=kept)
        counts = assignment.counts.values()
        ch.send(SERVER, Ledger(order.round, len(counts), min(counts, default=0), max(counts, default=0), left))
    leave(ch)


def own_rules(setup: TrackerSetup) -> dict[int, Kept]:
    """Of each client that has a τ_k² of its own: how much noise it keeps."""
    if not (np.isnan(setup.tau2s) | ((setup.tau2s >= 0) & np.isfinite(setup.tau2s))).all():
        raise ProtocolError(f"TrackerSetup must hold τ² of at least 0, got {setup.tau2s}")
    known = np.flatnonzero(~np.isnan(setup.tau2s)).tolist()
    return {k: Kept(float(setup.tau2s[k]), 0.0, setup.delta, setup.coalitions) for k in known}


def check_attendance(order: Sampled, hosts: int, rank: int, message: Alive) -> None:
    """Refuse other clients than those of the round that live on a host, one twice, and what is not of each of them.

    Raises
    ------
    ProtocolError
    """
    named = message.clients.tolist()
    fitting = (len(named),) == message.variances.shape and (len(named), KEY_BYTES) == message.keys.shape
    if not (fitting and set(named) <= set(order.clients.tolist()) and len(set(named)) == len(named)):
        raise ProtocolError(
            f"Alive from rank {rank} must have a variance and a key of clients of the round, got {named}"
        )
    if any(k % hosts != rank - FIRST_HOST for k in named):
        raise ProtocolError(f"Alive from rank {rank} must be of clients that live there, got {named}")


def attendance(alive: dict[int, Alive]) -> tuple[dict[int, float], dict[int, NDArray[np.uint8]]]:
    """σ_k² and the public key of every live client, in the order of the clients."""
    variances: dict[int, float] = {}
    keys: dict[int, NDArray[np.uint8]] = {}
    for message in alive.values():
        named = message.clients.tolist()
        variances |= dict(zip(named, message.variances.tolist(), strict=True))
        keys |= dict(zip(named, message.keys, strict=True))
    return {k: variances[k] for k in sorted(variances)}, keys


def neighbours(
    round_: int,
    host: int,
    hosts: int,
    assignment: Assignment,
    variances: dict[int, float],
    keys: dict[int, NDArray[np.uint8]],
) -> Neighbours:
    """What one host has to know of an assignment."""
    edges = [edge for edge in assignment.edges if host in (edge[0] % hosts, edge[1] % hosts)]
    ends = sorted({k for edge in edges for k in edge})
    pairs = np.array(edges, np.uint32).reshape(-1, 2)
    return Neighbours(
        round_,
        pairs[:, 0].copy(),
        pairs[:, 1].copy(),
        np.array([variances[a] / assignment.counts[a] for a, _ in edges]),
        np.array(ends, np.uint32),
        np.array([keys[k] for k in ends], np.uint8).reshape(-1, KEY_BYTES),
    )
