"""A round of federated averaging, timed beside Flower's simulation."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.data import load
from fedmpi.errors import FedmpiError
from fedmpi.launcher import environment, mpirun_command


def niss(ranks: int, rounds: int, flower: Path | None) -> dict[str, Any]:
    """A round of federated averaging on MNIST (MLP, 100 clients, 30 in a round, 5 epochs of batches of 10).

    Parameters
    ----------
    ranks : int
        Server, tracker and hosts.
    rounds : int
        Of each run; start-up is not counted.
    flower : Path, optional
        A Python that has Flower (``flwr[simulation]``) and torch: its simulation is timed before and after ours.
    """
    data = load("mnist")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        order = np.random.default_rng(0).permutation(len(data.y_train))
        for key, values in (("X", data.X_train[order]), ("y", data.y_train[order])):
            np.save(folder / f"{key}.npy", values)
        np.save(folder / "X_test.npy", data.X_test)
        np.save(folder / "y_test.npy", data.y_test)

        def theirs() -> dict[str, Any]:
            script = Path(__file__).with_name("bench_flower.py")
            program = [str(flower), str(script), name, str(rounds + 1), str(os.cpu_count())]
            return last_json(program)

        def ours(method: str) -> dict[str, Any]:
            options = ["--dataset", "mnist", "--clients", "100", "--rounds", str(rounds), "--method", method]
            options += ["--noise-std", "0.01", "--share-count", "8"] if method == "niss" else ["--clip", "inf"]
            options += ["--json", "--out", str(folder / method)]
            command, _ = mpirun_command(ranks, [sys.executable, "-m", "fedmpi.niss", *options])
            result = last_json(command)
            return {"seconds": result["seconds"]["round"], "accuracy": result["metrics"]["test_accuracy"]}

        runs = [theirs()] if flower else []
        figures |= {method: ours(method) for method in ("fedavg", "niss")}
        runs += [theirs()] if flower else []
    if runs:
        seconds = float(np.median([s for run in runs for s in run["seconds_per_round"]]))
        figures["flower"] = {"seconds": seconds, "accuracy": runs[-1]["accuracy"]}
        for method in ("fedavg", "niss"):
            figures[method]["speedup"] = seconds / figures[method]["seconds"]
    return figures


def last_json(command: list[str]) -> dict[str, Any]:
    """What a program prints as its last line."""
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise FedmpiError(f"{command[0]} must print JSON, got exit code {done.returncode}: {said}")
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures
