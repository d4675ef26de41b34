"""The benchmark's peers do our work: the same rows, model and epochs, and the same result up to the order of rows."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmpi.bench import niss as bench_niss
from fedmpi.bench.timing import last_json
from fedmpi.data import Dataset
from fedmpi.errors import FedmpiError
from fedmpi.learn import FlatModel, Inputs, LocalTraining, Trainer, build_model, client_rows, sample, stream


def small_mnist(name: str, **_: object) -> Dataset:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 700)
    X = (rng.integers(0, 40, (700, 784)) + 200 * (np.arange(784) % 10 == y[:, None])).astype(np.uint8)
    return Dataset(name, X[:600], y[:600], X[600:], y[600:], tuple("0123456789"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench_niss, "load", small_mnist)
    monkeypatch.setattr(bench_niss, "WORK", {"mlp": (3, 2), "cnn": (3, 1)})
    return tmp_path


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_loop_trains_the_same_model_on_the_same_clients(model: str, folder: Path) -> None:
    bench_niss.write_work(folder, 2, model)
    program = bench_niss.program("torch", sys.executable, str(folder))
    figures = last_json([*program[:-1], "2"])
    assert len(figures["seconds"]) == len(figures["training_seconds"]) == 2
    data, epochs = small_mnist("mnist"), bench_niss.WORK[model][1]
    parts = client_rows("iid", data.y_train, 100, 0)
    net = build_model(model, (1, 28, 28), 10, 0)
    flat = FlatModel(net)
    trainer = Trainer(net, LocalTraining(epochs, 10, 0.01))
    w = flat.read()
    for t in (0, 0, 1):  # the first is a rehearsal
        rows = [parts[k] for k in sample(0, t, 100, 3)]
        own = [Inputs.of(data.X_train[r], data.y_train[r], 255.0, shape=(1, 28, 28)) for r in rows]
        w = np.mean([trainer.train(w, inputs, stream(0)) for inputs in own], axis=0)
    flat.load(w)
    # Six rows are one batch, so that their order is of no account.
    X = torch.tensor(data.X_test).reshape(-1, 1, 28, 28) / 255
    assert figures["accuracy"] == float((net(X).argmax(1).numpy() == data.y_test).mean())


def test_the_peers_begin_with_our_parameters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(bench_niss.__file__).parent / "peers"))
    from averaging import Work

    for model in ("mlp", "cnn"):
        bench_niss.write_work(folder, 1, model)
        theirs = FlatModel(Work.of(str(folder)).net()).read()
        np.testing.assert_array_equal(theirs, FlatModel(build_model(model, (1, 28, 28), 10, 0)).read())


def test_a_peer_that_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_niss, "write_work", lambda *_: None)
    monkeypatch.setattr(bench_niss, "ours", lambda *_: {"seconds": 2.0, "accuracy": 0.9})
    seconds = iter([[8.0, 4.0], [6.0]])
    monkeypatch.setattr(bench_niss, "last_json", lambda _: {"seconds": next(seconds), "accuracy": 0.8})
    monkeypatch.setattr(bench_niss, "has", lambda python, package: package == "torch")
    figures = bench_niss.measure(4, 2, "mlp", pfl_python=Path("/no/python"))
    assert figures["fedavg"] == {"seconds": 2.0, "accuracy": 0.9, "torch_ratio": 3.0}
    assert figures["torch"] == {"seconds": 6.0, "accuracy": 0.8}
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"flower is left out: {sys.executable} has no flwr",
        "pfl is left out: /no/python has no pfl",
    ]


def test_a_package_is_looked_for_in_the_python_that_was_named(tmp_path: Path) -> None:
    assert bench_niss.has(sys.executable, "numpy")
    assert not bench_niss.has(sys.executable, "no_such_package")
    assert not bench_niss.has(str(tmp_path / "python"), "numpy")


def test_a_program_without_figures_is_an_error() -> None:
    with pytest.raises(FedmpiError, match=r"must print JSON and end with 0, got 3: no$"):
        last_json([sys.executable, "-c", "import sys; print('no', file=sys.stderr); sys.exit(3)"])
    assert last_json([sys.executable, "-c", f"print({json.dumps({'a': 1})!r})"]) == {"a": 1}
