"""A training of COPML beside the same by products of Shamir shares, without coding, all owners on this machine."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fedmpi.bench.timing import run_quietly
from fedmpi.machines.launcher import mpirun_command

METHODS = {
    "joint": ("--method", "copml"),
    "own": ("--method", "copml", "--encoding", "own"),
    "bgw": ("--method", "bgw"),
}
"""Encoding, or the baseline → options."""


def measure(ranks: int = 11, dataset: str = "mnist", iterations: int = 25, rounds: int = 3) -> dict[str, Any]:
    """Seconds of a training on two classes, 4 and 9, and its parts; runs take turns, and the fastest of each counts."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(rounds):
            for name, options in METHODS.items():
                out = Path(folder) / f"{name}-{round_}"
                task = ["--dataset", dataset, "--classes", "4", "9", "--iterations", str(iterations)]
                program = [sys.executable, "-m", "fedmpi.copml", *task, *options, "--quiet", "--out", str(out)]
                run_quietly(mpirun_command(ranks, program)[0])
                runs[name].append(json.loads((out / "result.json").read_text()))
    figures: dict[str, Any] = {name: figures_of(done) for name, done in runs.items()}
    for name in ("joint", "own"):
        for part in ("total", "training"):
            figures[name][f"bgw_over_{part}"] = figures["bgw"][f"{part}_seconds"] / figures[name][f"{part}_seconds"]
    return figures


def figures_of(done: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the runs of one method."""
    best = min(done, key=lambda result: result["seconds"]["total"])
    sent = best["bytes"]["sent"]
    return {
        "total_seconds": best["seconds"]["total"],
        "training_seconds": min(result["seconds"]["iterations"] for result in done),
        "cpu_seconds": min(result["cpu_seconds"]["owner_mean"] for result in done),
        "sent_mb": sent["owner_mean"] / 1e6,
        "peak_memory_mb": best["peak_memory_bytes"]["owner_max"] / 1e6,
        "test_accuracy": best["metrics"]["test_accuracy"],
    }
