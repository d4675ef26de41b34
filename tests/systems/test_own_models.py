"""Models of the user's own: tried before anything is sent, repeatable with dropout, and frozen where they say so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedmpi import load_model
from fedmpi.data import load
from fedmpi.errors import FedmpiError
from fedmpi.niss import SYSTEM as NISS
from fedmpi.pbpfl import SYSTEM as PBPFL
from fedmpi.runs.model import read_arrays
from fedmpi.spn import SYSTEM as SPN
from fedmpi.system import System

DATA = ["--dataset", "synthetic:m=60,d=6,density=0.5,test=30"]


class Dropout(nn.Sequential):
    """Draws at random in training."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__(nn.Linear(*shape, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes))


class Frozen(nn.Sequential):
    """Its first layer stays as it is."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__(nn.Linear(*shape, 8), nn.ReLU(), nn.Linear(8, classes))
        self[0].requires_grad_(False)


class Always(nn.Sequential):
    """Draws at random in evaluation too."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__(nn.Linear(*shape, classes))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(super().forward(X))


class TwoAtLeast(nn.Sequential):
    """Batch normalization without a state needs two rows."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__(nn.Linear(*shape, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, classes))


class Half(nn.Linear):
    """Computes in another type."""

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return super().forward(X).half()


def doubles(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(*shape, 8), nn.ReLU(), nn.Linear(8, 2 * classes))


def lazy(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.LazyLinear(classes)


def images(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(classes))


def other_inputs(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0] + 1, 8), nn.ReLU(), nn.Linear(8, classes))


def half(shape: tuple[int, ...], classes: int) -> nn.Module:
    return Half(*shape, classes)


def frozen_all(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(*shape, classes).requires_grad_(False)


def broken(shape: tuple[int, ...], classes: int) -> nn.Module:
    raise KeyError("units")


RUNS: dict[str, tuple[System, list[str]]] = {
    "niss fedavg": (NISS, ["--epochs", "2"]),
    "niss niss": (NISS, ["--epochs", "2", "--noise-std", "0.1"]),
    "niss dp-fedavg": (NISS, ["--epochs", "2", "--noise-std", "0.1"]),
    "pbpfl fedavg-mse": (PBPFL, []),
    "pbpfl pbpfl": (PBPFL, []),
    "spn fedavg": (SPN, []),
    "spn spn": (SPN, []),
    "spn dp": (SPN, ["--noise-std", "0.1"]),
}
"""System and method, and what else they are told."""

REPEATABLE = ["niss fedavg", "pbpfl fedavg-mse", "pbpfl pbpfl", "spn fedavg"]
"""Others have secret noise, which is never twice the same."""


def train(out: Path, kind: str, hosts: int, *options: str) -> dict[str, np.ndarray]:
    system, told = RUNS[kind]
    common = [*DATA, "--clients", "4", "--rounds", "2", "--partition", "iid", "--quiet", "--out", str(out)]
    system.on_threads(len(system.roles) - 1 + hosts, [*common, "--method", kind.split()[1], *told, *options])
    return read_arrays(out)


@pytest.mark.parametrize("kind", REPEATABLE)
def test_dropout_depends_on_the_seed_and_not_on_where_clients_live(kind: str, tmp_path: Path) -> None:
    named = ["--model", f"{__name__}:Dropout"]
    one = train(tmp_path / "1", kind, 1, *named)
    again = train(tmp_path / "2", kind, 3, *named)
    other = train(tmp_path / "3", kind, 1, *named, "--seed", "1")
    tolerance = 1e-3 if kind == "pbpfl pbpfl" else 0.0  # whose secret scalings change the last digits
    assert all(np.allclose(one[name], again[name], atol=tolerance, rtol=0) for name in one)
    assert not all(np.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_what_is_predicted_is_what_was_evaluated(tmp_path: Path) -> None:
    """Without dropout."""
    train(tmp_path / "run", "niss fedavg", 1, "--model", f"{__name__}:Dropout")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    data = load(DATA[1], scale="standard")
    model = load_model(tmp_path / "run", f"{__name__}:Dropout")
    decided = model.decided(model.outputs(data.X_test.astype(np.float64)))
    assert (decided == np.array(data.classes)[data.y_test]).mean() == result["metrics"]["test_accuracy"]


@pytest.mark.parametrize("kind", RUNS)
def test_frozen_parameters_stay_as_they_are(kind: str, tmp_path: Path) -> None:
    arrays = train(tmp_path / "run", kind, 2, "--model", f"{__name__}:Frozen")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        began = Frozen((6,), 2).state_dict()
    for name in ("0.weight", "0.bias"):
        assert (arrays[name] == began[name].numpy()).all()
    assert not (arrays["2.weight"] == began["2.weight"].numpy()).all()


@pytest.mark.parametrize("system", [NISS, PBPFL, SPN], ids=lambda system: system.name)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Always", "--model must predict the same twice in evaluation mode, got "),
        ("TwoAtLeast", "Expected more than 1 value per channel when training"),
        ("doubles", "it gives outputs of shape (3, 4) for 3 rows"),
        ("half", "its outputs are torch.float16"),
        ("lazy", "--model must know the shapes of its parameters, got "),
        ("images", "--model must know the shapes of its parameters, got "),
        ("other_inputs", "--model must be able to train on float32 rows of shape (6,) and 2 outputs, got "),
        ("frozen_all", "--model must be a torch.nn.Module with parameters to train, got "),
        ("broken", "--model must be callable with ((6,), 2), got "),
    ],
)
def test_a_model_that_can_not_train_is_refused_before_anything_is_sent(system: System, name: str, text: str) -> None:
    """In --dry-run too."""
    options: list[Any] = [*DATA, "--model", f"{__name__}:{name}", "--clients", "2", "--dry-run"]
    with pytest.raises(FedmpiError) as refused:
        system.on_threads(len(system.roles), options)
    assert text in str(refused.value)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["niss fedavg", "pbpfl pbpfl", "spn spn"])
def test_logistic_fits_any_shape(kind: str, tmp_path: Path) -> None:
    arrays = train(tmp_path / "run", kind, 1, "--model", "logistic")
    assert {name: array.shape for name, array in arrays.items()} == {"1.weight": (2, 6), "1.bias": (2,)}
    assert np.isfinite(load_model(tmp_path / "run").decision_function(np.zeros((3, 6)))).all()
