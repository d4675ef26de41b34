"""Whole batches from gradients of a first layer: what PBPFL's corrections add to what a gradient tells."""

import numpy as np
import pytest
import torch

from fedmpi.attacks.spear import batch_rows
from fedmpi.errors import UsageError
from fedmpi.learn import build_model
from fedmpi.pbpfl.gradients import Differentiator
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.perturbation import draw, perturb
from fedmpi.pbpfl.structure import structure_of

D = 40


def terms_of(X: torch.Tensor, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """∂L̂/∂Ŵ, σ and β of the first layer, as a client of pbpfl sends them for a batch: of weights and of biases."""
    model = build_model("mlp-3", (D,), 4, seed, X.dtype)
    structure = structure_of(model, (D,))
    noise = draw(structure, Params(), np.random.default_rng(seed).random)
    own = Differentiator(model, structure.last.name)
    own.flat.load(perturb(structure, own.flat.read(), noise))
    outputs, hidden = own.forward(X)
    y = torch.nn.functional.one_hot(torch.arange(len(X)) % 4, 4).to(X.dtype)
    terms, _ = own.terms(outputs, hidden, y, torch.tensor(noise.r_a, dtype=X.dtype))
    first, found = structure.layers[0], terms.double().numpy()
    weights = np.stack([row[first.weight].reshape(first.shape[0], -1) for row in found])
    return weights, np.stack([row[first.bias] for row in found])


def batch(rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def errors(found: np.ndarray, X: torch.Tensor) -> np.ndarray:
    """The mean squared error of each row from the nearest one that was found."""
    true = X.double().numpy()
    return ((found[None] - true[:, None]) ** 2).mean(axis=2).min(axis=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pbpfl_tells_its_server_a_whole_batch(dtype: torch.dtype) -> None:
    X = batch(8, dtype=dtype)
    found = batch_rows(*terms_of(X))
    assert found.batch == len(found.rows) == 8
    assert errors(found.rows, X).max() < 1e-8


def test_the_sum_of_two_clients_tells_both_batches() -> None:
    """What pbpfl-masked gives the server: the same weights for both, and their terms added up."""
    X, Z = batch(4), batch(4, seed=1)
    summed = [a + b for a, b in zip(terms_of(X), terms_of(Z), strict=True)]
    found = batch_rows(*summed)
    assert found.batch == 8
    assert max(errors(found.rows, X).max(), errors(found.rows, Z).max()) < 1e-8


def test_nothing_is_found_in_random_numbers() -> None:
    """The control: of the same rank, without units that are silent."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=(12, D)), np.ones(12)]
    gradients = rng.normal(size=(3, 64, 12)) @ X
    assert len(batch_rows(gradients[..., :-1], gradients[..., -1], tries=1000).rows) == 0


def test_one_row_is_read_off() -> None:
    X = batch(1, dtype=torch.float64)
    found = batch_rows(*terms_of(X))
    assert (found.batch, found.tries) == (1, 0)
    assert errors(found.rows, X).max() < 1e-20


@pytest.mark.parametrize(("weights", "biases"), [((3, 4, 5), (3, 5)), ((4, 5), (4,))])
def test_other_shapes_are_refused(weights: tuple[int, ...], biases: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="must have shapes"):
        batch_rows(np.ones(weights), np.ones(biases))
    with pytest.raises(UsageError, match="must not be zero"):
        batch_rows(np.zeros((3, 4, 5)), np.zeros((3, 4)))
