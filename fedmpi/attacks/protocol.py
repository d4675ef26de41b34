"""Attacks spread over the ranks of a job: they are independent, and case i is done by rank i mod ranks."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedmpi.attacks.case import Finding, attack
from fedmpi.attacks.deep_leakage import Reconstruction
from fedmpi.attacks.params import Params
from fedmpi.errors import ProtocolError
from fedmpi.learn.devices import device_here
from fedmpi.net import Channel, Message
from fedmpi.net.meaning import anything, judged
from fedmpi.net.message import Float64, UInt64

LEADER = 0

FRESH: NDArray[np.float64] = np.zeros(0)
"""Weights of a model that nobody trained."""


class Case(Message, tag=1):
    """Leader → rank: attack the gradient of this batch; parameters as JSON, rows in [0, 1], weights if not fresh."""

    params: str
    seed: int
    classes: int
    X: Float64
    y: Annotated[UInt64, judged("fedmpi.attacks.protocol:_cases")]
    weights: Float64


DIVERGED = anything("an attack may end with infinities, and with NaN: it has found nothing then")


class Found(Message, tag=2):
    """Rank → leader: what an attack found."""

    seed: int
    images: Annotated[Float64, DIVERGED]
    labels: Annotated[Float64, DIVERGED]
    distance: Annotated[float, DIVERGED]
    steps: int
    evaluations: int
    restarts: int
    seconds: float
    ratio: Annotated[float, DIVERGED]
    label: int


class Done(Message, tag=3):
    """Leader → rank: no more cases."""


def lead(
    ch: Channel,
    params: Params,
    batches: dict[int, tuple[NDArray[np.float64], NDArray[np.int64]]],
    classes: int,
    watch: Callable[[int, Finding], None] = lambda seed, finding: None,
    weights: NDArray[np.float64] = FRESH,
) -> dict[int, Finding]:
    """Leader: hand out the cases, do its own share, and collect the findings: seed → finding.

    Parameters
    ----------
    batches : dict
        Seed → rows (N, *input_shape) in [0, 1] and their labels.
    watch : callable
        Called with each finding.
    weights : array
        Of the model; none for fresh ones.
    """
    seeds = list(batches)
    text, params = json.dumps(asdict(params)), here(params)
    for position, seed in enumerate(seeds):
        if rank := position % ch.size:
            X, y = batches[seed]
            ch.send(rank, Case(text, seed, classes, X, y.astype(np.uint64), weights))
    findings = {}
    for position, seed in enumerate(seeds):  # this rank's first: the others work at the same time
        if position % ch.size == LEADER:
            findings[seed] = attack(params, seed, *batches[seed], classes, weights)
            watch(seed, findings[seed])
    for position, seed in enumerate(seeds):
        if rank := position % ch.size:
            X, _ = batches[seed]
            found = ch.recv(rank, Found, shapes={"images": X.shape, "labels": (len(X), classes)})
            if found.seed != seed:
                raise ProtocolError(f"rank {rank} must answer case {seed}, got {found.seed}")
            findings[seed] = _finding(found)
            watch(seed, findings[seed])
    for rank in range(1, ch.size):  # not before: messages of two types may overtake one another
        ch.send(rank, Done())
    return {seed: findings[seed] for seed in seeds}


def here(params: Params) -> Params:
    """With the device that this rank takes."""
    return replace(params, device=device_here(params.device))


def follow(ch: Channel) -> None:
    """Rank: one attack after another."""
    for case in _cases(ch):
        params = here(Params(**json.loads(case.params)))
        done = attack(params, case.seed, case.X, case.y.astype(np.int64), case.classes, case.weights)
        r = done.reconstruction
        ch.send(
            LEADER,
            Found(
                case.seed,
                np.ascontiguousarray(r.images),
                np.ascontiguousarray(r.labels),
                r.distance,
                r.steps,
                r.evaluations,
                r.restarts,
                r.seconds,
                done.ratio,
                done.label,
            ),
        )


def _cases(ch: Channel) -> Iterator[Case]:
    while isinstance(order := ch.recv_any(LEADER, (Case, Done), patient=True), Case):
        if len(order.X) != len(order.y) or not len(order.y) or order.y.max() >= order.classes:
            raise ProtocolError(f"a case must have rows with labels below {order.classes}, got {order.y}")
        yield order


def _finding(found: Found) -> Finding:
    reconstruction = Reconstruction(
        found.images, found.labels, found.distance, found.steps, found.evaluations, found.restarts, found.seconds
    )
    return Finding(reconstruction, found.ratio, found.label)
