"""The same training in the clear, in one process: the oracle of the tests."""

from collections.abc import Callable, Sequence

import numpy as np

from fedmpi.ppadmm.admm import Consensus, Scaling, Shard, Vector
from fedmpi.ppadmm.params import Params

Observe = Callable[[int, Vector, float], None]
"""Called with (iteration, coefficients, intercept), both for the features as they were."""


def ignore(iteration: int, coefficients: Vector, intercept: float) -> None:
    """Observe nothing."""


def train_plain(
    params: Params, parts: Sequence[tuple[Vector, Vector]], observe: Observe = ignore
) -> tuple[Vector, float]:
    """Consensus ADMM over all parts [Boyd et al. 2011, section 8.2].

    Parameters
    ----------
    params : Params
    parts : sequence of (A_i, b_i)
        Shapes (m_i, d) and (m_i,).

    Returns
    -------
    coefficients : array, shape (d,)
    intercept : float
    """
    return train_shards(params, [Shard(A, b) for A, b in parts], observe)


def train_shards(params: Params, shards: Sequence[Shard], observe: Observe = ignore) -> tuple[Vector, float]:
    """The same, for participants who are there already."""
    N, columns = len(shards), shards[0].columns
    totals = _sum([shard.sums() for shard in shards])
    scaling = Scaling.fit(params, totals)
    scaling = scaling.with_scales(_sum([shard.squares(scaling.means) for shard in shards]), totals[0])
    curvature = scaling.curvature(totals[0], N)
    rho = params.first_rho(curvature)
    for shard in shards:
        shard.begin(rho, scaling.scales)
    consensus = Consensus(params, scaling.weights(params), rho, np.zeros(columns), curvature)
    observe(0, *scaling.original_units(consensus.z))
    for it in range(params.iterations):
        updates = [shard.update(consensus.z) for shard in shards]
        converged = consensus.update(_sum([v for v, _ in updates]), _sum([norms for _, norms in updates]), N, it)
        for shard in shards:
            shard.dual_step(consensus.z)
            shard.renew(consensus.rho)
        observe(it + 1, *scaling.original_units(consensus.z))
        if converged:
            break
    return scaling.original_units(consensus.z)


def _sum(values: list[Vector]) -> Vector:
    total = values[0].copy()
    for value in values[1:]:
        total += value
    return total
