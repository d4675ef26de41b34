"""Clients: where they live, which of them take part, and running many of them on one rank."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.data.partition import PARTITIONS, Rows, rows_of

T = TypeVar("T")
W = TypeVar("W")

_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")  # as Open MPI and MPICH tell their ranks


def stream(seed: int, *key: int | str) -> np.random.Generator:
    """The public generator for one purpose: the same seed and key, the same numbers, on every rank and machine.

    Parameters
    ----------
    seed : int
        --seed.
    *key : int or str
        What it is for, such as ("batches", client, round).
    """
    text = repr((int(seed), *(part if isinstance(part, str) else int(part) for part in key)))
    # A SeedSequence alone takes (1,) and (1, 0) for the same.
    entropy = int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def client_rows(
    kind: str, y: NDArray[np.int64], clients: int, seed: int, alpha: float = 0.5, groups: NDArray[Any] | None = None
) -> list[Rows]:
    """The rows of each client under a partition: iid, shards or dirichlet (with its α); or those of its groups."""
    if groups is not None:
        return [rows_of(k, clients, len(y), groups) for k in range(clients)]
    return PARTITIONS[kind](y, clients, stream(seed, "partition"), alpha)


def hosted(host: int, hosts: int, clients: int) -> range:
    """The clients that live on a host (0 ≤ host < hosts): client k is on host k mod hosts."""
    return range(host, clients, hosts)


def sample(seed: int, round_: int, clients: int, count: int) -> NDArray[np.uint32]:
    """M_t: distinct clients of a round, in ascending order, shape (count,)."""
    chosen = stream(seed, "sample", round_).choice(clients, count, replace=False)
    return np.sort(chosen).astype(np.uint32)


def weights(sizes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """p_k = d_k / Σ d_i of the clients of a round, shape (m,)."""
    d = np.asarray(sizes, np.float64)
    p: NDArray[np.float64] = d / d.sum()
    return p


def cores() -> int:
    """Processors that this rank may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def threads_per_rank(ranks: int, neighbours: Sequence[int] = ()) -> int:
    """Threads that a rank may use so that the ranks of this machine have no more threads than cores.

    Ranks that are bound to cores of their own have all of these; cores that several may use are shared among them.

    Parameters
    ----------
    ranks : int
        Of the job; taken where nobody tells how many of them are on this machine.
    neighbours : sequence of int
        Process numbers of the ranks of this machine, with this one, as far as they can be seen.
    """
    if len(neighbours) > 1:
        with contextlib.suppress(AttributeError, OSError):  # macOS; one has ended
            users = Counter(core for pid in neighbours for core in os.sched_getaffinity(pid))
            return max(1, int(sum(Fraction(1, users[core]) for core in os.sched_getaffinity(0))))
    here = next((int(os.environ[name]) for name in _LOCAL_RANKS if name in os.environ), ranks)
    return max(1, cores() // max(here, 1))


def train_clients(train: Callable[[W, int], T], workers: Sequence[W], clients: Sequence[int]) -> list[T]:
    """Call ``train(worker, client)`` for every client, one thread per worker; the results in the order of the clients.

    Parameters
    ----------
    train : callable
        Must not depend on which worker it gets.
    workers : sequence
        What one thread at a time may use, such as a `Trainer` each.
    clients : sequence of int

    Notes
    -----
    torch itself computes with one thread: how it splits a product among threads could change the last bits.
    """
    torch.set_num_threads(1)
    if len(workers) == 1:
        return [train(workers[0], client) for client in clients]
    free: SimpleQueue[Any] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def run(client: int) -> T:
        worker = free.get()
        try:
            return train(worker, client)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(len(workers)) as pool:
        return list(pool.map(run, clients))
