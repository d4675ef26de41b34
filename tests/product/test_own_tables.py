"""A user's own table: values in their units, all rows for training, rare classes, images, and columns by name."""

import csv
import json
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedmpi.cli import main
from fedmpi.data import load
from fedmpi.errors import UsageError
from fedmpi.runs.model import load_model

ROWS = 400
CLASSIFIERS = {
    "codedml": (5, []),
    "niss": (5, ["--method", "fedavg", "--fraction", "1", "--rounds", "25", "--learning-rate", "0.1"]),
    "pbpfl": (4, ["--rounds", "250"]),
    "spn": (4, ["--method", "fedavg", "--model", "mlp", "--rounds", "25", "--learning-rate", "0.005"]),
}
"""Ranks, and options of training without noise, long enough for so few rows."""


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ages and incomes; the last column is a class."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("tables") / "people.csv"
    age, income = rng.integers(20, 90, ROWS), rng.normal(50_000, 9_000, ROWS).round(2)
    rows = zip(age.tolist(), income.tolist(), (age > 55).astype(int).tolist(), strict=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["age", "income", "old"], *rows])
    return path


def train(system: str, options: Iterable[object], folder: Path, ranks: int) -> dict[str, Any]:
    record = import_module(f"fedmpi.{system}").SYSTEM
    record.on_threads(ranks, [*options, "--quiet", "--no-compare", "--out", folder])
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@pytest.mark.parametrize("write", ["csv", "parquet"])
def test_prices_are_as_near_as_scikit_learns(write: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    size, rooms = rng.normal(90, 30, ROWS).round(1), rng.integers(1, 7, ROWS)
    price = (3000 * size + 20_000 * rooms + rng.normal(0, 9_000, ROWS)).round()
    path = tmp_path / f"prices.{write}"
    if write == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), import_module("pyarrow.parquet")
        parquet.write_table(pa.table({"size": size, "rooms": rooms, "price": price}), path)
    else:
        np.savetxt(path, np.column_stack([size, rooms, price]), delimiter=",", header="size,rooms,price", comments="")
    result = train("ppadmm", ["--dataset", path, "--penalty", "1", "--standardize"], tmp_path / "run", 5)
    data = load(str(path), regression=True)
    model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(data.X_train, data.y_train)
    theirs = float(np.sqrt(np.mean((model.predict(data.X_test) - data.y_test) ** 2)))
    assert result["metrics"]["test_rmse"] <= 1.03 * theirs


@pytest.mark.parametrize("system", ["codedml", "pbpfl"])
def test_a_value_of_millions_is_learned_and_given_in_its_own_units(system: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    X = rng.normal([50, 1e5], [15, 2e4], (ROWS, 2))
    y = 5e6 + 2e4 * X[:, 0] + 10 * X[:, 1] + rng.normal(0, 1e4, ROWS)
    path = tmp_path / "values.csv"
    np.savetxt(path, np.column_stack([X, y]), delimiter=",", header="age,income,value", comments="")
    special = {"codedml": (5, ["--model", "linear"]), "pbpfl": (4, ["--target", "value", "--rounds", "150"])}
    ranks, options = special[system]
    result = train(system, [*options, "--dataset", path], tmp_path / "run", ranks)
    error = np.sqrt(np.mean((load_model(tmp_path / "run").predict(X) - y) ** 2))
    assert error < 0.15 * y.std()
    if system == "pbpfl":
        assert np.sqrt(result["metrics"]["test_mse"]) == pytest.approx(error, rel=0.5)


EVERY_SYSTEM = CLASSIFIERS | {"ppadmm": (5, [])}


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_all_rows_may_be_trained_on(
    system: str, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks, options = EVERY_SYSTEM[system]
    path, few = people, ["--rounds", "2"] if "--rounds" in options else ["--iterations", "3"]
    result = train(system, [*options, *few, "--dataset", path, "--test-fraction", "0"], tmp_path / "run", ranks)
    assert result["dataset"]["m"] == ROWS
    assert not [key for key in result["metrics"] if key.startswith(("test_", "validation_"))]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(path), "--out", str(tmp_path / "p.csv")]) == 0
    assert capsys.readouterr().out.startswith(f"{ROWS} rows, ")


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that overlap, one in twenty rows of the second."""
    rng, path = np.random.default_rng(7), tmp_path_factory.mktemp("rare") / "rare.csv"
    X = rng.normal(size=(1000, 3))
    y = np.arange(1000) % 20 == 0
    X[y] += 1.5
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["a", "b", "c", "ill"], *([*row, k] for row, k in zip(X, np.where(y, "yes", "no"), strict=True))]
        )
    return path


@pytest.mark.parametrize("system", ["codedml", "niss", "spn"])
def test_a_rare_class_is_found_where_its_rows_count_more(
    system: str, rare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks, options = CLASSIFIERS[system]
    found = {}
    for name, more in (("alike", []), ("balanced", ["--class-weight", "balanced"])):
        result = train(system, [*options, "--dataset", rare, *more], tmp_path / name, ranks)
        found[name] = result["metrics"]
        assert "classes are uneven, yes has 10 of 200 test rows: balanced accuracy" in capsys.readouterr().out
    assert found["balanced"]["test_balanced_accuracy"] > found["alike"]["test_balanced_accuracy"] + 0.05
    assert found["balanced"]["test_auc"] > 0.9
    assert not result["warnings"]


@pytest.mark.parametrize(
    ("system", "options", "text"),
    [
        ("pbpfl", [], "pbpfl recovers the gradient of the plain squared error"),
        ("ppadmm", [], "ppadmm has no classes"),
        ("codedml", ["-r", "1"], "must be given for a logistic model with the sigmoid itself, got --degree 1"),
    ],
)
def test_class_weights_are_refused_where_the_protocol_has_no_place_for_them(
    system: str, options: list[str], text: str, rare: Path, tmp_path: Path
) -> None:
    given = [*options, "--dataset", rare, "--class-weight", "balanced"]
    with pytest.raises(UsageError, match=text):
        train(system, given, tmp_path / "run", 5)


def test_a_folder_of_images_trains_and_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(30):
            pixels = rng.normal(level, 20, (6, 6)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
    options = ["--method", "fedavg", "--fraction", "1", "--rounds", "10", "--dataset", f"{tmp_path / 'images'}/"]
    result = train("niss", options, tmp_path / "run", 4)
    assert result["metrics"]["test_accuracy"] == 1.0
    assert json.loads((tmp_path / "run" / "model.json").read_text())["input_shape"] == [1, 6, 6]
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "images")]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("60 rows, 5") or said.err.startswith("60 rows, 60")
    assert said.out.splitlines()[0] == "prediction,probability of dark,probability of light"


def test_a_table_of_16_columns_is_no_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 16))
    path = tmp_path / "sixteen.csv"
    np.savetxt(path, np.column_stack([X, X[:, 0] > 0]), delimiter=",", fmt="%.3f")
    with pytest.raises(UsageError, match="must have images"):
        train("niss", ["--model", "cnn", "--dataset", path], tmp_path / "run", 4)
    options = ["--model", "cnn", "--method", "fedavg", "--rounds", "1", "--dataset", path]
    train("niss", [*options, "--image-shape", "1", "4", "4"], tmp_path / "run", 4)


CHANGES: dict[str, Callable[[list[str]], list[str]]] = {
    "without a feature": lambda row: row[1:],
    "in another order": lambda row: [row[1], row[0], row[2]],
    "without labels": lambda row: row[:2],
}


@pytest.mark.parametrize("change", CHANGES)
def test_columns_of_rows_to_predict_are_found_by_name(
    change: str, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = people
    train("codedml", ["--dataset", source], tmp_path / "run", 5)
    with source.open(newline="") as file, (tmp_path / "new.csv").open("w", newline="") as new:
        csv.writer(new).writerows(map(CHANGES[change], csv.reader(file)))
    capsys.readouterr()
    code = main(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv")])
    said = capsys.readouterr()
    if change == "without a feature":
        assert code == 2
        assert 'must have the column "age", got income' in said.err
        return
    assert main(["predict", str(tmp_path / "run"), str(source)]) == code == 0
    assert capsys.readouterr().out == said.out
    assert ("accuracy" in said.err) == (change != "without labels")
