"""Perturbation and recovery against autograd on the clear model, for every model, layer and kind of layer."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from fedmpi.errors import UsageError
from fedmpi.learn import FlatModel, build_model
from fedmpi.pbpfl import perturbation
from fedmpi.pbpfl.gradients import Differentiator, squared_error
from fedmpi.pbpfl.perturbation import Noise, draw, multipliers, perturb, recover, unshift, without_addition
from fedmpi.pbpfl.structure import UNSCALED, structure_of

IMAGE = (3, 12, 12)


@dataclass(frozen=True)
class Defaults:
    scaling: float = 10.0
    gamma_range: tuple[float, float] = (0.5, 2.0)


def problem(shape: tuple[int, ...], outputs: int, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    X, targets = rng.standard_normal((6, *shape)), rng.random((6, outputs))
    return torch.tensor(X, dtype=dtype), torch.tensor(targets, dtype=dtype)


def worst_error(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> float:
    """The largest relative error of a recovered gradient over all weights and biases of all layers."""
    model = model.to(dtype)
    structure = structure_of(model, shape)
    X, targets = problem(shape, structure.outputs, dtype, seed)
    clear = copy.deepcopy(model)
    squared_error(clear(X), targets).backward()
    expected = [p.grad.double().numpy().ravel() for p in clear.parameters()]
    noise = draw(structure, Defaults(), np.random.default_rng(seed).random)
    own = Differentiator(copy.deepcopy(model), structure.last.name)
    own.flat.load(perturb(structure, own.flat.read(), noise))
    terms, shift = own.terms(*own.forward(X), targets, torch.tensor(noise.r_a, dtype=dtype))
    gradient = recover(structure, unshift(terms.double().numpy(), shift, noise.r_a), noise)
    parts = np.split(gradient, np.cumsum([len(e) for e in expected])[:-1])
    assert all(np.linalg.norm(e) > 0 for e in expected)
    return max(np.linalg.norm(g - e) / np.linalg.norm(e) for g, e in zip(parts, expected, strict=True))


MODELS = [
    *((name, (20,), 1) for name in ("mlp-3", "mlp-5", "mlp-7")),
    ("mlp", (20,), 4),
    ("cnn", IMAGE, 7),
    *((name, IMAGE, 7) for name in ("resnet20", "resnet32", "resnet56")),
]


@pytest.mark.parametrize(("name", "shape", "outputs"), MODELS)
def test_recovered_gradients_are_those_of_the_clear_model(name: str, shape: tuple[int, ...], outputs: int) -> None:
    assert worst_error(build_model(name, shape, outputs, 1), shape) <= 1e-9


@pytest.mark.parametrize(("name", "shape", "outputs"), MODELS)
def test_float32_keeps_three_digits(name: str, shape: tuple[int, ...], outputs: int) -> None:
    assert worst_error(build_model(name, shape, outputs, 1), shape, dtype=torch.float32) <= 1e-3


class Own(nn.Module):
    """Functions instead of modules, a branch, groups, pooling of all kinds, and several tensors at the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.grouped = nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(8, 5, 3, stride=2, padding_mode="reflect", padding=1)
        self.hidden = nn.Linear(5 * 9 + 8 + 6, 10)
        self.dropout = nn.Dropout(0.0)
        self.out = nn.Linear(10, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = nn.functional.leaky_relu(self.first(x), 0.1)
        b = torch.relu(self.grouped(a))
        c = nn.functional.max_pool2d(self.strided(b), 2).relu()
        pooled = nn.functional.adaptive_avg_pool2d(b, 1).flatten(1)
        means = a.mean((2, 3))
        joined = torch.cat((c.view(c.size(0), -1), pooled, means), dim=1)
        return self.out(self.dropout(torch.relu(self.hidden(joined))))


@pytest.mark.parametrize("seed", range(3))
def test_a_network_of_your_own(seed: int) -> None:
    torch.manual_seed(seed)
    assert worst_error(Own(), IMAGE, seed=seed) <= 1e-9


def test_one_layer_alone() -> None:
    torch.manual_seed(0)
    assert worst_error(nn.Sequential(nn.Linear(5, 2)), (5,)) <= 1e-9
    assert (
        worst_error(
            nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(6, 2)), (2, 5)
        )
        <= 1e-9
    )


def test_outputs_are_the_true_ones_plus_the_noise() -> None:
    """Lemma 1 and eq. (17); without the addition they are the true ones, up to rounding."""
    model = build_model("cnn", IMAGE, 5, 0, torch.float64)
    structure = structure_of(model, IMAGE)
    X, _ = problem(IMAGE, 5, torch.float64, 0)
    true = model(X).detach().numpy()
    noise = draw(structure, Defaults(), np.random.default_rng(0).random)
    own = Differentiator(model, structure.last.name)
    w = own.flat.read()
    own.flat.load(perturb(structure, w, noise))
    outputs, hidden = own.forward(X)
    outputs, alpha = outputs.detach().numpy(), own.alpha(hidden).detach().numpy()
    np.testing.assert_allclose(outputs, true + noise.gamma * alpha[:, None] * noise.r_a, rtol=1e-10)
    assert np.abs(outputs - true).min() > 1e-3
    own.flat.load(perturb(structure, w, without_addition(noise)))
    assert np.abs(own.flat.read() - w).max() > 0.01
    np.testing.assert_allclose(own.forward(X)[0].detach().numpy(), true, rtol=1e-10, atol=1e-12)


def test_terms_are_averages_of_what_each_sample_gives() -> None:
    """The three passes against Lemma 2 written out for one sample after another."""
    model = build_model("mlp-3", (4,), 3, 0, torch.float64)
    structure = structure_of(model, (4,))
    X, targets = problem((4,), 3, torch.float64, 0)
    r_a = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)
    own = Differentiator(model, structure.last.name)
    shifted, shift = own.terms(*own.forward(X), targets, r_a)
    terms = unshift(shifted.numpy(), shift, r_a.numpy())
    parameters = list(model.parameters())

    def derivative(value: torch.Tensor) -> torch.Tensor:
        grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        return torch.cat(
            [torch.zeros_like(p).ravel() if g is None else g.ravel() for p, g in zip(parameters, grads, strict=True)]
        )

    each = []
    for x, target in zip(X, targets, strict=True):
        (y,), hidden = own.forward(x[None])
        (alpha,) = own.alpha(hidden)
        dy, da = [derivative(y_i) for y_i in y], derivative(alpha)
        sigma = sum(r * (alpha * dy_i + (y_i - t) * da) for r, dy_i, y_i, t in zip(r_a, dy, y, target, strict=True))
        each.append(
            torch.stack([sum((y_i - t) * d for y_i, t, d in zip(y, target, dy, strict=True)), sigma, alpha * da])
        )
    np.testing.assert_allclose(terms, torch.stack(each).mean(0).detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wrong", ["sigma", "beta", "gamma", "r", "bias"])
def test_recovery_needs_every_part_of_the_noise(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutations that the tests above kill."""
    right = perturbation.recover

    def recover_wrongly(structure, terms, noise):  # type: ignore[no-untyped-def]
        terms = terms.copy()
        if wrong in ("sigma", "beta"):
            terms[1 if wrong == "sigma" else 2] = 0
        if wrong == "gamma":
            noise = replace(noise, gamma=1.01 * noise.gamma)
        if wrong == "r":
            noise = Noise(np.ones_like(noise.r), noise.r_a, noise.gamma)
        if wrong == "bias":
            terms[1, structure.last.bias] = 0
        return right(structure, terms, noise)

    monkeypatch.setitem(globals(), "recover", recover_wrongly)
    assert worst_error(build_model("mlp-3", (20,), 2, 1), (20,)) > 1e-3


def test_noise_is_in_its_ranges_and_fresh() -> None:
    structure = structure_of(build_model("mlp-3", (4,), 6, 0), (4,))
    random = np.random.default_rng(0).random
    noises = [draw(structure, Defaults(), random) for _ in range(200)]
    r = np.array([noise.r for noise in noises])
    assert (r[:, UNSCALED] == 1).all()
    r = np.delete(r, UNSCALED, axis=1)
    assert r.min() >= 0.1
    assert r.max() <= 10
    # log-uniform: three quartiles
    np.testing.assert_allclose(np.quantile(np.log10(r), [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=0.05)
    assert all(0.5 <= noise.gamma <= 2 for noise in noises)
    assert max(np.abs(noise.r_a).max() for noise in noises) == pytest.approx(1, rel=0.05)
    assert len({noise.gamma for noise in noises}) == 200
    repeated = iter([np.full(structure.units, 0.5), np.full(6, 0.3), np.arange(6) / 6, np.zeros(1)])
    assert len(set(draw(structure, Defaults(), lambda count: next(repeated)).r_a)) == 6


def test_multipliers_are_those_of_the_paper() -> None:
    """Eqs. (7), (13) and (14), for two convolutions, their concatenation, and a flattened input of the last layer."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1), nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = torch.relu(self.one(x))
            return self.out(torch.cat([torch.relu(self.two(a)), a], 1).flatten(1))

    structure = structure_of(Net(), (1, 2, 2))
    r = np.array([1, 2, 3, 5, 7, 7.0])  # of nothing, of one, of two; the outputs' are not used
    R = multipliers(structure, r)
    np.testing.assert_allclose(R[:4], [2, 3, 2, 3])
    np.testing.assert_allclose(R[4:7], [5 / 2, 5 / 3, 5])
    np.testing.assert_allclose(R[7:31].reshape(2, 3, 4)[1, :, 0], [1 / 5, 1 / 2, 1 / 3])
    np.testing.assert_allclose(R[31:], 1)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(torch.relu(self.a(x)))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(x + torch.relu(self.a(x)))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) if x.sum() > 0 else self.a(-x)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.spare = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x)


def between(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (between(nn.BatchNorm1d(4)), r"got BatchNorm1d \(1\): it normalizes"),
        (between(nn.LayerNorm(4)), r"got LayerNorm \(1\): it normalizes"),
        (between(nn.Sigmoid()), r"got Sigmoid \(1\): f\(r·x\) is not r·f\(x\)"),
        (between(nn.Tanh()), r"got Tanh \(1\): f\(r·x\) is not"),
        (between(nn.PReLU()), r"got PReLU \(1\): its slopes would not be hidden"),
        (between(nn.Softshrink()), r"got Softshrink \(1\): f\(r·x\) is not"),
        (between(nn.AlphaDropout()), r"got AlphaDropout \(1\): it is not known to do so"),
        (Residual(), "got add: the inputs of the model are added, which are not scaled: concatenate"),
        (Shared(), r"got Linear \(a\): it is used twice"),
        (Branching(), "must be one that torch.fx can trace, got Branching: "),
        (Unused(), "every parameter of --model must be one of a layer's that is used, got spare.bias"),
        (nn.Sequential(nn.Linear(4, 2), nn.ReLU()), "the last layer of --model must be Linear, got _1"),
    ],
)
def test_what_does_not_commute_is_refused_by_name(model: nn.Module, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        structure_of(model, (4,))


def test_walking_a_model_leaves_it_as_it_was() -> None:
    model = build_model("resnet20", IMAGE, 3, 0)
    before = FlatModel(copy.deepcopy(model)).read()
    structure_of(model, IMAGE)
    assert model.training
    np.testing.assert_array_equal(FlatModel(model).read(), before)
