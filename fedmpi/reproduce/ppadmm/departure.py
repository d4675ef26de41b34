"""What S1 learns of a participant that leaves between two rounds: its update, nearly, by subtraction."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedmpi.ppadmm import plain
from fedmpi.ppadmm.admm import Shard, Vector
from fedmpi.ppadmm.params import Params


def updates(params: Params, parts: Sequence[tuple[Vector, Vector]]) -> list[list[Vector]]:
    """x_i + u_i of every participant in every iteration of a training in the clear."""
    seen: dict[int, list[Vector]] = {}

    class Watched(Shard):
        def update(self, z: Vector) -> tuple[Vector, Vector]:
            vector, norms = super().update(z)
            seen.setdefault(id(self), []).append(vector)
            return vector, norms

    shards = [Watched(A, b) for A, b in parts]
    plain.train_shards(replace(params, tolerance=0), shards)
    return [[seen[id(shard)][it] for shard in shards] for it in range(params.iterations)]


def leaks(params: Params, parts: Sequence[tuple[Vector, Vector]], leaver: int = 0) -> list[float]:
    """How well S1 guesses the last update of a participant that left, for every iteration it may have left after.

    S1 has the sums S_k of all N and S_{k+1} of the others. It takes S_k − S_{k+1}, and corrects it by what the sum
    changed the iteration before, (N − 1)/N of which is the others'.

    Returns
    -------
    list of float
        Distance of the guess from the update, relative to that of the mean of all: 1 for nothing learned, 0 for all.
    """
    seen = [np.array(vectors) for vectors in updates(params, parts)]
    N, errors = len(parts), []
    for before, last, after in zip(seen, seen[1:], seen[2:], strict=False):
        trend = (last.sum(axis=0) - before.sum(axis=0)) * (N - 1) / N
        guess = last.sum(axis=0) - (np.delete(after, leaver, axis=0).sum(axis=0) - trend)
        known = np.linalg.norm(last.mean(axis=0) - last[leaver])
        errors.append(float(np.linalg.norm(guess - last[leaver]) / known))
    return errors
