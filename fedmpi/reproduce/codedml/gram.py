"""What the paper's own arithmetic would cost here: workers that form X̃ᵀX̃ in integers, md²/K multiplications.

With degree 1 the gradient is c̄₁ X̃ᵀX̃ w̃, so that X̃ᵀX̃ could be formed once. The paper's analysis of complexity does not
say, and calls it the dominant part of computing f(X̃, w̃), which each iteration evaluates anew: both are computed. A
baseline's X̃ᵀX̃ has shares of degree 2T, all d² of whose numbers go through its degree reduction.
"""

import time
from typing import Any

import numpy as np

from fedmpi.bench.projection import Projection, reduce_bgw, reduce_bh08
from fedmpi.bench.rates import Rates
from fedmpi.bench.steps import Machines, Task
from fedmpi.codedml.params import Params


def integer_rate(side: int = 256) -> float:
    """Multiplications a second of one core, in products of 64-bit integers by numpy, which has no BLAS for them."""
    a = np.arange(side * side, dtype=np.int64).reshape(side, side) % 1009
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        a @ a
        best = min(best, time.process_time() - start)
    return float(side**3 / best)


def seconds_with_gram(
    projection: Projection, task: Task, rates: Rates, rate: float, *, once: bool, machines: Machines | None = None
) -> float:
    """Total seconds of a protocol whose workers form X̃ᵀX̃.

    Parameters
    ----------
    projection : Projection
        Of the same task, with two matrix-vector products.
    task : Task
        Of degree 1.
    rate : float
        Of `integer_rate`.
    once : bool
        Before the first iteration; otherwise in each.
    machines : Machines, optional
        Default: 1 Gbit/s and 0.5 ms.
    """
    d, J, method = task.columns, task.iterations, projection.protocol.partition(" ")[0]
    machines = machines or Machines()
    times = 1 if once else J
    total = projection.seconds["total"] - projection.seconds["compute"] - projection.seconds.get("reduce", 0.0)
    rows = -(-task.rows // projection.layout["K" if method == "coded" else "G"])
    total += (times * rows * d * d + J * d * d) / (rate * machines.speed)
    if method == "coded":
        return total
    options: dict[str, Any] = {"method": method}
    T, groups = Params(**options).groups(projection.workers)
    reduce = reduce_bgw if method == "bgw" else reduce_bh08
    steps = [reduce(len(group), T, d * d, rates) for group in groups]
    return total + times * max(sum(step.busy(machines, rates)) for step in steps)
