"""How good a classifier is where classes are uneven: balanced accuracy, and the area under the ROC curve."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RARE = 0.2
"""A class with less than this part of an even share of the rows is rare."""


def class_scores(outputs: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, float]:
    """Balanced accuracy, and the area under the ROC curve: of several classes the mean of one against the rest.

    Parameters
    ----------
    outputs : array, shape (n, 1) or (n, classes)
        One for two classes, of which a positive one is for the second; or one for each class.
    labels : array, shape (n,)

    Returns
    -------
    dict
        test_balanced_accuracy and test_auc; without the latter where the rows are of one class or outputs not finite;
        empty where there are no rows.
    """
    if not len(labels):
        return {}
    known = np.unique(labels)
    decided = outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).astype(np.int64)
    found = {"test_balanced_accuracy": float(np.mean([(decided[labels == k] == k).mean() for k in known]))}
    if len(known) > 1 and np.isfinite(outputs).all():
        if outputs.shape[1] <= 2:
            second = outputs[:, -1] - (outputs[:, 0] if outputs.shape[1] == 2 else 0.0)
            areas = [roc_area(labels == 1, second)]
        else:
            areas = [roc_area(labels == k, outputs[:, k]) for k in known]
        found["test_auc"] = float(np.mean(areas))
    return found


def roc_area(positive: NDArray[np.bool_], values: NDArray[Any]) -> float:
    """The part of all pairs of a positive row and another in which the former's value is larger; equal ones count half.

    Not scikit-learn's, which takes a second of processor time to load.
    """
    others, own = np.sort(values[~positive]), values[positive]
    below = np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")
    return int(below.sum()) / (2 * len(others) * len(own))


def rare_line(metrics: Mapping[str, Any], labels: NDArray[np.int64], classes: Sequence[str]) -> str | None:
    """What accuracy hides where a class is rare among the test rows, for people; None where none is."""
    if not classes or "test_balanced_accuracy" not in metrics:
        return None
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() >= RARE * counts.sum() / len(counts):
        return None
    least = int(counts.argmin())
    area = f", ROC AUC {metrics['test_auc']:.4f}" if "test_auc" in metrics else ""
    return (
        f"classes are uneven, {classes[least]} has {counts[least]} of {counts.sum()} test rows: "
        f"balanced accuracy {metrics['test_balanced_accuracy']:.4f}{area}"
    )
