"""``mpirun -n 12 python -m fedmpi.bench.ranks.ppadmm 500 5000``: what masks add to an iteration of ADMM."""

import argparse
import json
import statistics
import time
from dataclasses import dataclass, field, replace

import numpy as np

from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.ppadmm import SYSTEM
from fedmpi.ppadmm.admm import Vector
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Own, participant, primary_server
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY
from fedmpi.ppadmm.service import salt_of

SHORT, LONG = 5, 35
"""Iterations of the two trainings whose difference is measured: start-up and factorization cancel."""

ADMM = Params(method="admm", iterations=LONG, tolerance=0, rho="500")
METHODS = {
    "admm": ADMM,
    "aes-ctr": replace(ADMM, method="ppadmm"),
    "chacha20": replace(ADMM, method="ppadmm", mask="chacha20"),
    "sha256": replace(ADMM, method="ppadmm", mask="sha256"),
    "sha256 precomputed": replace(ADMM, method="ppadmm", mask="sha256", precompute=True),
}


@dataclass
class Turns:
    """Seconds of an iteration, one entry a turn."""

    wall: list[float] = field(default_factory=list)
    """Mean of a training."""
    cpu: list[float] = field(default_factory=list)
    """Of all ranks together."""


def train(ch: Channel, params: Params, A: Vector, b: Vector) -> tuple[float, float]:
    """One training; on S1 the mean wall time of an iteration but the first, and the CPU time of all ranks so far."""
    salt, times = salt_of(params), list[float]()
    if ch.rank == PRIMARY:
        done = primary_server(ch, params, lambda it, coefficients, intercept: times.append(time.perf_counter()))
        others = sum(report.cpu_seconds for report in done.reports.values())
        return (times[-1] - times[1]) / (len(times) - 2), ch.meter.cpu_seconds + others
    if ch.rank == AUXILIARY:
        auxiliary_server(ch, params, salt)
    else:
        participant(ch, params, Own(A, b, salt))
    return 0.0, 0.0


def main() -> None:
    """Measure, and print JSON on rank 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int, help="of each participant")
    parser.add_argument("columns", type=int)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with job(role_of=SYSTEM.role_of) as ch:
        rng = np.random.default_rng(ch.rank)
        rows = options.rows if ch.rank > AUXILIARY else 0
        A, b = rng.standard_normal((rows, options.columns)), rng.standard_normal(rows)
        seconds = {name: Turns() for name in METHODS}
        before = train(ch, replace(ADMM, iterations=SHORT), A, b)[1]
        for _ in range(options.turns):  # what else runs on the machine changes from turn to turn
            for name, params in METHODS.items():
                middle = train(ch, replace(params, iterations=SHORT), A, b)[1]
                wall, after = train(ch, params, A, b)
                seconds[name].wall.append(wall)
                seconds[name].cpu.append((after - middle - (middle - before)) / (LONG - SHORT))
                before = after
        if ch.rank == PRIMARY:
            print(json.dumps({name: figures(turns, seconds["admm"]) for name, turns in seconds.items()}))


def figures(turns: Turns, base: Turns) -> dict[str, float]:
    """The shortest iteration, and the medians of the ratios to ADMM in the same turn."""
    return {
        "wall_ms": 1e3 * min(turns.wall),
        "wall_ratio": statistics.median(one / other for one, other in zip(turns.wall, base.wall, strict=True)),
        "cpu_ms": 1e3 * min(turns.cpu),
        "cpu_ratio": statistics.median(one / other for one, other in zip(turns.cpu, base.cpu, strict=True)),
    }


if __name__ == "__main__":
    main()
