"""The estimator on threads: scikit-learn's own conventions, scikit-learn as the oracle, and errors before any work."""

import subprocess
import sys
import threading

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedmpi.codedml import CodedLinearRegression, CodedLogisticRegression, estimator
from fedmpi.errors import HeadroomError, UsageError


def digits(*classes: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    chosen = np.isin(y, classes)
    return X[chosen], y[chosen]


def two_clouds(rows: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    return rng.normal(size=(rows, 3)) + 2 * y[:, None], y


ROUNDED_BY_ROW = "rounding noise is drawn by row: a row given twice is not rounded as one of weight two is"
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": ROUNDED_BY_ROW,
    "check_sample_weight_equivalence_on_sparse_data": ROUNDED_BY_ROW,
}


@parametrize_with_checks(
    [CodedLogisticRegression(), CodedLinearRegression()], expected_failed_checks=lambda estimator: EXPECTED
)
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_a_clone_has_the_parameters_and_not_the_weights():
    model = CodedLogisticRegression(
        n_workers=7, privacy=2, iterations=3, degree=1, fit_range=(-4.0, 4.0), random_state=5
    )
    model.fit(*two_clouds())
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy.get_params()["privacy"] == 2
    assert not hasattr(copy, "coef_")
    copy.set_params(privacy=1, iterations=4)
    assert (copy.privacy, copy.iterations, model.privacy) == (1, 4, 2)


def test_set_params_reaches_the_training():
    X, y = two_clouds()
    model = CodedLogisticRegression(n_workers=4, iterations=1, tolerance=0).fit(X, y)
    first = model.coef_
    model.set_params(iterations=9).fit(X, y)
    assert model.n_iter_ == 9
    assert np.abs(model.coef_ - first).max() > 0.01


def test_grid_search_finds_the_better_parameter():
    X, y = digits(4, 9)
    grid = {"codedlogisticregression__iterations": [1, 30]}
    search = GridSearchCV(make_pipeline(MinMaxScaler(), CodedLogisticRegression(n_workers=4)), grid, cv=3)
    search.fit(X, y)
    assert search.best_params_ == {"codedlogisticregression__iterations": 30}
    assert search.score(X, y) > 0.95


def test_cross_validation_scores_every_fold():
    scores = cross_val_score(CodedLogisticRegression(n_workers=4, iterations=20), *digits(0, 1), cv=3)
    assert scores.shape == (3,)
    assert scores.min() > 0.95


# -- scikit-learn as the oracle -----------------------------------------------------------------------------------


def theirs(**options):
    """The same objective: a ridge of 1 on columns that are divided by their largest absolute values."""
    return make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=5000, **options))


def test_breast_cancer_and_all_ten_digits_as_good_as_scikit_learn():
    for X, y in (load_breast_cancer(return_X_y=True), load_digits(return_X_y=True)):
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
        ours, oracle = CodedLogisticRegression(n_workers=4).fit(X, y), theirs().fit(X, y)
        assert ours.score(X_test, y_test) >= oracle.score(X_test, y_test) - 0.01
        loss = log_loss(y_test, ours.predict_proba(X_test))
        assert loss <= 1.1 * log_loss(y_test, oracle.predict_proba(X_test))
        assert ours.coef_.shape == oracle[-1].coef_.shape
        assert ours.intercept_.shape == oracle[-1].intercept_.shape


@pytest.mark.parametrize("classes", [(4, 9), (0, 1, 2)])
def test_coefficients_are_scikit_learns(classes):
    X, y = digits(*classes)
    ours = CodedLogisticRegression(n_workers=4, tolerance=1e-9, primes=2, data_bits=12).fit(X, y)
    oracle = theirs(tol=1e-10).fit(X, y)
    scale = oracle[0].scale_
    np.testing.assert_allclose(ours.coef_ * scale, oracle[1].coef_, atol=0.02)
    z, expected = ours.decision_function(X), oracle.decision_function(X)
    np.testing.assert_allclose(z, expected, atol=0.05)
    assert ours.converged_
    assert ours.n_iter_ < 50


@pytest.mark.parametrize("degree", [1, 3])
def test_a_polynomial_is_nearly_as_accurate_and_its_probabilities_are_calibrated(degree):
    X, X_test, y, y_test = train_test_split(*digits(4, 9), test_size=0.5, random_state=0)
    ours = CodedLogisticRegression(n_workers=8, degree=degree).fit(X, y)
    oracle = theirs().fit(X, y)
    assert ours.score(X_test, y_test) >= oracle.score(X_test, y_test) - 0.02
    assert log_loss(y_test, ours.predict_proba(X_test)) <= 2 * log_loss(y_test, oracle.predict_proba(X_test))


@pytest.mark.parametrize("degree", [None, 1])
def test_linear_regression_is_least_squares(degree):
    X, y = load_diabetes(return_X_y=True)
    ours, oracle = CodedLinearRegression(n_workers=4, degree=degree).fit(X, y), LinearRegression().fit(X, y)
    assert ours.coef_.shape == (10,)
    assert isinstance(ours.intercept_, float)
    assert ours.score(X, y) >= oracle.score(X, y) - 0.005
    assert ours.predict(X).shape == y.shape
    np.testing.assert_allclose(ours.predict(X), oracle.predict(X), atol=20)  # the targets go from 25 to 346
    # A ridge on columns of another scale is another ridge: here all have the same.
    X = np.random.default_rng(0).integers(-8, 9, (120, 5)).astype(float)
    X[0] = 8
    y = X @ [1.0, -2.0, 3.0, 0.0, 0.5] + 100
    ours = CodedLinearRegression(n_workers=4, degree=degree, l2=50.0, tolerance=1e-9, primes=2).fit(X, y)
    oracle = Ridge(alpha=50.0).fit(X / 8, y)
    np.testing.assert_allclose(ours.coef_ * 8, oracle.coef_, atol=0.05)
    assert ours.intercept_ == pytest.approx(oracle.intercept_, abs=0.05)


def test_a_linear_target_without_rounding_is_met():
    X = np.random.default_rng(0).integers(-8, 9, (60, 3)).astype(float)
    X[0] = 8
    y = X @ [2.0, -1.0, 0.5] + 4
    model = CodedLinearRegression(n_workers=4, tolerance=1e-12).fit(X, y)
    np.testing.assert_allclose(model.coef_, [2.0, -1.0, 0.5], atol=1e-3)
    assert model.intercept_ == pytest.approx(4, abs=1e-3)
    assert CodedLinearRegression(n_workers=4, bias=False).fit(X, y).intercept_ == 0.0


# -- weights of rows and classes ----------------------------------------------------------------------------------

PRECISE = {"n_workers": 4, "tolerance": 1e-9, "primes": 2, "data_bits": 12}


@pytest.mark.parametrize("kind", [CodedLogisticRegression, CodedLinearRegression])
@pytest.mark.parametrize("classes", [(4, 9), (0, 1, 2)])
def test_a_weight_of_zero_is_a_row_left_out_and_one_of_two_a_row_given_twice(kind, classes):
    X, y = digits(*classes)
    X, y = X[:120], y[:120]
    X[0] = X.max(axis=0)  # the scale of each column is learned from all rows, whatever their weights
    counts = np.random.default_rng(0).integers(0, 3, 120)
    counts[0] = 1
    weighted = kind(**PRECISE, l2=1.0).fit(X, y, sample_weight=counts)
    repeated = kind(**PRECISE, l2=1.0).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    outputs = [getattr(m, "decision_function", m.predict)(X) for m in (weighted, repeated)]
    np.testing.assert_allclose(*outputs, atol=0.05)
    plain = kind(**PRECISE, l2=1.0).fit(X, y)
    assert np.abs(getattr(plain, "decision_function", plain.predict)(X) - outputs[0]).max() > 0.15


@pytest.mark.parametrize("classes", [(4, 9), (0, 1, 2)])
def test_class_weights_are_scikit_learns(classes):
    X, y = digits(*classes)
    few = np.flatnonzero((y != classes[0]) | (np.cumsum(y == classes[0]) < 12))
    X, y = X[few], y[few]
    X[0] = X.max(axis=0)
    for weights in ("balanced", {classes[0]: 7.0}):
        ours = CodedLogisticRegression(**PRECISE, class_weight=weights).fit(X, y)
        oracle = theirs(class_weight=weights, tol=1e-10).fit(X, y)
        np.testing.assert_allclose(ours.decision_function(X), oracle.decision_function(X), atol=0.06)
    by_row = np.where(y == classes[0], 7.0, 1.0)
    again = CodedLogisticRegression(**PRECISE).fit(X, y, sample_weight=by_row)
    np.testing.assert_array_equal(again.coef_, ours.coef_)


def test_weights_that_can_not_be_are_refused():
    X, y = two_clouds()
    for weights in (-np.ones(40), np.zeros(40), np.full(40, np.nan), np.ones(39)):
        with pytest.raises(ValueError, match=r"(?i)weight|inconsistent|nan"):
            CodedLogisticRegression(n_workers=4).fit(X, y, sample_weight=weights)
    with pytest.raises(UsageError, match="sample weights must be used without a polynomial, got degree 1"):
        CodedLogisticRegression(n_workers=4, degree=1).fit(X, y, sample_weight=np.ones(40))


# -- all kinds of input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CodedLogisticRegression, CodedLinearRegression])
@pytest.mark.parametrize("layout", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_sparse_rows_give_the_same_bits(kind, layout):
    X = np.random.default_rng(0).poisson(0.2, (60, 30)).astype(float)
    y = (X[:, 0] + X[:, 1] > X[:, 2]).astype(float)
    dense, other = kind(n_workers=4).fit(X, y), kind(n_workers=4).fit(layout(X), y)
    np.testing.assert_array_equal(other.coef_, dense.coef_)
    np.testing.assert_allclose(other.predict(layout(X)), dense.predict(X))


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f4", "f8", "?"])
def test_integers_and_floats_of_any_size_are_the_same_features(dtype):
    X, y = digits(4, 9)
    X = (X > 8) if dtype == "?" else X
    reference = CodedLogisticRegression(n_workers=4).fit(X.astype(float), y)
    np.testing.assert_array_equal(CodedLogisticRegression(n_workers=4).fit(X.astype(dtype), y).coef_, reference.coef_)
    np.testing.assert_array_equal(CodedLogisticRegression(n_workers=4).fit(X, y.astype(float)).coef_, reference.coef_)


def test_whole_numbers_may_come_as_floats_or_as_numpys():
    X, y = two_clouds()
    reference = CodedLogisticRegression(n_workers=9, iterations=6, privacy=2, tolerance=0).fit(X, y)
    for kind in (float, np.float64, np.int64):
        model = CodedLogisticRegression(n_workers=kind(9), iterations=kind(6), privacy=kind(2), tolerance=kind(0))
        np.testing.assert_array_equal(model.fit(X, y).coef_, reference.coef_)
        assert model.n_iter_ == 6
    for settings in ({"n_workers": 4.5}, {"iterations": "many"}, {"n_workers": float("nan")}, {"degree": float("inf")}):
        with pytest.raises(UsageError, match=f"{next(iter(settings))} must be a whole number, got"):
            CodedLogisticRegression(**settings).fit(X, y)


def table(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    return rng.uniform(-1, 1, (rows, 4)) + y[:, None] * 0.7, y


def strange_tables():
    """Name → features and classes that an ordinary table becomes."""
    X, y = table()
    outlier, million = X.copy(), X.copy()
    outlier[5], million[5] = 1e6 * X[5], 1e300 * X[5] / np.abs(X[5]).max()
    rare, labels = table(3003)
    labels = (np.arange(3003) % 1001 == 0).astype(int)
    rare = rare + 3 * labels[:, None]
    return {
        "1e300": (X / np.abs(X).max(axis=0) * [1, 1e300, 1, 1], y),
        "1e-300": (X * [1, 1, 1e-300, 1], y),
        "all three": (X / np.abs(X).max(axis=0) * [1e300, 1, 1e-300, 0], y),
        "columns of zeros": (np.hstack([np.zeros((200, 2)), X, np.zeros((200, 1))]), y),
        "constants": (np.hstack([np.full((200, 2), 7.0), X, np.full((200, 1), -1e9)]), y),
        "one row a million times the others": (outlier, y),
        "one row of 1e300": (million, y),
        "10 rows of 2000 columns": (np.random.default_rng(1).normal(size=(10, 2000)), np.arange(10) % 2),
        "1 of 1000": (rare, labels),
        "every column five times": (np.hstack([X] * 5), y),
        "every row five times": (np.vstack([X] * 5), np.tile(y, 5)),
        "two rows": (X[:2], y[:2]),
    }


ORDINARY = {"1e300", "1e-300", "columns of zeros", "constants", "1 of 1000", "every column five times",
            "every row five times", "10 rows of 2000 columns"}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", strange_tables())
def test_a_strange_table_gives_a_sensible_model(name):
    X, y = strange_tables()[name]
    model = CodedLogisticRegression(n_workers=4).fit(X, y)
    assert np.isfinite(model.coef_).all()
    probabilities = model.predict_proba(X)
    assert np.isfinite(probabilities).all()
    if name in ORDINARY:  # features of 1e-300 are one in a thousand of 1 for scikit-learn's scaler
        oracle = theirs().fit(X * [1, 1, 1e300, 1] if name == "1e-300" else X, y)
        given = X * [1, 1, 1e300, 1] if name == "1e-300" else X
        assert model.score(X, y) >= oracle.score(given, y) - 0.01
        assert log_loss(y, probabilities) <= 1.1 * log_loss(y, oracle.predict_proba(given))
    else:
        assert model.score(X, y) > (0.8 if name != "all three" else 0.6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_table_of_constants_gives_the_shares_of_the_classes(value):
    X, y = np.full((40, 3), value), (np.arange(40) < 10).astype(int)
    model = CodedLogisticRegression(n_workers=4, tolerance=1e-9).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 0.25, atol=0.01)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("name", ["1e-300", "constants", "one row a million times the others", "1 of 1000", "two rows"])
def test_polynomials_bear_strange_tables_too(name, degree):
    X, y = strange_tables()[name]
    model = CodedLogisticRegression(n_workers=8, degree=degree).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()
    assert model.score(X, y) > 0.7


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["1e300", "constants", "columns of zeros", "10 rows of 2000 columns", "two rows"])
def test_linear_regression_bears_strange_tables_too(name):
    X, _ = strange_tables()[name]
    scale = np.abs(X).max(axis=0)
    y = (X / np.where(scale > 0, scale, 1))[:, ::2].sum(axis=1) * 1e6 + 5
    model = CodedLinearRegression(n_workers=4).fit(X, y)
    assert np.isfinite(model.coef_).all()
    assert model.score(X, y) > 0.99


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", [0.0, 3.0, -1e90])
def test_a_target_that_is_constant_is_met(target):
    X, _ = table()
    model = CodedLinearRegression(n_workers=4).fit(X, np.full(200, target))
    np.testing.assert_allclose(model.predict(X), target, rtol=1e-3, atol=1e-9)


def test_values_beyond_1e300_are_refused_in_one_line():
    X, y = table()
    with pytest.raises(
        UsageError, match=r"features must be at most 1e300 in absolute value, got .*e\+30\d in column 2"
    ):
        CodedLogisticRegression(n_workers=4).fit(X * [1, 1, 1e303, 1], y)


def test_spares_and_byzantine_take_workers_of_their_own():
    X, y = two_clouds()
    reference = CodedLogisticRegression(n_workers=4).fit(X, y)
    model = CodedLogisticRegression(n_workers=9, spares=2, byzantine=1).fit(X, y)
    np.testing.assert_array_equal(model.coef_, reference.coef_)
    with pytest.raises(UsageError, match="got N=5"):
        CodedLogisticRegression(n_workers=5, spares=1, byzantine=1).fit(X, y)


# -- more than two classes, and probabilities ---------------------------------------------------------------------


def test_the_papers_classes_are_each_trained_against_the_rest():
    """Column c has the gradient of class c against the rest; the rounding noise alone differs."""
    X, y = digits(0, 1, 2)
    model = CodedLogisticRegression(n_workers=4, paper=True, iterations=20, weight_bits=10, prime=2147483647)
    together = model.fit(X, y).coef_
    for c in range(3):
        alone = clone(model).fit(X, y == c).coef_[0]
        assert np.abs(together[c] - alone).max() < 0.02 * np.abs(alone).max()


@pytest.mark.parametrize("classes", [(4, 9), (0, 1, 2)])
def test_probabilities_sum_to_1_and_agree_with_predict(classes):
    X, y = digits(*classes)
    names = np.array([f"digit {c}" for c in y])
    model = CodedLogisticRegression(n_workers=4, iterations=10).fit(X, names)
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (len(X), len(classes))
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert list(model.classes_) == [f"digit {c}" for c in classes]
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(X)).all()


def test_probabilities_are_the_sigmoid_of_the_log_odds():
    X, y = two_clouds()
    model = CodedLogisticRegression(n_workers=4, iterations=10).fit(X, y)
    z = X @ model.coef_[0] + model.intercept_[0]
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-12)


def test_rows_far_from_every_class_have_probabilities_too():
    X, y = digits(0, 1, 2)
    for settings in ({"paper": True}, {"degree": 1}, {}):
        model = CodedLogisticRegression(n_workers=4, iterations=2, **settings).fit(X, y)
        model.coef_, model.intercept_ = -np.ones_like(model.coef_), np.zeros(3)
        with np.errstate(all="raise", under="ignore"):
            probabilities = model.predict_proba(np.full((1, 64), 1e6))
        np.testing.assert_allclose(probabilities, np.full((1, 3), 1 / 3))


@pytest.mark.parametrize("center", [False, True])
def test_weights_are_in_the_units_of_the_features(center):
    """Features four times as large make exactly the same quantized training, and a quarter of the weights."""
    X, y = two_clouds()
    model = CodedLogisticRegression(n_workers=4, iterations=5, center=center)
    small, large = clone(model).fit(X, y), clone(model).fit(4 * X, y)
    np.testing.assert_array_equal(large.coef_, small.coef_ / 4)
    np.testing.assert_array_equal(large.intercept_, small.intercept_)
    assert np.abs(small.coef_).min() > 0


def test_a_shift_of_centred_features_goes_to_the_intercept():
    """Means of 64 rows of integers are exact, so both trainings are the same."""
    X, y = digits(4, 9)
    X, y = X[:64], y[:64]
    model = CodedLogisticRegression(n_workers=4, iterations=5, center=True)
    here, there = clone(model).fit(X, y), clone(model).fit(X + 32, y)
    np.testing.assert_array_equal(there.coef_, here.coef_)
    np.testing.assert_allclose(there.decision_function(X + 32), here.decision_function(X), rtol=1e-9, atol=1e-9)
    assert abs(there.intercept_[0] - here.intercept_[0]) > 0.01


def test_without_bias_the_intercept_is_zero():
    X, y = two_clouds()
    assert CodedLogisticRegression(n_workers=4, bias=False).fit(X, y).intercept_ == [0.0]
    assert CodedLogisticRegression(n_workers=4, bias=True).fit(X, y).intercept_ != [0.0]


def test_the_same_random_state_gives_the_same_weights():
    X, y = digits(4, 9)
    model = CodedLogisticRegression(n_workers=7, iterations=5, random_state=3)
    first, second = clone(model).fit(X, y), clone(model).fit(X, y)
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(first.intercept_, second.intercept_)
    other = clone(model).set_params(random_state=4).fit(X, y)
    assert (other.coef_ != first.coef_).any()


def test_the_weights_do_not_depend_on_how_the_work_is_split():
    X, y = digits(4, 9)
    reference = CodedLogisticRegression(n_workers=4, iterations=5).fit(X, y)
    for settings in ({"n_workers": 16, "case": 1}, {"n_workers": 16, "case": 2}, {"n_workers": 13, "privacy": 4}):
        other = CodedLogisticRegression(iterations=5, **settings).fit(X, y)
        np.testing.assert_array_equal(other.coef_, reference.coef_)


@pytest.mark.parametrize("value", [-1, 1.5, "seed"])
def test_a_random_state_that_can_not_be_used_is_refused_by_name(value):
    with pytest.raises(ValueError, match="random_state"):
        CodedLogisticRegression(n_workers=4, random_state=value).fit(*two_clouds())


@pytest.mark.parametrize(
    ("settings", "arithmetic"),
    [
        ({"n_workers": 2}, "2·(K+T-1)+1 = 3 for K = T = 1, got N=2"),
        ({"n_workers": 0}, "2·(K+T-1)+1 = 3 for K = T = 1, got N=0"),
        ({"n_workers": 3, "degree": 1}, "3·(K+T-1)+1 = 4 for K = T = 1 and degree r=1, got N=3"),
        ({"n_workers": 5, "degree": 2}, "5·(K+T-1)+1 = 6 for K = T = 1 and degree r=2, got N=5"),
        ({"n_workers": 10, "parallelization": 3, "privacy": 3}, "2·(3+3-1)+1 = 11, got N=10"),
        ({"n_workers": 15, "paper": True, "parallelization": 3, "privacy": 3}, "3·(3+3-1)+1 = 16, got N=15"),
    ],
)
def test_too_few_workers_are_refused_with_the_arithmetic_before_a_thread_starts(settings, arithmetic, monkeypatch):
    monkeypatch.setattr(estimator, "run_local", lambda *_: pytest.fail("threads must not start"))
    with pytest.raises(UsageError) as refused:
        CodedLogisticRegression(**settings).fit(*two_clouds())
    assert arithmetic in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"case": 1, "privacy": 2}, "case must not be given together with parallelization or privacy"),
        ({"solver": "cg", "degree": 3}, "solver cg must be used with degree 1 or no degree, got 3: take lbfgs"),
        ({"n_workers": 2}, "the number of workers N must be at least 2·(K+T-1)+1 = 3 for K = T = 1, got N=2"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"l2": float("-inf")}, "l2 must be at least 0, got -inf"),
    ],
)
def test_errors_name_parameters_of_python_and_no_flags(settings, text):
    with pytest.raises(UsageError) as refused:
        CodedLogisticRegression(**settings).fit(*two_clouds())
    assert str(refused.value) == text
    assert refused.value.__cause__ is None


def test_frames_of_pandas_and_tensors_of_torch_are_tables_too():
    X, y = two_clouds()
    frame, labels = pandas.DataFrame(X, columns=["a", "b", "c"]), pandas.Series(np.array(["no", "yes"])[y])
    model = CodedLogisticRegression(iterations=3).fit(frame, labels)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    of_arrays = CodedLogisticRegression(iterations=3).fit(X, y)
    of_tensors = CodedLogisticRegression(iterations=3).fit(torch.tensor(X), torch.tensor(y))
    assert (of_arrays.coef_ == model.coef_).all()
    assert (of_tensors.coef_ == model.coef_).all()
    assert model.predict(frame).tolist() == np.array(["no", "yes"])[of_tensors.predict(torch.tensor(X))].tolist()


def test_as_many_workers_as_the_arithmetic_asks_for_are_enough():
    for settings in ({"n_workers": 3}, {"n_workers": 4, "degree": 1}, {"n_workers": 6, "degree": 2},
                     {"n_workers": 11, "parallelization": 3, "privacy": 3}):  # fmt: skip
        model = CodedLogisticRegression(iterations=1, **settings).fit(*two_clouds())
        assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize("label", [1, "cat"])
def test_one_class_is_refused_by_its_name(label):
    X, y = two_clouds()
    with pytest.raises(ValueError, match=f"two classes or more, got 1 class: {label}"):
        CodedLogisticRegression(n_workers=4).fit(X, np.full(len(y), label))


@pytest.mark.filterwarnings("error")
def test_an_overflow_during_training_is_an_error_and_leaves_no_thread_behind():
    threads = set(threading.enumerate())
    with pytest.raises(HeadroomError, match="decoded values must be below p/2"):
        CodedLogisticRegression(n_workers=4, paper=True, learning_rate="1e9").fit(*two_clouds())
    for settings in ({}, {"degree": 1}):
        with pytest.raises(UsageError, match="the weights must converge"):
            CodedLogisticRegression(n_workers=4, solver="gradient", learning_rate="1e9", **settings).fit(*two_clouds())
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(("prime", "least"), [(33554393, 0), (2147483647, 5)])
def test_headroom_is_told_in_bits(prime, least):
    model = CodedLogisticRegression(n_workers=4, paper=True, iterations=3, prime=prime).fit(*two_clouds())
    assert least < model.headroom_bits_ < np.log2(prime)


@pytest.mark.parametrize("imports", ["import fedmpi.codedml", "from fedmpi.codedml import workers"])
def test_a_worker_loads_nothing_slow(imports):
    slow = ("sklearn", "scipy", "galois", "numba", "torch", "tyro", "rich")
    code = f"{imports}; import sys; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_name_that_the_package_does_not_have():
    import fedmpi.codedml

    assert fedmpi.codedml.CodedLogisticRegression is CodedLogisticRegression
    assert fedmpi.codedml.CodedLinearRegression is CodedLinearRegression
    with pytest.raises(AttributeError, match="has no attribute 'CodedRidge'"):
        _ = fedmpi.codedml.CodedRidge
