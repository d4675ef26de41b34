"""Who holds which rows: partitions of a data set among clients, each drawn from a public generator."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError

Rows = NDArray[np.int64]
"""Positions of rows in a data set."""

_DRAWS = 100


def iid(y: NDArray[np.int64], clients: int, rng: np.random.Generator) -> list[Rows]:
    """Shuffled rows in parts whose sizes differ by one at most.

    Parameters
    ----------
    y : array, shape (m,)
        Labels 0 … C-1.
    clients : int
    rng : Generator

    Returns
    -------
    list of array
        The rows of each client; every row is in one part.

    Raises
    ------
    UsageError
        If there are fewer rows than clients.
    """
    _check(len(y), clients, "client")
    return np.array_split(rng.permutation(len(y)), clients)


def label_shards(y: NDArray[np.int64], clients: int, rng: np.random.Generator, per_client: int = 2) -> list[Rows]:
    """Rows sorted by label, cut into shards of which every client gets `per_client` [McMahan et al. 2017].

    Within a label the order is random. Parameters, result and error are those of `iid`.
    """
    if per_client < 1:
        raise UsageError(f"shards per client must be at least 1, got {per_client}")
    _check(len(y), clients * per_client, "shard")
    shuffled = rng.permutation(len(y))
    shards = np.array_split(shuffled[np.argsort(y[shuffled], kind="stable")], clients * per_client)
    hands = rng.permutation(len(shards)).reshape(clients, per_client)
    return [np.concatenate([shards[shard] for shard in hand]) for hand in hands]


def dirichlet(y: NDArray[np.int64], clients: int, rng: np.random.Generator, alpha: float) -> list[Rows]:
    """Each label is spread over the clients in proportions drawn from Dirichlet(α, …, α) [Hsu et al. 2019].

    Small α: few labels per client, and sizes that differ; α → ∞: `iid`. Drawn anew while a client has no row.
    Parameters and result are those of `iid`.

    Raises
    ------
    UsageError
        If α is not positive, or in 100 draws there was always a client without a row.
    """
    if not 0 < alpha < float("inf"):
        raise UsageError(f"the alpha of a Dirichlet partition must be positive, got {alpha}")
    _check(len(y), clients, "client")
    for _ in range(_DRAWS):
        parts: list[list[Rows]] = [[] for _ in range(clients)]
        for label in np.unique(y):
            rows = rng.permutation(np.flatnonzero(y == label))
            cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(rows)).astype(np.int64)
            for part, piece in zip(parts, np.split(rows, cuts), strict=True):
                part.append(piece)
        joined = [np.concatenate(part) for part in parts]
        if all(len(part) for part in joined):
            return joined
    raise UsageError(
        f"every client must have a row, got {clients} clients, {len(y)} rows and alpha {alpha:g}: "
        "raise alpha or take fewer clients"
    )


PARTITIONS: dict[str, Callable[[NDArray[np.int64], int, np.random.Generator, float], list[Rows]]] = {
    "iid": lambda y, clients, rng, alpha: iid(y, clients, rng),
    "shards": lambda y, clients, rng, alpha: label_shards(y, clients, rng),
    "dirichlet": dirichlet,
}
"""Name on the command line → (labels, clients, generator, α) → rows of each client."""


def rows_of(part: int, parts: int, rows: int, groups: NDArray[Any] | None = None) -> NDArray[np.intp]:
    """The rows of one part, in the order of the data set.

    Without groups every `parts`-th row. With groups a group stays together: the groups, in the order of their
    names, are dealt out in turn.

    Parameters
    ----------
    part : int
        In [0, parts).
    parts : int
    rows : int
    groups : array of shape (rows,), optional
        The group of each row.

    Raises
    ------
    UsageError
        If there are fewer rows, or fewer groups, than parts.
    """
    if groups is None:
        if rows < parts:
            raise UsageError(f"the number of rows must be at least that of participants, {parts}, got {rows}")
        return np.arange(part, rows, parts)
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < parts:
        raise UsageError(
            f"the column to split by must have at least {parts} values, one a participant, got {len(names)}"
        )
    return np.flatnonzero(group % parts == part)


def _check(rows: int, parts: int, what: str) -> None:
    if parts < 1:
        raise UsageError(f"the number of {what}s must be at least 1, got {parts}")
    if rows < parts:
        raise UsageError(f"every {what} must have a row, got {rows} rows for {parts} {what}s")
