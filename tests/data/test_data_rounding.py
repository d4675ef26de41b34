"""Large tables in float32: only where that does no harm, and predictions round as the training did."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import fedmpi
from fedmpi.codedml import SYSTEM
from fedmpi.data import load, rounding
from fedmpi.data.rows import read_rows

M = 400
rng = np.random.default_rng(7)
HARMLESS = {
    "decimals": rng.normal(size=M).round(6),
    "whole": rng.integers(0, 1 << 24, M),
    "money": 50_000 + rng.normal(size=M) * 20_000,
    "constant": np.full(M, 0.1),
    "missing": np.where(rng.random(M) < 0.2, np.nan, rng.normal(size=M)),
    "times of years": 1.5e9 + rng.random(M) * 1e9,
    "one outlier": np.where(np.arange(M) == M - 1, 1e9, rng.normal(size=M)),
    "as text": np.array(["n" if k % 3 else "m" for k in range(M)]),
}
HARMFUL = {
    "times of a second": 1.5e9 + rng.random(M),
    "late and beyond float32": np.where(np.arange(M) == M - 1, 1e300, rng.normal(size=M)),
    "numbers that were text": np.array(["old" if k < 0 else str(1.5e9 + k / 7) for k in range(M)]),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred rows of two columns are a large table."""
    monkeypatch.setattr("fedmpi.data.builder.LARGE", 200 * 2 * 8)


def write(path: Path, columns: Sequence[np.ndarray]) -> Path:
    pandas = pytest.importorskip("pandas")
    names = [f"c{k}" for k in range(len(columns))]
    frame = pandas.DataFrame(dict(zip(names, columns, strict=True)) | {"label": np.arange(M) % 2})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, row_group_size=100)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", HARMLESS | HARMFUL)
def test_a_large_table_is_float32_where_that_does_no_harm(name: str, suffix: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("fedmpi.data.arrow.ROWS", 50)
    column = (HARMLESS | HARMFUL)[name]
    path = write(tmp_path / f"t{suffix}", [column, HARMLESS["decimals"]])
    data = load(str(path), prepare=False, test_fraction=0.25)
    said = [note for note in data.notes if "rounded to float32" in note]
    assert data.rounded == (data.X_train.dtype == np.float32) == bool(said) == (name in HARMLESS)
    monkeypatch.setattr("fedmpi.data.builder.LARGE", 1 << 40)
    exact = load(str(path), prepare=False, test_fraction=0.25)
    assert exact.X_train.dtype == np.float64
    np.testing.assert_array_equal(data.X_train, exact.X_train.astype(data.X_train.dtype))
    np.testing.assert_array_equal(data.y_test, exact.y_test)
    assert data.values == exact.values


def test_rows_that_come_late_count() -> None:
    looked = rounding.Rounding(1)
    looked.add_all(np.arange(100_000.0)[:, None] / 7)
    assert looked.harmless
    looked.add_all(np.array([[1e12]]))
    assert not looked.harmless


@pytest.mark.parametrize("scale", ["std", None])
def test_predictions_round_as_the_training_did(scale: str | None, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [rng.normal(size=M) * 0.1 + 3.1, rng.normal(size=M)])
    options = ["--dataset", path, "--iterations", "4", "--out", tmp_path / "run", "--quiet"]
    SYSTEM.on_threads(4, [*options, *(["--scale", scale] if scale else [])])
    model, data = fedmpi.load_model(tmp_path / "run"), load(str(path))
    assert json.loads((tmp_path / "run" / "model.json").read_text())["rows"] == "float32"
    rows, _ = read_rows(path, model.card["columns"], 2, [], None)
    assert rows.X.dtype == np.float64
    table = rows.X[np.isin(rows.X.astype(np.float32)[:, 0], data.X_test[:, 0])]
    np.testing.assert_array_equal(model.decision_function(table), model.decision_function(table.astype(np.float32)))
    assert (table != table.astype(np.float32)).any()
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    labels = np.array(data.classes)[data.y_test]
    assert (model.predict(data.X_test) == labels).mean() == metrics["test_accuracy"]
