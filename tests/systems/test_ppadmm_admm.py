"""The mathematics of PPADMM in the clear: scikit-learn is the oracle of the model, numpy's inverse that of a step."""

import re

import numpy as np
import pytest
from protocol.ppadmm_threads import problem
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

from fedmpi.errors import UsageError
from fedmpi.ppadmm.admm import Consensus, Scaling, Shard, Subproblem
from fedmpi.ppadmm.metrics import centralized, mped, rmse
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.plain import train_plain

# -- one step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 30, 31, 100])
@pytest.mark.parametrize("rho", [0.01, 5.0])
def test_the_subproblem_is_solved_with_and_without_woodbury(rows: int, rho: float) -> None:
    rng = np.random.default_rng(rows)
    A, b, v = rng.normal(size=(rows, 30)), rng.normal(size=rows), rng.normal(size=30)
    problem = Subproblem(A, b, rho)
    assert problem.wide == (rows < 30)
    assert problem._factor[0].shape == (min(rows, 30),) * 2, "the factor has the smaller size"
    for _ in range(2):  # the cached factor is not changed by its use
        x = problem.solve(v)
        expected = np.linalg.inv(A.T @ A + rho * np.eye(30)) @ (A.T @ b + rho * v)
        np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-10)


def test_scaling_back_to_the_units_of_the_features() -> None:
    scaling = Scaling(np.array([1.0, -2.0, 5.0]), np.array([2.0, 4.0, 10.0]))
    coefficients, intercept = scaling.original_units(np.array([6.0, 8.0]))
    np.testing.assert_array_equal(coefficients, [30.0, 20.0])
    row = np.array([10.0, 20.0])
    assert row @ coefficients + intercept == 5 + 10 * ((row - [1, -2]) / [2, 4]) @ [6, 8]


# -- the whole training -------------------------------------------------------------------------------------------

MODELS = {
    "lasso": ({"penalty": 40.0}, lambda m: Lasso(alpha=40 / m, tol=1e-12, max_iter=10**6)),
    "lasso without intercept": (
        {"penalty": 40.0, "fit_intercept": False},
        lambda m: Lasso(alpha=40 / m, tol=1e-12, max_iter=10**6, fit_intercept=False),
    ),
    "elastic net": (
        {"penalty": 40.0, "l1_ratio": 0.3},
        lambda m: ElasticNet(alpha=40 / m, l1_ratio=0.3, tol=1e-12, max_iter=10**6),
    ),
    "ridge": ({"penalty": 40.0, "l1_ratio": 0.0}, lambda m: Ridge(alpha=40.0)),
    "least squares": ({"penalty": 0.0}, lambda m: LinearRegression()),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("rows", "columns"), [(40, 12), (8, 20)])
def test_the_model_is_scikit_learns(name: str, rows: int, columns: int) -> None:
    options, oracle = MODELS[name]
    parts = problem(5, rows, columns)
    X, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    model = oracle(len(y)).fit(X, y)
    coefficients, intercept = train_plain(Params(iterations=5000, tolerance=1e-12, **options), parts)
    assert np.abs(coefficients - model.coef_).max() < 1e-6
    assert intercept == pytest.approx(float(model.intercept_), abs=1e-6)
    ours = centralized(Params(**options), X, y)
    assert mped(ours[0], model.coef_) < 1e-6


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_standardization_is_the_standard_scalers(fit_intercept: bool) -> None:
    parts = [(A * np.arange(1, 9) + 100, b) for A, b in problem(4, 30, 8)]
    parts = [(np.column_stack([A, np.full(len(A), 7.0)]), b) for A, b in parts]  # a constant column
    X, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    scaler = StandardScaler(with_mean=fit_intercept)
    if not fit_intercept:
        X = X - X.mean(axis=0)
        parts = [(A, b) for A, b in zip(np.split(X, 4), [b for _, b in parts], strict=True)]
    scaled = scaler.fit_transform(X)
    oracle = Lasso(alpha=20 / len(y), tol=1e-12, max_iter=10**6, fit_intercept=fit_intercept).fit(scaled, y)
    params = Params(penalty=20.0, standardize=True, iterations=5000, tolerance=1e-12, fit_intercept=fit_intercept)
    coefficients, intercept = train_plain(params, parts)
    np.testing.assert_allclose(coefficients, oracle.coef_ / scaler.scale_, atol=1e-6)
    prediction = X @ coefficients + intercept
    np.testing.assert_allclose(prediction, oracle.predict(scaled), atol=1e-4)
    reference = centralized(params, X, y)
    assert mped(coefficients, reference[0]) < 1e-6


def test_the_residuals_stop_the_iterations_and_no_earlier() -> None:
    parts = problem(4, 40, 6)
    X, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    errors = {}
    for tolerance in (1e-3, 1e-6, 1e-9):
        params, seen = Params(iterations=1000, tolerance=tolerance), []
        coefficients, _ = train_plain(params, parts, lambda it, w, c, seen=seen: seen.append(w))
        errors[tolerance] = len(seen), mped(coefficients, centralized(params, X, y)[0])
    counts, distances = zip(*errors.values(), strict=True)
    assert list(counts) == sorted(set(counts)), "less tolerance, more iterations"
    assert counts[-1] < 1000
    assert all(distance < 50 * tolerance for tolerance, distance in zip(errors, distances, strict=True))
    seen = []
    train_plain(Params(iterations=counts[-1] + 5, tolerance=0), parts, lambda it, w, c: seen.append(w))
    assert len(seen) == counts[-1] + 6, "tolerance 0: all iterations"


def in_units_that_people_have(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 3))
    units = {
        "times": X * [1, 1, 1] + [0, 0, 1.6e9],
        "milliseconds": X * [1, 1, 1e10] + [0, 0, 1.6e12],
        "ages and salaries": X * [15, 2e4, 1] + [50, 5e4, 0],
        "tiny": X * [1e-9, 1, 1e9],
        "a constant": X * [1, 0, 1] + [0, 1e9, 0],
        "targets of a million": X,
        "tiny targets": X,
    }
    y = X @ [3.0, 2.0, -1.0] + rng.normal(size=300)
    sizes = {"targets of a million": 1e6, "tiny targets": 1e-9}
    return units[name], y * sizes.get(name, 1.0) + 7


@pytest.mark.parametrize(
    "name",
    ["times", "milliseconds", "ages and salaries", "tiny", "a constant", "targets of a million", "tiny targets"],
)
@pytest.mark.parametrize("l1_ratio", [1.0, 0.0])
def test_the_units_of_columns_and_targets_do_not_matter(name: str, l1_ratio: float) -> None:
    X, y = in_units_that_people_have(name)
    params, seen = Params(penalty=float(0.1 * y.std()), l1_ratio=l1_ratio), []
    coefficients, intercept = train_plain(
        params, [(X[i::4], y[i::4]) for i in range(4)], lambda it, *_: seen.append(it)
    )
    assert seen[-1] < 150
    expected, offset = centralized(params, X, y)
    np.testing.assert_allclose(coefficients * X.std(axis=0), expected * X.std(axis=0), atol=1e-6 * y.std())
    np.testing.assert_allclose(X @ coefficients + intercept, X @ expected + offset, atol=1e-6 * y.std())


def test_rho_is_adapted_until_the_residuals_are_alike() -> None:
    """Columns that depend on one another: with the first ρ 500 iterations leave coefficients that are 20 % off."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 20)) @ rng.normal(size=(20, 20))
    y = X @ rng.normal(size=20) + rng.normal(size=400)
    parts, off = [(X[i::5], y[i::5]) for i in range(5)], {}
    for rho in ("mean", "auto"):
        params = Params(penalty=5.0, rho=rho)
        coefficients, _ = train_plain(params, parts)
        off[rho] = mped(coefficients, centralized(params, X, y)[0])
    assert off["auto"] < off["mean"] / 100


def test_another_rho_leaves_the_dual_variable_and_the_solution() -> None:
    (A, b), *_ = problem(1, 20, 6)
    shard, z = Shard(A, b), np.linspace(-1, 1, 6)
    shard.begin(2.0, np.ones(7))
    shard.update(z)
    shard.dual_step(z)
    dual = 2.0 * shard.u
    shard.renew(8.0)
    np.testing.assert_allclose(8.0 * shard.u, dual)
    assert shard.norms[2] == pytest.approx(shard.u @ shard.u)
    expected = np.linalg.solve(A.T @ A + 8 * np.eye(6), A.T @ b + 8 * (z - shard.u))
    np.testing.assert_allclose(shard.update(z)[0], expected + shard.u)


def test_steps_below_the_fixed_point_are_not_convergence() -> None:
    """With a ρ as large, x moves by less than 2^−40 and z not at all: both residuals are 0, and nothing is learned."""
    for rho, converged in ((1.0, True), (1e20, False)):
        weights = Scaling.none(3).weights(Params())
        consensus = Consensus(Params(rho=f"{rho:g}"), weights, rho, np.zeros(3), 1.0, dual_residual=0.0)
        assert consensus.update(np.zeros(3), np.array([0.0, 1e-30, 1e-30]), 2, 1) == converged


def test_metrics() -> None:
    X, y = np.array([[1.0], [2.0]]), np.array([3.0, 9.0])
    assert rmse(X, y, np.array([2.0]), 1.0) == pytest.approx(np.sqrt((0 + 16) / 2))
    assert mped(np.array([3.0, 0.0]), np.array([0.0, 4.0])) == 5.0


# -- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"penalty": -1.0}, "--penalty must be at least 0, got -1"),
        ({"penalty": float("nan")}, "--penalty must be at least 0, got nan"),
        ({"iterations": 0}, "--iterations must be at least 1, got 0"),
        ({"fraction_bits": 53}, "--fraction-bits must be at most 52"),
        ({"l1_ratio": 1.5}, "--l1-ratio must be in [0, 1], got 1.5"),
        ({"rho": "fast"}, "--rho must be auto, mean or a positive number, got fast"),
        ({"rho": "0"}, "got 0"),
        ({"deadline": 0.0}, "--deadline must be positive, got 0"),
        ({"epsilon": 0.0}, "--epsilon must be positive, got 0"),
        ({"share_fraction": 0.0}, "--share-fraction must be in (0, 1], got 0"),
        ({"mask": "xor"}, "--mask must be one of aes-ctr, chacha20, sha256, got xor"),
        ({"min_participants": 1}, "--min-participants must be at least 2, got 1"),
        ({"precompute": True, "rekey_every": 5}, "--precompute must not be given together with --rekey-every"),
        ({"method": "dssgd", "standardize": True}, "--standardize must not be given with --method dssgd"),
        ({"method": "dssgd", "on_dropout": "rejoin"}, "--on-dropout must be stop or continue"),
    ],
)
def test_parameters_that_break_a_rule(options: dict, text: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)):
        Params(**options)


@pytest.mark.parametrize(("N", "fewest"), [(2, 2), (3, 2), (4, 2), (5, 3), (10, 5), (11, 6)])
def test_sums_show_at_least_half(N: int, fewest: int) -> None:
    assert Params().fewest(N) == fewest
    with pytest.raises(UsageError, match="must be at least 2, got N=1"):
        Params().fewest(1)
    with pytest.raises(UsageError, match=f"must be at least {N + 1}, got N={N}"):
        Params(min_participants=N + 1).fewest(N)
