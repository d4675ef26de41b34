"""The same training in one loop without messages: the oracle of the protocol's tests."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedmpi.crypto.random import SecretStream, Stream
from fedmpi.runs.job import Job
from fedmpi.spn.client import Clients
from fedmpi.spn.params import Params


def train(job: Job[Params], clients: int, secret: Callable[[], Stream] = SecretStream) -> NDArray[np.float64]:
    """Algorithms 1 to 4: the parameters G after all rounds, shape (h,)."""
    own = Clients.load(job, 0, 1, clients, 1, secret)
    G = own.workers[0].flat.read()
    turns = [[k] for k in range(clients)] if job.params.aggregation == "round-robin" else [list(range(clients))]
    for t in range(job.params.rounds):
        for chosen in turns:
            changes = own.update(chosen, t, np.repeat(G[None], len(chosen), axis=0))
            G = G + changes.sum(axis=0) / len(chosen)
    return G
