"""What faults cost the paper's protocol: dead, slow and (absent) lying workers among 20, of which 16 are needed."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.errors import FedmpiError

WORKERS = 20
OPTIONS = ("--paper", "-K", "5", "-T", "1", "--no-compare", "--quiet", "--timeout", "60")  # R = 16
DEATHS = 4
SLOWER = 10
ROUNDS = 3
"""Undisturbed runs and runs with a straggler take turns."""


@dataclass(frozen=True)
class Run:
    """One training under mpirun."""

    result: dict[str, Any]
    weights: bytes
    wall_seconds: float
    """From the first iteration's start to the end of the last process: start-up is not counted."""

    @property
    def seconds(self) -> dict[str, float]:
        """Of the protocol, by phase and in total."""
        seconds: dict[str, float] = self.result["seconds"]
        return seconds


def train(options: Sequence[str]) -> Run:
    """Train with `fedmpi run`, so that dead ranks don't end the job.

    Raises
    ------
    FedmpiError
        If the run does not end with 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        program = [sys.executable, "-m", "fedmpi.cli", "run", "codedml", "-n", str(WORKERS + 1), "--", *OPTIONS]
        begun = time.perf_counter()
        done = subprocess.run(
            [*program, *options, "--out", str(out)], capture_output=True, text=True, check=False, timeout=300
        )
        wall = time.perf_counter() - begun
        if done.returncode != 0:
            raise FedmpiError(f"the benchmark's run must end with 0, got {done.returncode}: {done.stderr[-500:]}")
        result = json.loads((out / "result.json").read_text())
        with np.load(out / "model.npz") as model:
            weights = model["coefficients"].tobytes() + model["intercepts"].tobytes()
    return Run(result, weights, wall - result["seconds"]["startup"])


def deaths(seed: int, iterations: int) -> str:
    """--inject: four workers killed at random moments."""
    rng = np.random.default_rng(seed)
    ranks, moments = rng.choice(np.arange(1, WORKERS + 1), DEATHS, replace=False), rng.integers(0, iterations, DEATHS)
    return ",".join(f"kill={rank}@{it}" for rank, it in zip(ranks, moments, strict=True))


def measure(seeds: int, iterations: int, dataset: str) -> dict[str, Any]:
    """Seconds lost per death; the time with a straggler, and that of checking for liars, relative to that without."""
    common = ["--iterations", str(iterations), "--dataset", dataset]
    undisturbed = [train(common)]
    pause = SLOWER * undisturbed[0].seconds["total"] / iterations
    stragglers = []
    for _ in range(ROUNDS):
        stragglers.append(train([*common, "--inject", f"slow=6:{pause:.4f}s"]))
        undisturbed.append(train(common))
    killed = [train([*common, "--inject", deaths(seed, iterations)]) for seed in range(seeds)]
    total = np.median([run.seconds["total"] for run in undisturbed])
    wall = np.median([run.wall_seconds for run in undisturbed])
    lost = [(run.seconds["total"] - total) / DEATHS for run in killed]
    lost_wall = [(run.wall_seconds - wall) / DEATHS for run in killed]
    figures: dict[str, Any] = {
        "undisturbed": {"total_seconds": float(total), "wall_seconds": float(wall)},
        "death": {
            "runs": len(killed),
            "seconds_lost_median": float(np.median(lost)),
            "seconds_lost_max": max(lost),
            "wall_seconds_lost_median": float(np.median(lost_wall)),
            "wall_seconds_lost_max": max(lost_wall),
            "same_bits": all(run.weights == undisturbed[0].weights for run in killed),
        },
        "straggler": {
            "times_slower": SLOWER,
            "ratio": float(np.median([run.seconds["total"] for run in stragglers]) / total),
            "wall_ratio": float(np.median([run.wall_seconds for run in stragglers]) / wall),
        },
    }
    for liars in (1, 2):
        seconds = train([*common, "--byzantine", str(liars)]).seconds
        rest = seconds["total"] - seconds["check"]
        figures[f"byzantine {liars}"] = {"check_seconds": seconds["check"], "ratio": seconds["total"] / rest}
    return figures
