"""A whole training of CodedPrivateML under mpirun beside the same number of steps in plain numpy on one core."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fedmpi.bench.memory import PeakMemory
from fedmpi.bench.timing import fastest
from fedmpi.core.sigmoid import sigmoid
from fedmpi.errors import FedmpiError
from fedmpi.machines.launcher import environment, mpirun_command

ITERATIONS = 50
ROWS, COLUMNS = 6000, 5000


def measure(ranks: int = 51) -> dict[str, Any]:
    """50 iterations of the paper's on 6000 x 5000 synthetic data under mpirun, case 2, against float64 numpy."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command, _ = mpirun_command(
            ranks, [sys.executable, "-m", "fedmpi.codedml", *task_options(), "--quiet", "--out", str(out)]
        )
        before = float64_seconds()
        start = time.perf_counter()
        with (
            environment() as variables,
            subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as process,
        ):
            memory = PeakMemory(process.pid)
            code = process.wait()
            memory.stop()
        wall = time.perf_counter() - start
        if code != 0:
            raise FedmpiError(f"the benchmark's run must end with 0, got {code}")
        after = float64_seconds()
        result = json.loads((out / "result.json").read_text())
    baseline, seconds = (before + after) / 2, result["seconds"]
    return {
        "ratio": seconds["total"] / baseline,
        "float64_seconds": baseline,
        "startup_seconds": seconds["startup"],
        "wall_seconds": wall,
        "peak_pss_gb": memory.peak_bytes / 1e9,
        "test_accuracy": result["metrics"]["test_accuracy"],
        "seconds": seconds,
        "params": {key: result["params"][key] for key in ("N", "K", "T", "R")},
    }


def task_options() -> list[str]:
    """What is trained; with --paper every iteration is one gradient, as in the baseline, and none is left out."""
    options = ["--dataset", f"synthetic:m={ROWS},d={COLUMNS},density=0.13", "--case", "2", "--paper"]
    return [*options, "--iterations", str(ITERATIONS), "--no-compare"]


def float64_seconds() -> float:
    """The same number of gradient steps in float64 numpy on one core."""
    X = np.random.default_rng(0).random((ROWS, COLUMNS))
    y = (X[:, 0] > 0.5).astype(np.float64)

    def train() -> None:
        w = np.zeros(COLUMNS)
        for _ in range(ITERATIONS):
            w -= 1e-4 * (X.T @ (sigmoid(X @ w) - y))

    with threadpool_limits(1):
        return fastest(train, rounds=2)[0]
