"""Seconds for each image that deep leakage recovers, ours beside the DLG paper's loop, in one process and thread."""

from pathlib import Path
from typing import Any

from fedmpi.attacks.case import attack
from fedmpi.attacks.command import batches_of
from fedmpi.attacks.metrics import mean_squared_errors
from fedmpi.attacks.params import Params
from fedmpi.data import load


def measure(dataset: str = "cifar10", cases: int = 6, data_dir: Path | None = None) -> dict[str, Any]:
    """Attack the same gradients with both, case after case; seconds are those of the process's cores."""
    ours, textbook = Params(attack="dlg", cases=cases), Params(attack="textbook", cases=cases)
    data = load(dataset, data_dir=data_dir)
    figures: dict[str, Any] = {}
    totals = {"dlg": [0.0, 0, 0], "textbook": [0.0, 0, 0]}
    labels = 0
    for seed, (X, y) in batches_of(ours, data).items():
        for params in (ours, textbook):
            found = attack(params, seed, X, y, len(data.classes))
            total = totals[params.attack]
            total[0] += found.reconstruction.seconds
            total[1] += int((mean_squared_errors(found.reconstruction.images, X) < params.success).sum())
            total[2] += found.reconstruction.evaluations
        labels += int(found.label == y[0])
    for name, (seconds, recovered, evaluations) in totals.items():
        figures[name] = {
            "recovered": recovered,
            "seconds": seconds,
            "evaluations": evaluations,
            "seconds_each": seconds / recovered if recovered else float("inf"),
        }
    figures["ratio"] = figures["textbook"]["seconds_each"] / figures["dlg"]["seconds_each"]
    figures["labels_right"] = labels
    return figures
