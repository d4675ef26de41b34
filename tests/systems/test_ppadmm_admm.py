"""The mathematics of PPADMM in the clear: scikit-learn is the oracle of the model, numpy's inverse that of a step."""

import re

import numpy as np
import pytest
from protocol.ppadmm_threads import problem
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.preprocessing import StandardScaler

from fedmpi.errors import ProtocolError, UsageError
from fedmpi.ppadmm.admm import Scaling, Subproblem
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
    scaling = Scaling(np.array([1.0, -2.0]), 5.0, np.array([2.0, 4.0]))
    coefficients, intercept = scaling.original_units(np.array([6.0, 8.0]))
    np.testing.assert_array_equal(coefficients, [3.0, 2.0])
    row = np.array([10.0, 20.0])
    assert row @ coefficients + intercept == 5 + ((row - [1, -2]) / [2, 4]) @ [6, 8]


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
        ({"rho": "fast"}, "--rho must be auto or a positive number, got fast"),
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


def test_parameters_travel_as_json() -> None:
    params = Params(mask="sha256", penalty=3.5, min_participants=4)
    assert Params.from_json(params.to_json()) == params
    for text in ("", "{", "[]", '{"colour": 1}', '{"penalty": -1}'):
        with pytest.raises(ProtocolError, match="parameters must be those of PPADMM"):
            Params.from_json(text)


@pytest.mark.parametrize(("N", "fewest"), [(2, 2), (3, 2), (4, 2), (5, 3), (10, 5), (11, 6)])
def test_sums_show_at_least_half(N: int, fewest: int) -> None:
    assert Params().fewest(N) == fewest
    with pytest.raises(UsageError, match="must be at least 2, got N=1"):
        Params().fewest(1)
    with pytest.raises(UsageError, match=f"must be at least {N + 1}, got N={N}"):
        Params(min_participants=N + 1).fewest(N)
