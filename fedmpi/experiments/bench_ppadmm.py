"""``mpirun -n 12 python -m fedmpi.experiments.bench_ppadmm``: what the masks add to an iteration of ADMM."""

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import participant, primary_server
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY, Done, auxiliary_server, participants
from fedmpi.ppadmm.service import role_of, salt_of

TURNS = 5
ITERATIONS = 40
SKIPPED = 5  # iterations at the start of a training, in which the caches fill


def methods() -> dict[str, Params]:
    """The trainings that take turns."""
    admm = Params(method="admm", iterations=ITERATIONS, tolerance=0, rho="500")
    default = replace(admm, method="ppadmm")
    return {"admm": admm, "aes-ctr": default, "chacha20": replace(default, mask="chacha20"),
            "sha256": replace(default, mask="sha256"), "sha256 precomputed": replace(default, mask="sha256", precompute=True)}  # fmt: skip


def train(ch: Channel, params: Params, A: Any, b: Any) -> list[float]:
    """One training; on S1 the seconds of each iteration."""
    salt, times = salt_of(params), list[float]()
    if ch.rank == PRIMARY:
        primary_server(ch, params, lambda it, coefficients, intercept: times.append(time.perf_counter()))
    elif ch.rank != AUXILIARY:
        participant(ch, params, A, b, salt)
    elif params.method == "ppadmm":
        auxiliary_server(ch, params, salt)
    else:
        ch.recv(PRIMARY, Done)
    return [after - before for before, after in zip(times, times[1:], strict=False)][SKIPPED:]


def main() -> None:
    """Measure, and print JSON on rank 0."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("columns", type=int)
    options = parser.parse_args()
    with job(role_of=role_of) as ch:
        rng = np.random.default_rng(ch.rank)
        A = b = None
        if ch.rank in participants(ch):
            A, b = rng.standard_normal((options.rows, options.columns)), rng.standard_normal(options.rows)
        seconds: dict[str, list[float]] = {name: [] for name in methods()}
        for _ in range(TURNS):
            for name, params in methods().items():
                seconds[name].append(statistics.median(train(ch, params, A, b) or [0.0]))
        if ch.rank == PRIMARY:
            # Each turn has its own ratio: what else runs on the machine changes from turn to turn.
            ratios = {name: [s / base for s, base in zip(turns, seconds["admm"], strict=True)] for name, turns in seconds.items()}
            print(json.dumps({
                name: {"iteration_ms": 1e3 * min(turns), "ratio": statistics.median(ratios[name]), "least_ratio": min(ratios[name]), "most_ratio": max(ratios[name])}
                for name, turns in seconds.items()
            }))  # fmt: skip


if __name__ == "__main__":
    main()
