"""Own models under PBPFL: sums, factors and frozen numbers train rightly; what would train wrongly is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedmpi import load_model
from fedmpi.errors import UsageError
from fedmpi.pbpfl import SYSTEM, lemmas
from fedmpi.pbpfl.gradients import Differentiator, squared_error
from fedmpi.pbpfl.lemmas import Moderate, check_lemmas
from fedmpi.pbpfl.perturbation import draw, perturb, recover, unshift
from fedmpi.pbpfl.structure import structure_of
from fedmpi.runs.model import read_arrays

IMAGE = (3, 8, 8)

Between = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """Convolutions of eight channels on images of eight by eight, and what is done in between."""

    def __init__(self, between: Between):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3)
        self.factor = nn.Parameter(torch.linspace(-1, 2, 8)[:, None, None], requires_grad=False)
        self.share, self.out = torch.tensor(0.5), nn.Linear(8, 4)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.one(x))
        b = torch.relu(self.between(self, a))
        outputs: torch.Tensor = self.out(torch.relu(self.three(b * self.factor)).mean((2, 3)))
        return outputs


def summed(net: Net, a: torch.Tensor) -> torch.Tensor:
    return sum([a * net.share, net.two(-a) / 3])  # type: ignore[return-value]


def in_place(net: Net, a: torch.Tensor) -> torch.Tensor:
    b: torch.Tensor = net.two(a)
    b += a
    return b.mul_(0.7)


def scaled_in_training(net: Net, a: torch.Tensor) -> torch.Tensor:
    b: torch.Tensor = net.two(a) * 0.5
    return nn.functional.dropout(b, 0.2, net.training) * (0.9 if net.training else 1.0)


@pytest.mark.parametrize(
    ("between", "tied"),
    [
        (lambda net, a: a + net.two(a), 8),
        (lambda net, a: torch.sub(a, net.two(a), alpha=2), 8),
        (summed, 8),
        (in_place, 8),
        (scaled_in_training, 0),
    ],
)
def test_sums_factors_and_frozen_numbers_train_rightly(between: Between, tied: int) -> None:
    """Channels that are added up share one scaling; a factor is not perturbed."""
    check_lemmas(Net(between), IMAGE)
    model = Net(between).double()
    structure = structure_of(model, IMAGE)
    assert structure.units == 1 + 3 * 8 + 4 - tied
    random = np.random.default_rng(0)
    noise = draw(structure, Moderate(), random.random)
    X, targets = torch.tensor(random.random((3, *IMAGE))), torch.tensor(random.random((3, 4)))
    own = Differentiator(model.requires_grad_(), structure.last.name)
    w = own.flat.read()
    torch.manual_seed(0)
    expected = own.gradient(squared_error(own.forward(X)[0], targets)).numpy()
    own.flat.load(perturb(structure, w, noise))
    assert torch.equal(model.factor.flatten(), torch.linspace(-1, 2, 8).double())
    torch.manual_seed(0)
    terms, shift = own.terms(*own.forward(X), targets, torch.tensor(noise.r_a))
    found = recover(structure, unshift(terms.numpy(), shift, noise.r_a), noise)
    for layer in structure.layers:
        for part in (layer.weight, layer.bias):
            np.testing.assert_allclose(found[part], expected[part], rtol=1e-8, atol=1e-12)
            assert np.linalg.norm(expected[part]) > 0


def mean_of_channels(net: Net, a: torch.Tensor) -> torch.Tensor:
    """As many channels as rows of pixels: the shape says nothing."""
    return net.two(a) + a.mean(1, keepdim=False)[..., None]


def pooled_over_channels(net: Net, a: torch.Tensor) -> torch.Tensor:
    """Torch takes three dimensions for an image without a batch."""
    return net.two(a + nn.functional.max_pool2d(a.mean(3), 3, 1, 1)[..., None])


def otherwise_in_training(net: Net, a: torch.Tensor) -> torch.Tensor:
    return torch.tanh(net.two(a)) if net.training else net.two(a)


def without_a_branch(net: Net, a: torch.Tensor) -> torch.Tensor:
    return a + net.two(a) if net.training else net.two(a)


@pytest.mark.parametrize(
    ("between", "text"),
    [
        (mean_of_channels, "got mean: it must be over positions, dimensions 2 and up, got 1"),
        (
            lambda net, a: net.two(a) * a.mean(),
            "got mean: it must be over positions, dimensions 2 and up, got 0, 1, 2, 3",
        ),
        (otherwise_in_training, "got tanh: f(r·x) is not r·f(x)"),
        (without_a_branch, "must be connected alike in training and in evaluation, got"),
        (lambda net, a: net.two(a) + 1, "got add: a constant is added, which is not scaled"),
        (lambda net, a: net.two(a) * a, "got mul: both of its operands are scaled"),
        (lambda net, a: 1 / net.two(a), "got truediv: it divides by what is scaled"),
        (pooled_over_channels, "got max_pool2d: its inputs must be channels of 2 dimensions, got shape (8, 8)"),
    ],
)
def test_what_the_graph_shows_to_be_wrong_is_named(between: Between, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        structure_of(Net(between), IMAGE)
    assert text in str(refused.value)


def test_a_factor_that_is_trained_is_refused() -> None:
    model = Net(lambda net, a: net.two(a))
    model.factor.requires_grad_()
    with pytest.raises(UsageError, match="got factor: it is trained, but no layer's weight or bias"):
        structure_of(model, IMAGE)


def test_a_weight_that_is_made_of_others_is_refused() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    with pytest.raises(UsageError, match=r"its weight is made of another parameter, 0.parametrizations"):
        structure_of(nn.Sequential(normed, nn.ReLU(), nn.Linear(4, 2)), (4,))


class Mixing(nn.AvgPool2d):
    """Says that it pools, and mixes channels as well."""

    __module__ = "torch.nn.modules.pooling"

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input + input.roll(1, 1))


Mixing.__name__ = "AvgPool2d"


def hooked(only_in_training: bool) -> Net:
    """A layer whose outputs are changed where torch.fx does not look."""
    model = Net(lambda net, a: net.two(a))

    def change(layer: nn.Module, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> torch.Tensor:
        return outputs if only_in_training and not layer.training else outputs + 0.1

    model.two.register_forward_hook(change)
    return model


def mixing() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Mixing(2), nn.Flatten(), nn.Linear(72, 4))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (mixing, "got AvgPool2d (2): numbers show that in training it does not"),
        (lambda: hooked(only_in_training=False), "got Conv2d (two): numbers show that in training it does not"),
        (lambda: hooked(only_in_training=True), "got Conv2d (two): numbers show that in training it does not"),
    ],
)
def test_what_only_numbers_show_is_named(make: Callable[[], nn.Module], text: str) -> None:
    structure_of(make(), IMAGE)  # the graph shows nothing
    with pytest.raises(UsageError) as refused:
        check_lemmas(make(), IMAGE)
    assert text in str(refused.value)


def test_a_gradient_that_is_not_recovered_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its layer; and with all of Lemma 2 in place it is recovered."""
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    check_lemmas(model, (5,))

    def without_sigma(structure, terms, noise):  # type: ignore[no-untyped-def]
        return recover(structure, terms * [[1], [0], [1]], noise)

    monkeypatch.setattr(lemmas, "recover", without_sigma)
    with pytest.raises(UsageError, match=r"\(Lemma 2\), got another one for 0"):
        check_lemmas(model, (5,))


def wrong_in_training(shape: tuple[int, ...], classes: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(*shape, 8), nn.ReLU(), nn.Linear(8, classes))
    model[0].register_forward_hook(lambda layer, inputs, outputs: outputs + 0.1 * layer.training)
    return model


class Factors(nn.Module):
    """A residual network with a frozen factor and a frozen layer."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(*shape, 8), nn.Linear(8, 8), nn.Linear(8, classes)
        self.factor = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.two.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.one(x))
        outputs: torch.Tensor = self.out(self.factor * (a + torch.relu(self.two(a))))
        return outputs


def test_a_run_refuses_them_before_anything_is_sent_and_trains_the_others(tmp_path: Path) -> None:
    """PBPFL and federated averaging make the same weights, and what is frozen stays."""
    data = ["--dataset", "synthetic:m=60,d=6,density=0.5,test=30", "--clients", "2", "--rounds", "3", "--quiet"]
    with pytest.raises(UsageError, match=r"got Linear \(0\): numbers show that in training it does not"):
        SYSTEM.on_threads(2, [*data, "--model", f"{__name__}:wrong_in_training", "--dry-run"])
    left = {}
    for method in ("pbpfl", "fedavg-mse"):
        told = [
            "--method",
            method,
            "--model",
            f"{__name__}:Factors",
            "--dtype",
            "float64",
            "--out",
            str(tmp_path / method),
        ]
        SYSTEM.on_threads(2, [*data, *told])
        left[method] = read_arrays(tmp_path / method)
    assert np.isfinite(load_model(tmp_path / "pbpfl", f"{__name__}:Factors").decision_function(np.ones((1, 6)))).all()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        began = Factors((6,), 2).state_dict()
    for name, trained in left["pbpfl"].items():
        np.testing.assert_allclose(trained, left["fedavg-mse"][name], rtol=1e-8, atol=1e-10)
        frozen = name == "factor" or name.startswith("two.")
        assert np.array_equal(trained, began[name].double().numpy()) == frozen
