"""The objective in the clear, against numpy, scikit-learn and Python integers."""

import re
from typing import Any

import numpy as np
import oracles
import pytest
from scipy import optimize
from sklearn import metrics
from sklearn.linear_model import LogisticRegression, Ridge

from fedmpi.codedml import transform
from fedmpi.codedml.objective import (
    Objective,
    Surrogate,
    accuracy,
    cross_entropy,
    exact_gradient,
    largest_eigenvalue,
    r2_score,
    squared_error,
    target_correlation,
)
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_plain, train_quantized
from fedmpi.codedml.problem import Problem, targets
from fedmpi.codedml.solvers import Columns
from fedmpi.codedml.training import rounding_noise
from fedmpi.core.sigmoid import sigmoid
from fedmpi.errors import HeadroomError, UsageError


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
    problem = Problem.prepare(Params(paper=True), X, y, 2)
    real = np.hstack([X / X.max(), np.ones((50, 1))])
    np.testing.assert_array_equal(problem.X_bar, np.floor(real * 4 + 0.5))
    quantized = problem.X_bar.astype(float) / 4
    smoothness = np.linalg.eigvalsh(quantized.T @ quantized)[-1] / (4 * 50)
    assert problem.learning_rate == pytest.approx(2 / smoothness, rel=1e-4)
    W = np.random.default_rng(1).normal(size=(7, 1))
    W[0] = -(quantized[3, 1:] @ W[1:])[0] / quantized[3, 0] * (1 + 1e-9)  # float32 would see neither side of 0
    np.testing.assert_allclose(problem.outputs(W), quantized @ W, rtol=1e-6, atol=1e-11)
    np.testing.assert_array_equal(problem.outputs(W) > 0, quantized @ W > 0)
    with pytest.raises(UsageError, match="a logistic model must have two classes or more, got 0"):
        Problem.prepare(Params(), X, y, 0)


def test_by_default_columns_are_scaled_each_and_the_bits_follow_the_data() -> None:
    X = np.random.default_rng(0).integers(0, 17, (50, 6)) * np.array([1, 2, 30, 1e-4, 1, 0])
    problem = Problem.prepare(Params(), X, np.arange(50) % 2, 2)
    bits = problem.precision.data_bits
    real = X / np.where(X.max(axis=0) > 0, X.max(axis=0), 1)
    np.testing.assert_array_equal(problem.X_bar, np.floor(real * 2**bits + 0.5))
    assert problem.weight_rows == 7, "six features and an intercept, without a column of ones"
    assert (problem.objective.kind, problem.objective.l2) == ("logistic", 1.0)
    np.testing.assert_allclose(problem.columns.means, real.mean(axis=0))
    rows = np.linalg.norm(problem.X_bar.astype(float), axis=1)
    columns = np.linalg.norm(problem.X_bar.astype(float), axis=0)
    assert rows.max() <= problem.row_bound <= 1.2 * rows.max()
    assert columns.max() <= problem.column_bound <= 1.2 * columns.max()
    assert problem.precision.rounding <= 1 / 32


@pytest.mark.parametrize("seed", range(20))
def test_the_bounds_of_a_problem_hold_for_its_quantized_rows(seed: int) -> None:
    """Whatever rounding did: the proof that nothing wraps around rests on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=rng.integers(1, 40, 2)) * 10.0 ** rng.uniform(-3, 3)
    if seed % 3 == 0:
        X[:] = 0.5 / 2**4  # everything is rounded up
    params = Params(data_bits=int(rng.integers(0, 8)), scale=["column", "none", "std", "max"][seed % 4],
                    degree=[None, 1][seed % 2], primes=3)  # fmt: skip
    try:
        problem = Problem.prepare(params, X, np.arange(len(X)) % 2, 2)
    except HeadroomError:  # nothing is left of it, or it does not fit
        return
    X_bar = problem.X_bar.astype(object).astype(int)
    assert (X_bar**2).sum(axis=1).max() <= problem.row_bound**2 * (1 + 1e-9)
    assert (X_bar**2).sum(axis=0).max() <= problem.column_bound**2 * (1 + 1e-9)


def test_what_is_known_of_outputs_is_not_computed_again() -> None:
    X = np.random.default_rng(0).normal(size=(30, 3))
    problem = Problem.prepare(Params(), X, np.arange(30) % 2, 2)
    W, Z = np.ones((4, 1)), np.full((30, 1), 7.0)
    computed = problem.outputs(W)
    np.testing.assert_allclose(
        computed[:, 0], problem.X_bar.sum(axis=1) * 2.0**-problem.precision.data_bits + 1, rtol=1e-5
    )
    problem.remember(W, Z)
    assert problem.outputs(W) is Z
    np.testing.assert_array_equal(problem.outputs(W.copy()), computed)


@pytest.mark.parametrize("given", [1e-120, 1e120])
def test_targets_of_a_size_that_squares_can_not_have_are_refused(given: float) -> None:
    with pytest.raises(UsageError, match=re.escape(f"from 1e-100 to 1e100 in absolute value, got {given:g}")):
        Problem.prepare(Params(model="linear"), np.eye(4), np.arange(4) * given / 3, 0)


def test_sample_weights_with_a_polynomial_are_refused() -> None:
    with pytest.raises(UsageError, match="sample weights must be used without a polynomial, got --degree 1"):
        Problem.prepare(Params(degree=1), np.eye(4), np.arange(4) % 2, 2, np.ones(4))


def test_what_nothing_is_left_of_is_refused_and_what_little_is_left_of_is_told() -> None:
    X = np.random.default_rng(0).uniform(0, 1, (40, 5))
    few = np.hstack([X[:, :1], X[:, 1:] * 1e-6])
    with pytest.raises(HeadroomError, match="quantization must leave some of the 5 columns, got none with 2 bits"):
        Problem.prepare(Params(paper=True, scale="1e6"), X, np.arange(40) % 2, 2)
    (warning,) = Problem.prepare(Params(paper=True), few, np.arange(40) % 2, 2).warnings
    assert "4 of 5 columns: take --scale column" in warning
    assert Problem.prepare(Params(paper=True, scale="column"), few, np.arange(40) % 2, 2).warnings == []
    X[3, 2] = 1e5
    (warning,) = Problem.prepare(Params(), X, np.arange(40) % 2, 2).warnings
    assert warning.startswith("column 2 has outliers, which are cut off")


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


# -- the objective ------------------------------------------------------------------------------------------------

KINDS = ["logistic", "softmax", "squared"]


def objective(kind: str, seed: int = 0, weighted: bool = True, rows: int = 12) -> Objective:
    rng = np.random.default_rng(seed)
    Y = {
        "logistic": rng.integers(0, 2, (rows, 1)).astype(float),
        "softmax": np.eye(3)[rng.integers(0, 3, rows)],
        "squared": rng.normal(size=(rows, 1)),
    }[kind]
    return Objective(kind, Y, 0.7, rng.uniform(0, 2, (rows, 1)) if weighted else None)  # type: ignore[arg-type]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_and_curvature_are_the_derivatives_of_the_loss(kind: str, weighted: bool) -> None:
    given, rng = objective(kind, weighted=weighted), np.random.default_rng(1)
    Z, D = rng.normal(size=given.Y.shape), rng.normal(size=given.Y.shape)
    gradient = optimize.approx_fprime(Z.ravel(), lambda z: given.loss(z.reshape(Z.shape)), 1e-6)
    np.testing.assert_allclose(given.residuals(Z).ravel(), gradient, atol=1e-4)
    slope, curvature = given.slope_and_curvature(Z, D)
    assert slope == pytest.approx(float((given.residuals(Z) * D).sum()))
    step = 1e-4
    losses = [given.loss(Z + t * D) for t in (-step, 0.0, step)]
    assert slope == pytest.approx((losses[2] - losses[0]) / (2 * step), rel=1e-5)
    assert curvature == pytest.approx((losses[2] - 2 * losses[1] + losses[0]) / step**2, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_two_is_a_row_given_twice_and_one_of_zero_is_a_row_left_out(kind: str) -> None:
    given = objective(kind)
    counts = np.array([0, 1, 2] * 4)
    Z = np.random.default_rng(2).normal(size=given.Y.shape)
    weighted = Objective(given.kind, given.Y, 0.0, counts[:, None].astype(float))
    repeated = Objective(given.kind, np.repeat(given.Y, counts, axis=0))
    assert weighted.loss(Z) == pytest.approx(repeated.loss(np.repeat(Z, counts, axis=0)))
    assert weighted.total_weight == repeated.total_weight == 12
    assert not weighted.residuals(Z)[::3].any()


@pytest.mark.parametrize("kind", ["logistic", "softmax"])
def test_outputs_of_any_size_have_a_finite_loss_and_probabilities(kind: str) -> None:
    given = objective(kind)
    with np.errstate(all="raise", under="ignore"):
        for size in (0.0, 1e3, 1e300, -1e300):
            Z = np.full(given.Y.shape, size)
            Z[::2] *= -1
            assert np.isfinite(given.loss(Z))
            probabilities = given.activation(Z)
            assert (probabilities >= 0).all()
            assert (probabilities <= 1).all()


def test_the_surrogate_is_the_polynomial_inside_and_the_sigmoid_outside() -> None:
    Y = np.array([[0.0], [1.0], [1.0]])
    surrogate = Surrogate("logistic", Y, polynomial=[2.0, np.array([0.5, 0.2])])
    Z = np.array([[1.0], [-2.0], [3.0]])
    np.testing.assert_allclose(surrogate.activation(Z), [[0.7], [0.1], [sigmoid(np.array(3.0))]])
    slope, curvature = surrogate.slope_and_curvature(Z, np.array([[1.0], [1.0], [0.0]]))
    assert slope == pytest.approx(0.7 + 0.1 - 1)
    assert curvature == pytest.approx(0.4)


# -- plain training -----------------------------------------------------------------------------------------------


def columns_of(X: np.ndarray, *, intercept: bool = True) -> Columns:
    return Columns(X.mean(axis=0) * intercept, np.square(X).sum(axis=0), len(X), intercept)


def table(classes: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Features of different spread that are far from centred, and labels or targets."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 4)) * [1.0, 0.2, 3.0, 0.5] + [5.0, 0.0, -2.0, 0.3]
    z = (X - X.mean(axis=0)) @ rng.normal(size=(4, max(classes, 1))) + rng.normal(size=(200, max(classes, 1)))
    return X, z[:, 0] if not classes else (z[:, 0] > 0).astype(int) if classes == 2 else z.argmax(axis=1)


@pytest.mark.parametrize("solver", ["lbfgs", "cg"])
@pytest.mark.parametrize("classes", [2, 3, 0])
@pytest.mark.parametrize("bias", [True, False])
def test_plain_training_goes_to_scikit_learns_optimum(classes: int, solver: Any, bias: bool) -> None:
    X, y = table(classes)
    params = Params(model="linear" if classes == 0 else "logistic", solver=solver, l2=1.0, bias=bias,
                    tolerance=1e-12, iterations=200)  # fmt: skip
    kind = {2: "logistic", 3: "softmax", 0: "squared"}[classes]
    given = Objective(kind, targets(y, classes), 1.0)  # type: ignore[arg-type]
    W = train_plain(params, X, given, columns_of(X, intercept=bias), 1.0)
    if classes:
        theirs = LogisticRegression(tol=1e-10, max_iter=5000, fit_intercept=bias).fit(X, y)
    else:
        theirs = Ridge(alpha=1.0, fit_intercept=bias).fit(X, y)
    found, best = W[:4].T, np.atleast_2d(theirs.coef_)
    np.testing.assert_allclose(found - found.mean(axis=0) * (classes == 3), best, atol=2e-4)
    if bias:
        ours, intercepts = W[4], np.ravel(theirs.intercept_)
        if classes == 3:  # softmax is the same for intercepts that are all shifted
            ours, intercepts = ours - ours.mean(), intercepts - intercepts.mean()
        np.testing.assert_allclose(ours, intercepts, atol=1e-3)


@pytest.mark.parametrize("solver", ["lbfgs", "cg"])
@pytest.mark.parametrize("classes", [2, 3, 0])
def test_the_private_training_ends_where_the_plain_one_does(classes: int, solver: Any) -> None:
    """On the features that were quantized: bits are chosen so that rounding hardly shows."""
    X, y = table(classes)
    params = Params(model="linear" if classes == 0 else "logistic", solver=solver, tolerance=1e-9, iterations=60)
    problem = Problem.prepare(params, X, y, classes)
    real = problem.X_bar * 2.0**-problem.precision.data_bits
    W = train_quantized(params, problem, rounding_noise(0))
    plain = train_plain(params, real, problem.objective, columns_of(real), 1.0)

    def value(w: np.ndarray) -> float:
        return problem.objective.loss(problem.outputs(w)) + problem.objective.l2 / 2 * float(np.square(w[:4]).sum())

    assert value(W) <= value(plain) * 1.001 + 1e-6


@pytest.mark.parametrize("solver", ["gradient", "nesterov"])
@pytest.mark.parametrize("model", ["logistic", "linear"])
def test_plain_steps_go_to_the_optimum(model: Any, solver: Any) -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(200, 3))
    Y = X @ rng.normal(size=(3, 1)) + rng.normal(size=(200, 1))
    if model == "logistic":
        Y = (Y > 0).astype(float)
    params = Params(model=model, solver=solver, l2=0.0, iterations=2000)
    seen: list[int] = []
    given = Objective("logistic" if model == "logistic" else "squared", Y)
    W = train_plain(params, X, given, columns_of(X[:, :2]), 0.5, lambda it, W: seen.append(it))
    assert seen == list(range(2001))
    assert np.abs(X.T @ given.residuals(X @ W) / 200).max() < 1e-6


def test_plain_steps_that_decrease() -> None:
    X, Y = np.eye(2), np.ones((2, 1))
    params = Params(model="linear", solver="gradient", iterations=2, decay=1.0)
    W = train_plain(params, X, Objective("squared", Y), columns_of(X[:, :1]), 0.5)
    first = 0.25
    np.testing.assert_allclose(W, first + 0.125 * (1 - first))


def test_the_average_is_the_mean_of_all_weights() -> None:
    X, Y = np.eye(2), np.ones((2, 1))
    options: Any = {"model": "linear", "solver": "gradient"}
    single = [
        train_plain(Params(**options, iterations=n), X, Objective("squared", Y), columns_of(X[:, :1]), 0.5)
        for n in (1, 2, 3)
    ]
    averaged = Params(**options, iterations=3, average=True)
    found = train_plain(averaged, X, Objective("squared", Y), columns_of(X[:, :1]), 0.5)
    np.testing.assert_allclose(found, np.mean(single, axis=0))
