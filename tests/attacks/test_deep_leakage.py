"""Deep leakage and its relatives: each wins where nothing is defended, and says so where it fails."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedmpi.attacks.case import share
from fedmpi.attacks.deep_leakage import TEXTBOOK, Settings, deep_leakage, descend, initial_images, search
from fedmpi.attacks.gradients import Distance, Gradient, gradient_of
from fedmpi.attacks.inverting import Settings as InvertingSettings
from fedmpi.attacks.inverting import cosine_distance, invert, total_variation
from fedmpi.attacks.labels import label_of, labels_of
from fedmpi.attacks.metrics import match, mean_squared_errors
from fedmpi.attacks.params import Params as Attack
from fedmpi.attacks.secret_head import secret_head
from fedmpi.crypto.random import SecretStream
from fedmpi.errors import UsageError
from fedmpi.learn import build_model, split
from fedmpi.spn.polarization import Polarization

SHAPE = (1, 8, 8)


def images(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    picked = np.random.default_rng(seed).choice(len(X), rows, replace=False)
    return torch.tensor(X[picked] / 16).reshape(rows, *SHAPE), torch.tensor(y[picked])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def leak(rows: int, settings: Settings, seed: int = 0) -> tuple[float, np.ndarray, torch.Tensor]:
    model = build_model("dlnet", SHAPE, 10, seed, torch.float64)
    X, y = images(rows, seed)
    found = deep_leakage(model, gradient_of(model, X, y), tuple(X.shape), 10, settings, seed)
    order = match(found.images, X.numpy())
    return float(mean_squared_errors(found.images[order], X.numpy()).max()), found.labels[order].argmax(1), y


@pytest.mark.parametrize("init", ["grey", "normal", "uniform", "pattern"])
def test_an_undefended_image_is_found(init: str) -> None:
    error, labels, y = leak(1, replace(Settings(), init=init))
    assert error < 1e-3
    assert labels.tolist() == y.tolist()


def test_a_known_label_is_not_searched_for() -> None:
    error, labels, y = leak(1, Settings(known_labels=True), seed=3)
    assert error < 1e-3
    assert labels.tolist() == y.tolist()
    with pytest.raises(UsageError, match="rows must be 1"):
        leak(2, Settings(known_labels=True))


def test_batches_are_found_in_some_order() -> None:
    error, labels, y = leak(2, Settings(steps=300, init="uniform"), seed=1)
    assert error < 1e-2
    assert sorted(labels.tolist()) == sorted(y.tolist())


def test_noise_defeats_the_search_and_zero_noise_does_not() -> None:
    model = build_model("dlnet", SHAPE, 10, 0, torch.float64)
    X, y = images(1)
    seen = gradient_of(model, X, y)
    generator = torch.Generator().manual_seed(0)
    noisy = tuple(part + torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in seen)
    found = deep_leakage(model, noisy, tuple(X.shape), 10, Settings(steps=20, restarts=0))
    assert mean_squared_errors(found.images, X.numpy())[0] > 0.1


def test_a_run_repeats_to_the_bit_and_differs_with_the_seed() -> None:
    model = build_model("dlnet", SHAPE, 10, 0, torch.float64)
    X, y = images(1)
    seen = gradient_of(model, X, y)
    a, b, c = (deep_leakage(model, seen, tuple(X.shape), 10, Settings(steps=2), seed).images for seed in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_the_textbook_loop_takes_every_step_in_float32() -> None:
    model = build_model("dlnet", SHAPE, 10, 0)
    X, y = images(1)
    found = deep_leakage(model, gradient_of(model, X.float(), y), tuple(X.shape), 10, replace(TEXTBOOK, steps=5))
    assert found.steps == 5
    assert found.restarts == 0


def test_the_best_point_is_kept_and_a_divergence_begins_anew() -> None:
    """An objective that is no number anywhere but at the second start."""
    starts = []

    def begin(attempt: int) -> list[torch.Tensor]:
        starts.append(attempt)
        return [torch.full((2,), float(attempt), dtype=torch.float64)]

    def gap(x: torch.Tensor) -> torch.Tensor:
        return ((x - 1.5).square() * torch.where(x < 0.5, torch.nan, 1.0)).sum()

    found = search(begin, gap, Settings(steps=30))
    assert starts == [0, 1]
    assert found.restarts == 1
    assert torch.allclose(found.variables[0], torch.full((2,), 1.5, dtype=torch.float64), atol=1e-3)

    def rising(x: torch.Tensor) -> torch.Tensor:  # full steps overshoot: later points are worse
        return x.abs().pow(1.2).sum()

    start = [torch.tensor([3.0])]
    kept = descend(start, rising, Settings(steps=40, line_search=False, tolerance=0, patience=0), 40, ())
    assert float(rising(kept.variables[0])) == pytest.approx(kept.distance)


@pytest.mark.parametrize("bias", [True, False])
def test_the_label_is_read_from_the_last_layer(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10, bias=bias)).double()
    for seed in range(10):
        X, y = images(1, seed)
        assert label_of(gradient_of(model, X, y)) == int(y)
    with pytest.raises(UsageError, match="fully connected"):
        label_of((torch.zeros(2, 3, 4),))


def test_distances() -> None:
    seen: Gradient = (torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0]))
    zero: Gradient = (torch.zeros(2), torch.zeros(2))
    assert float(Distance(seen, None)(zero)) == 169
    for balance in (0.0, 0.5, 1.0):
        assert float(Distance(seen, balance)(zero)) == pytest.approx(1)
        assert float(Distance(seen, balance)(seen)) == 0
    half: Gradient = (zero[0], seen[1])
    assert float(Distance(seen, 0.5)(half)) == pytest.approx(5 / 17)  # ‖ĝ_1‖ / Σ ‖ĝ_l‖
    other: Gradient = (seen[0], torch.tensor([7.0, 12.0]))
    assert float(Distance(seen, None, sent_only=True)(other)) == 0
    assert float(Distance(seen, None)(other)) == 49


def test_patterns_repeat() -> None:
    found = initial_images((2, 3, 10, 9), "pattern", np.random.default_rng(0))
    assert found.shape == (2, 3, 10, 9)
    assert (found[:, :, 4:8, 4:8] == found[:, :, :4, :4]).all()
    assert (found[0] != found[1]).any()


def test_inverting_finds_an_image_behind_relu_by_its_direction() -> None:
    model = build_model("mlp", SHAPE, 10, 0, torch.float64)
    X, y = images(1)
    scaled = tuple(1000 * part for part in gradient_of(model, X, y))
    found = invert(model, scaled, tuple(X.shape), 10, settings=InvertingSettings(steps=400))
    assert mean_squared_errors(found.images, X.numpy())[0] < 1e-2
    assert found.labels.argmax(1).tolist() == y.tolist()


@pytest.mark.parametrize(("rows", "secret"), [(1, True), (3, False)])
def test_inverting_finds_images_by_the_features_of_each_row(rows: int, secret: bool) -> None:
    """Of a batch behind convolutions, and whatever a secret head adds to their gradient."""
    model = build_model("cnn", SHAPE, 10, 0)
    X, y = images(rows)
    defence = Attack(model="cnn", defence="spn" if secret else "none", alpha2=0.5)
    shared = share(defence, model, X.float(), y, 10, SecretStream(bytes(32)))
    found = invert(model, shared, tuple(X.shape), 10, settings=InvertingSettings(steps=300))
    order = match(found.images, X.numpy())
    assert mean_squared_errors(found.images[order], X.numpy()).max() < 1e-2
    if not secret:
        assert found.labels[order].argmax(1).tolist() == y.tolist()


def test_a_batch_behind_convolutions_is_found_by_its_direction_too() -> None:
    """Without the features: the labels come from the bias gradient, in ascending order."""
    model = build_model("cnn", SHAPE, 10, 0)
    X, y = images(2)
    shared = gradient_of(model, X.float(), y)
    assert labels_of(model, shared, tuple(X.shape)).tolist() == sorted(y.tolist())
    found = invert(model, shared, tuple(X.shape), 10, settings=InvertingSettings(steps=5, features=False))
    assert found.steps == 5
    with pytest.raises(UsageError, match="told by a bias gradient"):
        labels_of(model, shared[:-1], tuple(X.shape))


def test_cosine_and_total_variation() -> None:
    a: Gradient = (torch.tensor([1.0, 0.0]), torch.tensor([2.0]))
    assert float(cosine_distance(a, tuple(7 * part for part in a))) == pytest.approx(0, abs=1e-6)
    assert float(cosine_distance(a, tuple(-part for part in a))) == pytest.approx(2)
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[None, None]
    assert float(total_variation(board)) == 2
    assert float(total_variation(torch.ones(1, 3, 4, 4))) == 0
    grey, red = board.expand(1, 3, 2, 2), torch.cat([board, torch.zeros(1, 2, 2, 2)], dim=1)
    assert float(total_variation(grey, 7.0)) == pytest.approx(2 / 3 * 3**0.5)  # no colour varies, in the mean of three
    assert float(total_variation(red, 2.0)) == pytest.approx(2 / 3 * (3**-0.5 + 2 * 2**-0.5 + 2 * 6**-0.5))


def test_an_image_is_found_more_exactly_where_its_colours_are_taken_to_vary_little() -> None:
    """Of the images with the same features. Killed: colours that count no more than brightness."""
    model = build_model("cnn", (3, 16, 16), 10, 0)
    side = torch.linspace(0, 1, 16)
    brightness = (side[:, None] * 6).sin() * (side[None] * 9).cos() * 0.3 + 0.5
    X = torch.stack([brightness, 0.9 * brightness, 0.8 * brightness])[None]
    shared = gradient_of(model, X, torch.tensor([3]))
    errors = [
        mean_squared_errors(invert(model, shared, tuple(X.shape), 10, settings=settings).images, X.numpy())[0]
        for settings in (InvertingSettings(steps=600), InvertingSettings(steps=600, colour=1.0))
    ]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("alpha2", [0.5, 20.0])
def test_a_secret_head_hides_an_image_from_deep_leakage_only(alpha2: float) -> None:
    """The positive control of SPN's audit: who knows that there is a secret head sees through it, whatever its weight.

    Killed: a search for δ in units of the public gradient, which is a hundredth of the secret's at α₂ = 20.
    """
    model = build_model("dlnet", SHAPE, 10, 0, torch.float64)
    X, y = images(1)
    backbone, head = split(model)
    secret = Polarization(48, 10, 64, 32, 1.0, SecretStream(bytes(32))).to(torch.float64)

    def loss(_: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        features = backbone(X)
        return nn.functional.cross_entropy(head(features), y) + alpha2 * secret(features, y)

    seen = gradient_of(model, X, y, loss)
    settings = Settings(steps=60, restarts=0)
    blind = deep_leakage(model, seen, tuple(X.shape), 10, settings)
    knowing = secret_head(model, seen, tuple(X.shape), 10, settings)
    errors = [mean_squared_errors(found.images, X.numpy())[0] for found in (blind, knowing)]
    assert errors[0] > 0.1
    assert errors[1] < errors[0] / 10
    assert knowing.labels.argmax(1).tolist() == y.tolist()  # the public head is trained on cross-entropy alone
