"""Whole batches from gradients of a first layer: what PBPFL's corrections add to what a gradient tells."""

import numpy as np
import pytest
import torch

from fedmpi.attacks.case import share
from fedmpi.attacks.features import features_of
from fedmpi.attacks.params import Params as Attack
from fedmpi.attacks.spear import batch_rows
from fedmpi.crypto.random import SecretStream
from fedmpi.data import load
from fedmpi.errors import UsageError
from fedmpi.learn import build_model
from fedmpi.learn.inputs import divisor_of
from fedmpi.pbpfl.gradients import Differentiator
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.perturbation import Noise, draw, perturb
from fedmpi.pbpfl.structure import Structure, structure_of

D = 40


Layer = tuple[np.ndarray, np.ndarray]


def own_of(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Differentiator, Structure, Noise]:
    """What a client of pbpfl has: the perturbed model, and the noise in it."""
    model = build_model("mlp-3", (D,), 4, seed, dtype)
    structure = structure_of(model, (D,))
    noise = draw(structure, Params(), np.random.default_rng(seed).random)
    own = Differentiator(model, structure.last.name)
    own.flat.load(perturb(structure, own.flat.read(), noise))
    return own, structure, noise


def terms_of(X: torch.Tensor, seed: int = 0) -> Layer:
    """∂L̂/∂Ŵ, σ and β of the first layer, as a client of pbpfl sends them for a batch: of weights and of biases."""
    own, structure, noise = own_of(seed, X.dtype)
    outputs, hidden = own.forward(X)
    y = torch.nn.functional.one_hot(torch.arange(len(X)) % 4, 4).to(X.dtype)
    terms, _ = own.terms(outputs, hidden, y, torch.tensor(noise.r_a, dtype=X.dtype))
    first, found = structure.layers[0], terms.double().numpy()
    weights = np.stack([row[first.weight].reshape(first.shape[0], -1) for row in found])
    return weights, np.stack([row[first.bias] for row in found])


def layer_of(seed: int = 0) -> Layer:
    """The perturbed first layer, which the server of pbpfl has."""
    own, structure, _ = own_of(seed)
    first, flat = structure.layers[0], own.flat.read()
    return np.asarray(flat[first.weight].reshape(first.shape[0], -1)), np.asarray(flat[first.bias])


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


def test_pbpfl_tells_its_server_a_batch_of_the_default_size() -> None:
    """32 rows, of which it needs 11 units that are silent together; who has the layer begins near them."""
    X = batch(32)
    found = batch_rows(*terms_of(X), layer=layer_of(), most=32)
    assert found.whole
    assert errors(found.rows, X).max() < 1e-6


def test_the_sum_of_two_clients_tells_both_batches() -> None:
    """What pbpfl-masked gives the server: the same weights for both, and their terms added up."""
    X, Z = batch(4), batch(4, seed=1)
    summed = [a + b for a, b in zip(terms_of(X), terms_of(Z), strict=True)]
    found = batch_rows(*summed)
    assert found.batch == 8
    assert max(errors(found.rows, X).max(), errors(found.rows, Z).max()) < 1e-8


@pytest.mark.parametrize(("model", "rows"), [("mlp", 16), ("spn", 6)])
def test_one_gradient_tells_a_batch_to_who_has_the_model(model: str, rows: int) -> None:
    """SPEAR itself, also against SPN, whose secret head changes what is propagated back but not who is silent."""
    X, net = batch(rows).abs(), build_model("mlp", (D,), 10, 1)
    y = torch.arange(rows) % 10
    defence = {"defence": "spn", "alpha2": 0.5} if model == "spn" else {}
    shared = share(Attack(model="mlp", **defence), net, X, y, 10, SecretStream(bytes(32)))  # type: ignore[arg-type]
    found = features_of(net, shared, rows)
    assert found is not None
    assert errors(found.inputs.double().numpy(), X).max() < 1e-8
    if model == "mlp":
        at = [int(((found.inputs - row) ** 2).sum(1).argmin()) for row in X]
        assert found.labels(10)[at].tolist() == y.tolist()


def test_rows_that_leave_nearly_the_same_units_silent_are_told_apart() -> None:
    """Two of these 16 digits share 58 of their 60 and 62 silent units; before, one stayed mixed with the other."""
    data = load("digits")
    rows = torch.from_numpy(data.X_test[80:96].astype(np.float32) / divisor_of(data))
    net, y = build_model("mlp", (64,), 10, 5), torch.from_numpy(data.y_test[80:96].astype(np.int64))
    X = rows.reshape(16, -1)
    shared = share(Attack(model="mlp"), net, X, y, 10, SecretStream(bytes(32)))
    W, b = (part.double().numpy() for part in shared[:2])
    own = [part.detach().double().numpy() for part in net.parameters()]
    found = batch_rows(W[None], b[None], layer=(own[0], own[1]), most=16, seed=5)
    assert found.sure.all()
    assert errors(found.rows, X).max() < 1e-6


def test_several_steps_on_the_same_rows_tell_them_too() -> None:
    X, y, net = batch(6).abs().double(), torch.arange(6), build_model("mlp", (D,), 10, 1, torch.float64)
    first = [part.detach().clone() for part in list(net.parameters())[:2]]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(X), y).backward()
        optimizer.step()
    change = [(before - after).detach().numpy() for before, after in zip(first, net.parameters(), strict=False)]
    layer = (first[0].numpy(), first[1].numpy())
    found = batch_rows(change[0][None], change[1][None], layer=layer, most=6)
    assert found.whole
    assert errors(found.rows, X).max() < 1e-8


def test_noise_is_no_gradient_of_so_few_rows() -> None:
    """The control of plain SPEAR: the rank tells, and nothing is searched for."""
    noise = np.random.default_rng(0).normal(size=(1, 64, D + 1))
    found = batch_rows(noise[..., :-1], noise[..., -1], most=8)
    assert len(found.rows) == found.tries == 0
    assert found.batch > 8


def test_random_factors_of_the_right_rank_are_no_batch() -> None:
    """No unit is silent, so nothing is found, and a true layer agrees with nothing."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=(6, D)), np.ones(6)]
    gradient, layer = (rng.normal(size=(64, 6)) @ X)[None], (rng.normal(size=(64, D)), np.zeros(64))
    found = batch_rows(gradient[..., :-1], gradient[..., -1], layer=layer, tries=2000)
    assert not found.whole


def test_nothing_is_found_in_random_numbers() -> None:
    """The control: of the same rank, without units that are silent."""
    rng = np.random.default_rng(0)
    X = np.c_[rng.normal(size=(12, D)), np.ones(12)]
    gradients = rng.normal(size=(3, 64, 12)) @ X
    assert len(batch_rows(gradients[..., :-1], gradients[..., -1], tries=1000).rows) == 0


def test_what_is_not_found_is_not_said_to_be_true() -> None:
    """The search ends after a few starts: directions are missing, and may be mixed into all rows."""
    X = batch(24)
    found = batch_rows(*terms_of(X), layer=layer_of(), tries=64)
    assert 0 < found.directions < found.batch == 24
    assert not found.true.any()
    assert not found.whole


def test_noise_below_the_silence_of_units_does_not_hide_it() -> None:
    """What rounding adds to the difference of two models: a hundred times the rounding of a gradient."""
    X = batch(6)
    weights, biases = terms_of(X)
    noise, scale = np.random.default_rng(0), np.abs(weights).max(axis=(1, 2), keepdims=True)
    noisy = weights + 1e-6 * scale * noise.normal(size=weights.shape)
    found = batch_rows(noisy, biases, layer=layer_of(), most=6)
    assert found.whole
    assert errors(found.rows, X).max() < 1e-3


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
