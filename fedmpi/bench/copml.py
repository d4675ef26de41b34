"""A training of COPML beside the same by products of Shamir shares, by SecretFlow's SPU, and by MPyC.

All parties are on this machine. Processor seconds are of all of them together, without start-up and reading of data:
other load changes them little, and 11 owners on two cores take half of them by the clock.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.bench.niss import has
from fedmpi.bench.ranks.copml import CLASSES
from fedmpi.bench.timing import last_json
from fedmpi.copml.quantized import features
from fedmpi.copml.service import divisor_of, largest_of
from fedmpi.data import load
from fedmpi.machines.launcher import mpirun_command

METHODS = {"joint": ("copml", "joint"), "own": ("copml", "own"), "bgw": ("bgw", "joint")}
"""Encoding, or the baseline → method and encoding."""

MPYC_ROWS, MPYC_ITERATIONS = 100, 2
"""MPyC is slow enough to be timed on fewer products."""

COMPARED = {
    "bgw": ("total_cpu_seconds", "training_cpu_seconds", "total_seconds", "training_seconds"),
    "spu": ("cpu_seconds", "seconds"),
}
"""Peer → of which of its figures ratios to ours are printed."""


def measure(
    ranks: int = 11, dataset: str = "mnist", iterations: int = 25, rounds: int = 3, spu_python: Path | None = None
) -> dict[str, Any]:
    """Seconds of a training on two classes, 4 and 9; all take turns, and the least of each figure counts.

    Parameters
    ----------
    spu_python : Path, optional
        A Python that has spu, whose ABY3 with 3 parties trains as long; by default ours. A peer that is not installed
        is left out.
    """
    python = str(spu_python or sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rows.npz")
        runs: dict[str, Callable[[], dict[str, Any]]] = {
            name: partial(ours, ranks, dataset, *task, iterations) for name, task in METHODS.items()
        }
        if has(python, "spu"):
            write_rows(file, dataset)
            script = str(Path(__file__).with_name("peers") / "spu_logistic.py")
            runs["spu"] = lambda: last_json([python, script, file, str(iterations)])
        else:
            print(f"spu is left out: {python} has no spu", file=sys.stderr)
        if importlib.util.find_spec("mpyc") is not None:
            runs["mpyc"] = lambda: mpyc(ranks, load(dataset, classes=CLASSES).X_train[0].size + 1)
        done: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                done[name].append(run())
    figures = {name: least(results) for name, results in done.items()}
    for name in ("joint", "own"):
        figures[name] |= ratios(figures[name], figures)
    return figures


def least(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure."""
    return {key: min(result[key] for result in results) for key in results[0]}


def ratios(ours: dict[str, Any], figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How many times as long the others take: for the same training; MPyC for each product of an iteration."""
    found = {}
    for peer, keys in COMPARED.items():
        if peer in figures:
            for key in keys:
                own = key if key in ours else f"total_{key}"
                found[f"{peer}_over_{own.removesuffix('_seconds')}"] = figures[peer][key] / ours[own]
    if "mpyc" in figures:
        theirs = figures["mpyc"]["cpu_seconds"] / figures["mpyc"]["products"]
        found["mpyc_over_product"] = theirs / (ours["training_cpu_seconds"] / ours["products"])
    return found


def ours(ranks: int, dataset: str, method: str, encoding: str, iterations: int) -> dict[str, Any]:
    """What one training of ours costs."""
    program = [sys.executable, "-m", "fedmpi.bench.ranks.copml", dataset, method, encoding, str(iterations)]
    return last_json(mpirun_command(ranks, program)[0])


def mpyc(parties: int, columns: int) -> dict[str, Any]:
    """What a short one of MPyC costs, with as many parties."""
    task = [str(MPYC_ROWS), str(columns), str(MPYC_ITERATIONS)]
    # Without --no-prss MPyC's set-up grows with C(n, T).
    options = [f"-M{parties}", "--no-log", *(["--no-prss"] if parties > 7 else [])]
    return last_json([sys.executable, "-m", "fedmpi.bench.peers.mpyc_logistic", *task, *options])


def write_rows(file: str, dataset: str) -> None:
    """What SPU reads: the rows of all owners."""
    data = load(dataset, classes=CLASSES)

    def ready(X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return features(X, divisor_of(data), largest_of(data)).astype(np.float32)

    y = data.y_train.astype(np.float32)
    np.savez(file, X=ready(data.X_train), X_test=ready(data.X_test), y=y, y_test=data.y_test)
