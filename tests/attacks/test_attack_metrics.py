"""Metrics of attacks against their definitions."""

import numpy as np
import pytest

from fedmpi.attacks.inference import loss_threshold, membership_distance, trace, tracing_distance
from fedmpi.attacks.metrics import (
    Point,
    cap,
    match,
    mean_squared_errors,
    perturbation_ratio,
    psnr,
    relative_errors,
    ssim,
)
from fedmpi.errors import UsageError

RNG = np.random.default_rng(0)


def test_errors_of_images() -> None:
    true = np.array([[[[3.0, 4.0]]], [[[1.0, 0.0]]]])
    found = np.array([[[[3.0, 4.0]]], [[[1.0, 0.5]]]])
    assert relative_errors(found, true).tolist() == [0, 0.5]
    assert mean_squared_errors(found, true).tolist() == [0, 0.125]
    assert psnr(found, true).tolist() == [np.inf, pytest.approx(-10 * np.log10(0.125))]
    assert relative_errors(found, 0 * true).tolist() == [np.inf, np.inf]
    with pytest.raises(UsageError, match="same shape"):
        relative_errors(found, true[:1])


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, place by place."""
    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mu_a, mu_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mu_a) ** 2).sum(), (window * (b - mu_b) ** 2).sum()
            covariance = (window * (a - mu_a) * (b - mu_b)).sum()
            luminance = (2 * mu_a * mu_b + 1e-4) / (mu_a**2 + mu_b**2 + 1e-4)
            values.append(luminance * (2 * covariance + 9e-4) / (var_a + var_b + 9e-4))
    return float(np.mean(values))


def test_structural_similarity() -> None:
    x = RNG.random((2, 3, 16, 14))
    y = np.clip(x + RNG.normal(0, 0.2, x.shape), 0, 1)
    expected = [np.mean([ssim_by_hand(x[n, c], y[n, c]) for c in range(3)]) for n in range(2)]
    assert ssim(y, x) == pytest.approx(expected, abs=1e-9)
    assert ssim(x, x) == pytest.approx([1, 1])
    assert abs(ssim(RNG.random((1, 1, 8, 8)), RNG.random((1, 1, 8, 8)))[0]) < 1


def test_batches_are_matched_whatever_their_order() -> None:
    true = RNG.random((8, 3, 4, 4))
    order = RNG.permutation(8)
    found = (true + RNG.normal(0, 0.01, true.shape))[order]
    assert (order[match(found, true)] == np.arange(8)).all()
    assert sorted(match(np.full_like(true, np.nan), true)) == list(range(8))


def test_ratio_of_gradient_and_perturbation() -> None:
    clean = [np.array([3.0, 0.0]), np.array([4.0])]
    shared = [np.array([3.0, 0.5]), np.array([4.0])]
    assert perturbation_ratio(clean, shared) == pytest.approx(10)
    assert perturbation_ratio(clean, clean) == np.inf


def test_calibrated_performance() -> None:
    points = [Point(0.1, 9.0, 0.5, 1.0), Point(0.5, 0.0, 0.25, 4.0)]
    assert cap(points) == pytest.approx(0.75)
    assert cap(points, clip=1) == pytest.approx(0.375)
    assert [point.control for point in points] == [1, 0]
    with pytest.raises(UsageError, match="at least one"):
        cap([])


def test_membership_and_tracing() -> None:
    assert membership_distance(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0])) == 0.5
    data = RNG.random((20, 3, 4, 4))
    owners = np.repeat(np.arange(4), 5)
    found = trace(data + RNG.normal(0, 0.01, data.shape), owners, data)
    assert tracing_distance(found, owners) == 0
    blind = trace(RNG.random(data.shape), owners, data)
    assert tracing_distance(blind, owners) > 0.3
    with pytest.raises(UsageError, match="owners"):
        trace(data, owners[:3], data)


def test_loss_threshold() -> None:
    members, others = RNG.normal(0, 1, 2000), RNG.normal(2, 1, 2000)
    roc = loss_threshold(members, others)
    # Φ(Φ⁻¹(0.01) + 2) and Φ(2/√2), of two Gaussians two apart
    assert roc.true_positive_at(0.01) == pytest.approx(0.372, abs=0.06)
    assert roc.area == pytest.approx(0.921, abs=0.02)
    assert (roc.false_positive[0], roc.true_positive[0]) == (0, 0)
    assert (roc.false_positive[-1], roc.true_positive[-1]) == (1, 1)
    same = loss_threshold(others, others)
    assert same.area == pytest.approx(0.5)
    assert same.true_positive_at(0.01) == pytest.approx(0.01)
    with pytest.raises(UsageError, match="both kinds"):
        loss_threshold(members, others[:0])
