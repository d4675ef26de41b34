"""What a run leaves can be used: rows as they are in, the run's own test accuracy out, for every system and method."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas
import pytest
import torch
from torch import nn

import fedmpi
from fedmpi.cli import main
from fedmpi.data import load
from fedmpi.data.rows import read_rows
from fedmpi.errors import UsageError
from fedmpi.runs.export import write_onnx
from fedmpi.runs.model import CARD, TorchModel, read_arrays

RUNS = {
    "codedml": (5, ["--iterations", "4", "--max-rows", "150"]),
    "codedml, ten classes": (5, ["--dataset", "digits", "--iterations", "4", "--max-rows", "150"]),
    "codedml, one against the rest": (7, ["--dataset", "digits", "-r", "1", "--iterations", "4", "--max-rows", "150"]),
    "codedml, linear": (5, ["--dataset", "diabetes", "--model", "linear", "--iterations", "4"]),
    "codedml, plain": (2, ["--method", "plain", "--iterations", "4", "--max-rows", "150"]),
    "ppadmm": (4, ["--dataset", "diabetes", "--iterations", "30"]),
    "niss": (4, ["--rounds", "2", "--epochs", "1", "--fraction", "1", "--max-rows", "150"]),
    "niss, fedavg": (4, ["--method", "fedavg", "--rounds", "2", "--epochs", "1", "--max-rows", "150"]),
    "pbpfl": (3, ["--rounds", "3", "--max-rows", "150"]),
    "pbpfl, fedavg-ce": (3, ["--method", "fedavg-ce", "--rounds", "3", "--max-rows", "150"]),
    "spn": (3, ["--rounds", "2", "--max-rows", "90"]),
}
"""Ranks, and options; every one on data that is in the package or made up."""


def train(name: str, folder: Path, *more: str) -> Path:
    """A small run in threads."""
    ranks, options = RUNS[name]
    system = import_module(f"fedmpi.{name.partition(',')[0]}").SYSTEM
    system.on_threads(ranks, [*options, *more, "--quiet", "--out", folder])
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_predicting_the_test_rows_gives_what_the_run_says(name: str, tmp_path: Path) -> None:
    run = train(name, tmp_path / "run")
    model, metrics = fedmpi.load_model(run), json.loads((run / "result.json").read_text())["metrics"]
    options = RUNS[name][1]
    dataset = options[options.index("--dataset") + 1] if "--dataset" in options else "digits"
    classes = () if "--dataset" in options or not name.startswith("codedml") else ("4", "9")
    regression = dataset == "diabetes"
    data = load(dataset, classes=classes, regression=regression, seed=0)
    predicted = model.predict(data.X_test)
    if regression:
        errors = predicted - data.y_test
        if "test_rmse" in metrics:
            assert np.sqrt(np.mean(errors**2)) == pytest.approx(metrics["test_rmse"], rel=1e-12)
        else:
            r2 = 1 - (errors**2).sum() / ((data.y_test - data.y_test.mean()) ** 2).sum()
            assert r2 == pytest.approx(metrics["test_r2"], rel=1e-9)
        with pytest.raises(UsageError, match="a model that gives probabilities"):
            model.predict_proba(data.X_test)
        return
    rows = slice(None)
    if name.startswith("pbpfl"):  # which keeps the first half for validation
        rows = np.split(np.random.default_rng(0).permutation(len(data.y_test)), [len(data.y_test) // 2])[1]
    truth = np.array(data.classes)[data.y_test[rows]]
    assert (predicted[rows] == truth).mean() == metrics["test_accuracy"]
    if name == "pbpfl":
        with pytest.raises(UsageError, match="a model that gives probabilities"):
            model.predict_proba(data.X_test)
        return
    p = model.predict_proba(data.X_test)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], predicted)


def test_the_module_of_a_torch_model_takes_raw_rows(tmp_path: Path) -> None:
    model = fedmpi.load_model(train("niss, fedavg", tmp_path / "run"))
    assert isinstance(model, TorchModel)
    X = load("digits").X_test[:5]
    z = model.module(torch.tensor(X.astype(np.float64)))
    np.testing.assert_array_equal(model.classes_[z.argmax(1).numpy()], model.predict(X))
    assert not model.module.training


class Own(nn.Module):
    """A model of somebody's own."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.layer = nn.Linear(int(np.prod(shape)), classes)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.layer(X.flatten(1))
        return z


def test_code_of_a_model_is_imported_only_if_it_is_named(tmp_path: Path) -> None:
    name = f"{__name__}:Own"
    run = train("niss, fedavg", tmp_path / "run", "--model", name)
    with pytest.raises(UsageError, match="your own code that this run trained, got none"):
        fedmpi.load_model(run)
    assert len(fedmpi.load_model(run, name).predict(load("digits").X_test)) == 359


ONNX = [
    "codedml",
    "codedml, ten classes",
    "codedml, one against the rest",
    "codedml, linear",
    "ppadmm",
    "niss, fedavg",
    "pbpfl",
]
"""A run with each link between outputs and answers, and of each system with models of a kind of its own."""


@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_file_says_of_raw_rows_what_the_model_says(name: str, tmp_path: Path) -> None:
    model = fedmpi.load_model(train(name, tmp_path / "run"))
    write_onnx(model, tmp_path / "model.onnx")
    options = RUNS[name][1]
    dataset = options[options.index("--dataset") + 1] if "--dataset" in options else "digits"
    X = load(dataset, regression=dataset == "diabetes", seed=0).X_test.astype(np.float64)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {"X": X})
    if model.card["link"] == "identity":
        np.testing.assert_allclose(found[0], model.predict(X), rtol=1e-9)
        return
    z = model.decision_function(X)
    expected = z if model.card["link"] == "scores" else model.probabilities(z)
    np.testing.assert_allclose(found[1], expected, atol=1e-5)
    clear = np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2] > 1e-5
    assert (model.classes_[found[0]][clear] == model.predict(X)[clear]).all()
    assert clear.mean() > 0.9
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == model.classes_.tolist()


def test_export_fills_in_what_is_missing_and_takes_text_as_its_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        f"{'' if k % 9 == 0 else 20 + k % 70},{rng.normal():.3f},{'ab'[k % 2]},{'ny'[k % 70 > 35]}" for k in range(99)
    ]
    path, asked = tmp_path / "table.csv", ["--impute", "mean", "--rounds", "2", "--method", "fedavg"]
    for header, columns in (("age,x,sex,ill", [0, 1, 2, 3]), ("age,x,ill", [0, 1, 3])):
        path.write_text("\n".join([header, *(",".join(row.split(",")[c] for c in columns) for row in rows)]))
        run = train("niss", tmp_path / header, "--dataset", str(path), *asked)
        assert main(["export", str(run), str(tmp_path / "model.onnx")]) == 0
        said = capsys.readouterr().out
        model = fedmpi.load_model(run)
        raw, _ = read_rows(path, model.card["columns"], len(columns) - 1, model.card["categorical"], None)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        names = json.loads(session.get_modelmeta().custom_metadata_map["columns"])
        assert ("features that" in said) == (len(columns) == 4)
        X = model.prepared(raw) if len(columns) == 4 else raw.X.astype(np.float64)
        assert len(names) == X.shape[1] and names[0] == "age"
        np.testing.assert_allclose(session.run(None, {"X": X})[1], model.predict_proba(raw), atol=1e-5)
        if len(columns) == 3:
            with torch.no_grad():
                z = model.module(torch.from_numpy(X)).double().numpy()  # type: ignore[attr-defined]
            np.testing.assert_allclose(z, model.decision_function(raw), atol=1e-5)


def test_the_columns_of_a_frame_are_found_by_name(tmp_path: Path) -> None:
    """Text and missing values too; as `fedmpi predict` finds them in the file."""
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({"age": rng.integers(20, 90, 80), "sex": np.array(["f", "m"])[rng.integers(0, 2, 80)]})
    frame["dose"] = rng.normal(size=80)
    frame.loc[::9, "dose"] = np.nan
    frame["ill"] = np.where(frame["age"] > 55, "yes", "no")
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    told = ["--method", "fedavg", "--rounds", "2", "--impute", "mean", "--dataset", str(path)]
    model = fedmpi.load_model(train("niss", tmp_path / "run", *told))
    table, _ = read_rows(path, model.card["columns"], 3, model.card["categorical"], None)
    expected = model.predict_proba(table)
    shuffled = frame[["dose", "ill", "sex", "age"]]
    assert (model.predict_proba(shuffled) == expected).all()
    for wrong, text in (
        (frame.drop(columns="age"), 'rows must have the column "age", got sex, dose, ill'),
        (frame.assign(age="old"), 'column "age" must hold numbers, got others'),
    ):
        with pytest.raises(UsageError, match=text):
            model.predict(wrong)


def test_export_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("codedml", tmp_path / "run")
    for target in (tmp_path / "model.txt", tmp_path / "nowhere" / "model.onnx"):
        assert main(["export", str(run), str(target)]) == 2
        assert (
            capsys.readouterr()
            .err.splitlines()[-1]
            .startswith("fedmpi: error: FILE must end with .onnx and be in a folder that exists")
        )


CARDS: dict[str, Any] = {
    "no JSON": None,
    "no object": [],
    "another format": {"format": 2},
    "a kind that is none": {"kind": []},
    "no link": {"link": "none"},
    "columns that are no names": {"columns": [{}]},
    "more features": {"features": 65},
    "fewer classes": {"classes": ["4"]},
    "a preparation that is none": {"preparation": {"columns": 3}},
}


@pytest.mark.parametrize("name", CARDS)
def test_what_is_no_model_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    run = train("codedml", tmp_path / "run")
    change, card = CARDS[name], json.loads((run / CARD).read_text())
    text = "[" * 9999 if change is None else json.dumps(card | change if isinstance(change, dict) else change)
    (run / CARD).write_text(text)
    with pytest.raises(UsageError) as caught:
        fedmpi.load_model(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"input_shape": [1, 1 << 15, 1 << 15], "features": 1 << 30}, {"dtype": "int8"}, {"outputs": 3}]
)
def test_no_memory_is_taken_for_what_a_card_says(change: dict[str, Any], tmp_path: Path) -> None:
    run = train("niss, fedavg", tmp_path / "run")
    card = json.loads((run / CARD).read_text())
    (run / CARD).write_text(json.dumps(card | change))
    with pytest.raises(UsageError, match=r"must be those of mlp|must say what the model is, got .* dtype"):
        fedmpi.load_model(run)


def test_a_card_that_is_no_file_is_refused(tmp_path: Path) -> None:
    run = train("codedml", tmp_path / "run")
    (run / CARD).unlink()
    os.mkfifo(run / CARD)
    with pytest.raises(UsageError, match="must be a file"):
        fedmpi.load_model(run)


def test_rows_of_another_width_are_refused(tmp_path: Path) -> None:
    run = train("codedml", tmp_path / "run")
    with pytest.raises(UsageError, match=r"X must have shape \(rows, 64\), got \(2, 3\)"):
        fedmpi.load_model(run).predict([[1, 2, 3], [4, 5, 6]])
    with pytest.raises(UsageError, match="no missing or infinite values"):
        fedmpi.load_model(run).predict(np.full((1, 64), np.nan))
    (run / "model.npz").write_bytes(b"PK")
    with pytest.raises(UsageError, match="a run that ended with a model"):
        fedmpi.load_model(run)


def test_arrays_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    run = train("spn", tmp_path / "run")
    names: list[Any] = json.loads((run / CARD).read_text())["arrays"]
    assert [*read_arrays(run)] == names
    assert names[0].endswith("weight")


MORE = {"codedml": "--iterations", "niss": "--rounds", "pbpfl": "--rounds"}


@pytest.mark.parametrize("system", ["codedml", "niss", "pbpfl"])
def test_a_run_that_ended_goes_on_with_more_rounds(system: str, tmp_path: Path) -> None:
    """To the bits of a run that had as many from the start; of PBPFL its noise, anew in every run, leaves rounding."""
    whole, run, more = tmp_path / "whole", tmp_path / "run", ["--tolerance", "0"] if system == "codedml" else []
    train(system, whole, MORE[system], "6", *more)
    train(system, run, MORE[system], "3", *more)
    record = import_module(f"fedmpi.{system}").SYSTEM
    with pytest.raises(UsageError, match=f"come with more .*s, got {run}, which is done"):
        record.on_threads(RUNS[system][0], ["--resume", run, "--quiet"])
    record.on_threads(RUNS[system][0], ["--resume", run, MORE[system], "6", "--quiet"])
    for name, array in read_arrays(whole).items():
        if system == "pbpfl":
            np.testing.assert_allclose(read_arrays(run)[name], array, rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(read_arrays(run)[name], array)
    result = json.loads((run / "result.json").read_text())
    assert (result["resumed_from"], (run / "result-3.json").exists()) == (3, True)


@pytest.mark.parametrize("key", ["metrics", "params"])
def test_a_result_that_is_none_is_said_before_a_run_goes_on(key: str, tmp_path: Path) -> None:
    run = train("niss", tmp_path / "run")
    result = json.loads((run / "result.json").read_text()) | {key: [1]}
    (run / "result.json").write_text(json.dumps(result))
    with pytest.raises(UsageError, match=r"metrics and params of .*result\.json must be by name, got others"):
        import_module("fedmpi.niss").SYSTEM.on_threads(4, ["--resume", run, "--rounds", "6", "--quiet"])


def test_a_run_that_goes_on_with_other_ranks_says_so_and_keeps_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("codedml", tmp_path / "run", "--tolerance", "0")
    import_module("fedmpi.codedml").SYSTEM.on_threads(8, ["--resume", run, "--iterations", "6", "--no-quiet"])
    assert "the ranks have changed: ranks 5 → 8, N 4 → 7" in capsys.readouterr().out
    before, after = json.loads((run / "result.json").read_text())["layouts"]
    assert (before["N"], after["N"]) == (4, 7)


def test_what_is_wrong_with_a_training_is_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train("codedml", tmp_path / "run", "--iterations", "1", "--no-quiet")
    text = "training had not converged after 1 iteration: raise --iterations"
    assert f"WARNING: {text}" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["warnings"] == [text]
    # one round at a rate of nearly 0 leaves a model that knows nothing
    run = train("niss, fedavg", tmp_path / "chance", "--rounds", "1", "--learning-rate", "1e-9")
    result = json.loads((run / "result.json").read_text())
    often = np.bincount(load("digits").y_test).max() / 359
    assert result["metrics"]["test_accuracy"] <= often
    assert "no better than that of always answering the most frequent class" in result["warnings"][0]
