"""A training of CodedPrivateML with encrypted links beside one with plain links."""

import tempfile
from pathlib import Path
from typing import Any

from fedmpi.bench.codedml import task_options
from fedmpi.crypto.keys import create_key_file
from fedmpi.runs.batch import train


def measure(ranks: int = 51, rounds: int = 3) -> dict[str, Any]:
    """The runs of `fedmpi bench codedml`, encrypted and plain ones in turns: the fastest of each kind, and CPU time."""
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "encrypted": []}
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        create_key_file(key)
        for i in range(rounds):
            for name, own in (("plain", []), ("encrypted", ["--cluster-key", str(key)])):
                runs[name].append(train(Path(folder) / f"{name}-{i}", ranks, [*task_options(), *own]))
    seconds = {name: [run["seconds"]["total"] for run in results] for name, results in runs.items()}
    cpu = {name: min(map(_cpu_seconds, results)) for name, results in runs.items()}
    return {
        "ratio": min(seconds["encrypted"]) / min(seconds["plain"]),
        "cpu_ratio": cpu["encrypted"] / cpu["plain"],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "params": {key: runs["plain"][0]["params"][key] for key in ("N", "K", "T", "R")},
    }


def _cpu_seconds(run: dict[str, Any]) -> float:
    """Of all ranks."""
    seconds: float = run["cpu_seconds"]["master"] + run["params"]["N"] * run["cpu_seconds"]["worker_mean"]
    return seconds
