"""Trap weights: single rows from sums over many clients, nothing from honest weights, and what noise leaves."""

import numpy as np
import pytest
import torch

from fedmpi.attacks.gradients import gradient_of
from fedmpi.attacks.imprint import imprinted, layers_of, trap
from fedmpi.attacks.metrics import mean_squared_errors
from fedmpi.audit import traps
from fedmpi.errors import UsageError
from fedmpi.learn import build_model

SHAPE = (1, 8, 8)


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, *SHAPE)))


def found(model: torch.nn.Module, X: torch.Tensor) -> int:
    """How many rows of a batch are among the candidates."""
    y = torch.arange(len(X)) % 10
    candidates = imprinted(gradient_of(model, X, y))
    flat = X.reshape(len(X), -1).numpy()
    errors = [mean_squared_errors(candidates, np.broadcast_to(row, candidates.shape)).min() for row in flat]
    return int((np.array(errors) < 1e-6).sum())


def test_rows_that_lie_alone_between_two_thresholds() -> None:
    """Of a hundred rows about as many as chance leaves alone: 60 of 100 with 200 units."""
    model = build_model("mlp", SHAPE, 10, 0).double()
    assert found(model, rows(100, 0)) == 0, "weights as they are when nobody chose them"
    trap(model, rows(2000, 1).numpy())
    assert 45 <= found(model, rows(100, 0)) <= 75
    assert found(model, rows(4, 0)) == 4


def test_what_a_client_could_check() -> None:
    """All units of the first layer measure the same: the matrix has rank 1, which no model has that began at random."""
    model = build_model("mlp", SHAPE, 10, 0)
    first, _ = layers_of(model)
    assert np.linalg.matrix_rank(first.weight.detach().numpy()) == 64
    trap(model, rows(100, 1).numpy())
    assert np.linalg.matrix_rank(first.weight.detach().numpy()) == 1


@pytest.mark.parametrize("network", ["cnn", "logistic"])
def test_a_model_without_room_for_a_trap_is_refused(network: str) -> None:
    with pytest.raises(UsageError, match="trap weights must have a model that begins with a fully connected layer"):
        trap(build_model(network, SHAPE, 10, 0), rows(10, 0).numpy())


@pytest.mark.parametrize("case", [*traps.cases()], ids=lambda case: f"{case.name}-{case.trapped}")
def test_a_malicious_server_and_every_sum(case: traps.Case) -> None:
    """Masks do not stop it, noise in the sum does; and an honest model gives no row away."""
    one = traps.found(case, 0)
    noise = "survives this attack" if case.protects else "broken"
    assert one.verdict == (noise if case.trapped else "not broken by this attack")
    assert one.successes == 0 or one.successes >= 40
