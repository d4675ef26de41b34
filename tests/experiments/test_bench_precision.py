"""Private training without any option is as good as scikit-learn, on sets that need no download."""

import json

import numpy as np
import pytest

from fedmpi.bench import precision as bench_precision
from fedmpi.bench.precision import SETS, Split, compare, divided
from fedmpi.cli import main

NO_FILES = [
    "digits",
    "breast cancer",
    "wine cultivars",
    "iris",
    "diabetes above its median",
    "words, sparse",
    "heavy tails",
    "mixed units, outliers",
]


@pytest.mark.parametrize("name", NO_FILES)
def test_accuracy_and_log_loss_without_any_option(name: str) -> None:
    figures = compare(SETS[name](None, 1))
    assert figures["points"] >= -1.0
    assert figures["loss_ratio"] <= 1.1
    assert figures["reached"]


def test_one_in_a_thousand() -> None:
    """Nearly all rows are far on their side, so the loss is flat: training must not stop too early for the few."""
    y = (np.arange(20000) < 20).astype(np.int64)
    figures = compare(divided(np.random.default_rng(0).normal(size=(20000, 10)) + y[:, None], y, 0))
    assert figures["reached"]
    assert figures["loss_ratio"] <= 1.05


@pytest.mark.parametrize("zeros", [0.0, 0.6])
def test_outliers_that_tell_the_class_are_not_cut_off(zeros: float) -> None:
    """They are cut off far beyond the ordinary values, so that they still tell the rows apart."""
    rng = np.random.default_rng(0)
    y = (rng.random(4000) < 0.02).astype(np.int64)
    spikes = rng.random(4000) * (rng.random(4000) >= zeros) + 1e4 * y
    assert compare(divided(np.column_stack([spikes, rng.normal(size=(4000, 3))]), y, 0))["reached"]


def test_one_row_a_million_times_the_others() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(800, 6))
    y = (X @ rng.normal(size=6) + rng.logistic(size=800) > 0).astype(np.int64)
    X[5] *= 1e6
    figures = compare(divided(X, y, 0))
    assert figures["reached"]
    assert figures["coded"]["accuracy"] > 0.7


def test_words_are_as_sparse_as_they_should_be() -> None:
    split = SETS["words, sparse"](None, 0)
    assert split.X.shape[1] == 4900
    assert split.X.shape[0] + split.X_test.shape[0] == 2000
    assert 0.988 < 1 - split.X.nnz / np.prod(split.X.shape) < 0.992
    assert split.X.max() > 100


def test_sets_that_are_not_there_are_left_out_in_one_line(tmp_path, capsys) -> None:
    assert (
        main(
            ["bench", "precision", "--data-dir", str(tmp_path), "--sets", "diabetes above its median", "bank", "MNIST"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "left out" in line] == lines[3:5]
    assert lines[3].startswith("bank ")
    assert lines[-1].startswith("1 of 1 sets: ")


def test_json_holds_all_figures(capsys) -> None:
    assert main(["bench", "precision", "--sets", "iris", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["iris"]
    assert (row["rows"], row["columns"], row["classes"]) == (105, 4, 3)
    assert row["points"] == 100 * (row["coded"]["accuracy"] - row["scikit-learn"]["accuracy"])
    assert row["loss_ratio"] == row["coded"]["log_loss"] / row["scikit-learn"]["log_loss"]
    assert 1 <= row["iterations"] <= 50
    assert row["primes"]
    assert row["bits"] >= 4


def test_what_falls_short_is_marked(monkeypatch, capsys) -> None:
    """A test part with the labels exchanged makes the better model the worse one."""

    def exchanged(folder: object, seed: int) -> Split:
        split = SETS["breast cancer"](None, seed)
        return Split(split.X, split.y, split.X_test, 1 - split.y_test)

    monkeypatch.setattr(bench_precision, "TIMES_LOSS", 0.9)
    monkeypatch.setitem(SETS, "exchanged", exchanged)
    assert main(["bench", "precision", "--sets", "exchanged"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[2].endswith("NOT REACHED")
    assert out[3].startswith("0 of 1 sets")


def test_unknown_sets_are_refused(capsys) -> None:
    assert main(["bench", "precision", "--sets", "irises"]) == 2
    assert "a set must be one of digits, " in capsys.readouterr().err
