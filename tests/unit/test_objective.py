"""The objective in the clear, against numpy, scikit-learn and Python integers."""

import numpy as np
import oracles
import pytest
from sklearn import metrics

from fedmpi.codedml import transform
from fedmpi.codedml.objective import (
    accuracy,
    cross_entropy,
    exact_gradient,
    largest_eigenvalue,
    r2_score,
    squared_error,
    target_correlation,
)
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_plain
from fedmpi.codedml.training import Problem, rounding_noise, targets
from fedmpi.core.sigmoid import sigmoid
from fedmpi.errors import UsageError


def random_matrix(seed: int, m: int = 60, d: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(-4, 5, (m, d)).astype(np.float32)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_exact_gradient_is_that_of_python_integers(degree: int, outputs: int) -> None:
    rng = np.random.default_rng(degree)
    X_bar, W_bar = random_matrix(1), rng.integers(-300, 301, (degree, 8, outputs))
    coefficients = rng.integers(-99, 100, degree + 1).tolist()
    p = 2**200 - 1  # any modulus that is large enough: the oracle's values are then the integers themselves
    expected = oracles.gradient(X_bar.astype(int), W_bar.transpose(1, 0, 2), coefficients, p)
    expected = np.where(expected > p // 2, expected - p, expected)
    assert np.abs(expected).max() < 2**53
    np.testing.assert_array_equal(exact_gradient(X_bar, W_bar, coefficients), expected.astype(float))


def test_the_exact_gradient_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    X_bar, W_bar = random_matrix(2), np.random.default_rng(0).integers(-9, 10, (2, 8, 2))
    whole = exact_gradient(X_bar, W_bar, [5, 6, 7])
    Y = np.random.default_rng(1).integers(0, 2, (60, 2)).astype(float)
    correlation = target_correlation(X_bar, Y)
    monkeypatch.setattr(transform, "_CHUNK_BYTES", 8 * 8 * 7)
    np.testing.assert_array_equal(exact_gradient(X_bar, W_bar, [5, 6, 7]), whole)
    np.testing.assert_array_equal(target_correlation(X_bar, Y), correlation)
    np.testing.assert_array_equal(correlation, X_bar.astype(float).T @ Y)


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_eigenvalue_is_lapacks(seed: int) -> None:
    """Never above, as a Rayleigh quotient; and close: a step of 2/L forgives some percents."""
    X = random_matrix(seed, m=100, d=12)
    X[:, 0] = 4
    true = float(np.linalg.eigvalsh(X.T.astype(float) @ X.astype(float))[-1])
    assert 0.999 * true < largest_eigenvalue(X) <= true * (1 + 1e-9)
    centred = X - np.round(X.mean(axis=0))
    true = float(np.linalg.eigvalsh(centred.T.astype(float) @ centred.astype(float))[-1])
    assert 0.9 * true < largest_eigenvalue(centred) <= true * (1 + 1e-9)


def test_the_largest_eigenvalue_of_nothing_is_zero() -> None:
    assert largest_eigenvalue(np.zeros((5, 3), np.float32)) == 0.0


@pytest.mark.parametrize("bias", [False, True])
def test_the_largest_eigenvalue_of_two_columns_that_exclude_each_other(bias: bool) -> None:
    """Centred columns such as female and male: the leading direction, (1, -1), is orthogonal to the column sums."""
    X = np.array([[4, -4], [-4, 4]] * 10, np.float32)
    if bias:
        X = np.hstack([X, np.full((20, 1), 2, np.float32)])
    assert largest_eigenvalue(X) == pytest.approx(2 * 20 * 16)


def test_a_problem_is_scaled_quantized_and_given_a_step() -> None:
    X = np.random.default_rng(0).integers(0, 17, (50, 6)).astype(np.uint8)
    y = np.arange(50) % 2
    problem = Problem.prepare(Params(), X, y, 2)
    real = np.hstack([X / X.max(), np.ones((50, 1))])
    np.testing.assert_array_equal(problem.X_bar, np.floor(real * 4 + 0.5))
    quantized = problem.X_bar.astype(float) / 4
    smoothness = np.linalg.eigvalsh(quantized.T @ quantized)[-1] / (4 * 50)
    assert problem.learning_rate == pytest.approx(2 / smoothness, rel=1e-4)
    W = np.random.default_rng(1).normal(size=(7, 1))
    np.testing.assert_allclose(problem.outputs(W, 2), quantized @ W, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="a logistic model must have two classes or more, got 0"):
        Problem.prepare(Params(), X, y, 0)


def test_targets() -> None:
    np.testing.assert_array_equal(targets(np.array([1, 0, 1]), 2), [[1.0], [0.0], [1.0]])
    np.testing.assert_array_equal(targets(np.array([2, 0]), 3), [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(targets(np.array([2.5, -1.0]), 0), [[2.5], [-1.0]])


def test_rounding_noise_is_keyed_by_seed_and_iteration() -> None:
    shape = (2, 3, 4)
    draws = {rounding_noise(seed)(it, shape).tobytes() for seed in range(4) for it in range(4)}
    assert len(draws) == 16
    assert rounding_noise(1)(2, shape).tobytes() == rounding_noise(1)(2, shape).tobytes()
    values = rounding_noise(1)(2, (10_000,))
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1


def test_cross_entropy_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(200, 1)) * 4, rng.integers(0, 2, 200)
    assert cross_entropy(z, y[:, None].astype(float)) == pytest.approx(metrics.log_loss(y, sigmoid(z)[:, 0]))
    assert cross_entropy(np.array([[1000.0], [-1000.0]]), np.array([[1.0], [0.0]])) == 0.0
    assert cross_entropy(np.array([[-1000.0]]), np.array([[1.0]])) == 1000.0


def test_regression_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(200, 1)), rng.normal(size=200) + 3
    assert squared_error(z, y[:, None]) == pytest.approx(metrics.mean_squared_error(y, z) / 2)
    assert r2_score(z, y) == pytest.approx(metrics.r2_score(y, z))
    assert r2_score(z, np.full(200, 3.0)) == 0.0


def test_accuracy() -> None:
    assert accuracy(np.array([[1.0], [-1.0], [0.0], [2.0]]), np.array([1, 0, 0, 0])) == 0.75
    assert accuracy(np.array([[1.0, 3.0, 2.0], [1.0, 0.0, -1.0]]), np.array([1, 2])) == 0.5


@pytest.mark.parametrize("model", ["logistic", "linear"])
def test_plain_training_goes_to_the_optimum(model: str) -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(200, 3))
    Y = X @ rng.normal(size=(3, 1)) + rng.normal(size=(200, 1))
    if model == "logistic":
        Y = (Y > 0).astype(float)
    params = Params(model=model, iterations=2000)  # type: ignore[arg-type]
    seen: list[int] = []
    W = train_plain(params, X, Y, 0.5, lambda it, W: seen.append(it))
    assert seen == list(range(2001))
    residual = sigmoid(X @ W) - Y if model == "logistic" else X @ W - Y
    assert np.abs(X.T @ residual / 200).max() < 1e-6


def test_plain_training_with_a_decreasing_step() -> None:
    X, Y = np.eye(2), np.ones((2, 1))
    params = Params(model="linear", iterations=2, decay=1.0)
    W = train_plain(params, X, Y, 0.5)
    first = 0.25
    np.testing.assert_allclose(W, first + 0.125 * (1 - first))
