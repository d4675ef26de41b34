"""A user's own table: trained in every system as well as by scikit-learn on the same split, and its rows predicted."""

import csv
import json
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fedmpi.cli import main
from fedmpi.data import load
from fedmpi.errors import UsageError

ROWS = 400
CLASSIFIERS = {
    "codedml": (5, []),
    "niss": (5, ["--method", "fedavg", "--fraction", "1", "--rounds", "25", "--learning-rate", "0.1"]),
    "pbpfl": (4, ["--rounds", "250"]),
    "spn": (4, ["--method", "fedavg", "--model", "mlp", "--rounds", "25", "--learning-rate", "0.005"]),
}
"""Ranks, and options of training without noise, long enough for so few rows."""


def table(name: str, rng: np.random.Generator) -> tuple[list[str], list[list[Any]]]:
    """The header and the rows of a made-up table whose last column is a class."""
    age, income = rng.integers(20, 90, ROWS), rng.normal(50_000, 9_000, ROWS).round(2)
    old = (age > 55).astype(int)
    if name == "ages and incomes":
        return ["age", "income", "old"], [*map(list, zip(age.tolist(), income.tolist(), old.tolist(), strict=True))]
    if name == "text categories":
        job = rng.choice(["cook", "nurse", "smith"], ROWS)
        label = np.where((job == "nurse") ^ (age > 80), "yes", "no")
        return ["job", "age", "member"], [*map(list, zip(job.tolist(), age.tolist(), label.tolist(), strict=True))]
    if name == "constants and an index":
        columns = (range(ROWS), [7] * ROWS, age.tolist(), old.tolist())
        return ["", "same", "age", "old"], [*map(list, zip(*columns, strict=True))]
    assert name == "semicolons and decimal commas"
    numbers = [f"{value:.1f}".replace(".", ",") for value in rng.normal(age, 1)]
    return ["alter", "alt"], [*map(list, zip(numbers, np.where(old, "ja", "nein").tolist(), strict=True))]


TABLES = ("ages and incomes", "text categories", "constants and an index", "semicolons and decimal commas")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All tables as CSV files."""
    folder, found = tmp_path_factory.mktemp("tables"), {}
    for k, name in enumerate(TABLES):
        header, rows = table(name, np.random.default_rng(k))
        found[name] = folder / f"{k}.csv"
        with found[name].open("w", newline="") as file:
            csv.writer(file, delimiter=";" if "semicolons" in name else ",").writerows([header, *rows])
    return found


def reached_by_scikit_learn(path: Path) -> float:
    """Accuracy on our test rows, after its own preparation of ours as they were read."""
    data = load(str(path), prepare=False)
    text, numbers = sorted(data.values), [k for k in range(data.X_train.shape[1]) if k not in data.values]
    steps = make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(), text))
    model = make_pipeline(steps, LogisticRegression()).fit(data.X_train, data.y_train)
    return float(model.score(data.X_test, data.y_test))


def train(system: str, options: Iterable[object], folder: Path, ranks: int) -> dict[str, Any]:
    record = import_module(f"fedmpi.{system}").SYSTEM
    record.on_threads(ranks, [*options, "--quiet", "--no-compare", "--out", folder])
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


@pytest.mark.parametrize("system", CLASSIFIERS)
@pytest.mark.parametrize("name", TABLES)
def test_accuracy_is_that_of_scikit_learn_and_predict_repeats_it(
    system: str, name: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks, options = CLASSIFIERS[system]
    result = train(system, [*options, "--dataset", files[name]], tmp_path / "run", ranks)
    accuracy = result["metrics"]["test_accuracy"]
    assert accuracy >= reached_by_scikit_learn(files[name]) - (0.02 if system == "codedml" else 0.0376), "3 of 80 rows"
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(files[name]), "--out", str(tmp_path / "p.csv")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{ROWS} rows, ")
    with (tmp_path / "p.csv").open(newline="") as file:
        predicted = np.array([row["prediction"] for row in csv.DictReader(file)])
    data = load(str(files[name]))
    labels = np.array([row[-1] for row in table(name, np.random.default_rng(TABLES.index(name)))[1]]).astype(str)
    assert f"accuracy {(predicted == labels).mean():.4f}" in said
    assert set(predicted) <= set(data.classes)


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
    change: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = files["ages and incomes"]
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
