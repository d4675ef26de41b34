"""Balanced accuracy and the area under the ROC curve, against scikit-learn's and by hand; and when people are told."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight

from fedmpi.learn.balance import balanced_weights, weighted_cross_entropy
from fedmpi.runs.scores import class_scores, rare_line, roc_area


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_scores_are_scikit_learns(outputs: int) -> None:
    rng, classes = np.random.default_rng(outputs), max(outputs, 2)
    y, z = rng.integers(0, classes, 200), rng.normal(size=(200, outputs))
    z[:, -1] += y == classes - 1
    if outputs == 4:
        z = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        decided, area = z.argmax(axis=1), roc_auc_score(y, z, multi_class="ovr")
    else:
        second = z[:, -1] - (z[:, 0] if outputs == 2 else 0)
        decided, area = second > 0, roc_auc_score(y, second)
    found = class_scores(z, y)
    assert found["test_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, decided))
    assert found["test_auc"] == pytest.approx(area)


def test_ties_count_half_as_in_scikit_learns_area() -> None:
    rng = np.random.default_rng(0)
    y, z = rng.random(300) < 0.2, rng.integers(0, 5, 300).astype(np.float32)
    assert roc_area(y, z) == pytest.approx(roc_auc_score(y, z))
    assert roc_area(np.array([False, True, True]), np.array([1.0, 1.0, 2.0])) == 0.75


def test_scores_load_nothing_slow() -> None:
    """scikit-learn took a quarter of the processor time of codedml's master."""
    run = (
        "import sys, numpy as np; from fedmpi.runs.scores import class_scores; "
        "class_scores(np.ones((2, 1)), np.array([0, 1])); assert not {'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", run], check=True)


def test_what_rows_do_not_say_is_left_out() -> None:
    assert class_scores(np.zeros((0, 3)), np.zeros(0, np.int64)) == {}
    assert class_scores(np.ones((2, 1)), np.array([1, 1])) == {"test_balanced_accuracy": 1.0}
    assert class_scores(np.array([[np.nan], [1.0]]), np.array([0, 1])) == {"test_balanced_accuracy": 1.0}


def test_people_are_told_where_a_class_is_rare() -> None:
    metrics, classes = {"test_balanced_accuracy": 0.625, "test_auc": 0.75}, ("no", "yes")
    for rare, told in ((9, True), (10, False), (50, False)):
        labels = np.repeat([0, 1], [100 - rare, rare])
        line = rare_line(metrics, labels, classes)
        assert (line is not None) == told
        if told:
            assert line == ("classes are uneven, yes has 9 of 100 test rows: balanced accuracy 0.6250, ROC AUC 0.7500")
    assert rare_line({}, labels, classes) is None
    assert rare_line(metrics, np.array([0.5, 1.5]), ()) is None


def test_balanced_weights_are_scikit_learns_for_the_classes_that_are_there() -> None:
    y = np.array([0, 0, 0, 2, 2, 3])
    weights = balanced_weights(torch.from_numpy(y), 5).numpy()
    np.testing.assert_allclose(weights[[0, 2, 3]], compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=y))
    assert weights[1] == weights[4] == 0
    assert weights[y].mean() == pytest.approx(1)
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 5)))
    each = torch.nn.functional.cross_entropy(z, torch.from_numpy(y), reduction="none").numpy()
    got = float(weighted_cross_entropy(z, torch.from_numpy(y), torch.from_numpy(weights)))
    assert got == pytest.approx(float((weights[y] * each).mean()))
