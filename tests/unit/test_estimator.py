"""The estimator on threads: scikit-learn's own conventions, scikit-learn as the oracle, and errors before any work."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedmpi.codedml import CodedLogisticRegression, estimator
from fedmpi.errors import HeadroomError, UsageError


def digits(*classes: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    chosen = np.isin(y, classes)
    return X[chosen], y[chosen]


def two_clouds(rows: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    return rng.normal(size=(rows, 3)) + 2 * y[:, None], y


@parametrize_with_checks([CodedLogisticRegression()])
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


def test_a_clone_has_the_parameters_and_not_the_weights():
    model = CodedLogisticRegression(n_workers=7, privacy=2, iterations=3, fit_range=(-4.0, 4.0), random_state=5)
    model.fit(*two_clouds())
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy.get_params()["privacy"] == 2
    assert not hasattr(copy, "coef_")
    copy.set_params(privacy=1, iterations=4)
    assert (copy.privacy, copy.iterations, model.privacy) == (1, 4, 2)


def test_set_params_reaches_the_training():
    X, y = two_clouds()
    model = CodedLogisticRegression(n_workers=4, iterations=1).fit(X, y)
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


def test_accuracy_on_4_and_9_is_within_2_points_of_scikit_learn():
    X, X_test, y, y_test = train_test_split(*digits(4, 9), test_size=0.5, random_state=0)
    ours = CodedLogisticRegression().fit(X, y).score(X_test, y_test)
    theirs = LogisticRegression(max_iter=5000).fit(X, y).score(X_test, y_test)
    assert ours >= theirs - 0.02


def test_ten_classes_are_told_apart():
    X, X_test, y, y_test = train_test_split(*load_digits(return_X_y=True), test_size=0.3, random_state=0)
    model = CodedLogisticRegression(n_workers=4, iterations=100, prime=2147483647, data_bits=4).fit(X, y)
    assert model.coef_.shape == (10, 64)
    assert model.intercept_.shape == (10,)
    assert model.score(X_test, y_test) > 0.88


def test_more_classes_are_each_trained_against_the_rest():
    """Column c has the gradient of class c against the rest; the rounding noise alone differs."""
    X, y = digits(0, 1, 2)
    model = CodedLogisticRegression(n_workers=4, iterations=20, weight_bits=10, prime=2147483647)
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
    model = CodedLogisticRegression(n_workers=4, iterations=2).fit(X, y)
    model.coef_ = -np.ones_like(model.coef_)
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
        ({"n_workers": 3}, "3·(K+T-1)+1 = 4 for K = T = 1 and degree r=1, got N=3"),
        ({"n_workers": 0}, "3·(K+T-1)+1 = 4 for K = T = 1 and degree r=1, got N=0"),
        ({"n_workers": 5, "degree": 2}, "5·(K+T-1)+1 = 6 for K = T = 1 and degree r=2, got N=5"),
        ({"n_workers": 15, "parallelization": 3, "privacy": 3}, "3·(3+3-1)+1 = 16, got N=15"),
    ],
)
def test_too_few_workers_are_refused_with_the_arithmetic_before_a_thread_starts(settings, arithmetic, monkeypatch):
    monkeypatch.setattr(estimator, "run_local", lambda *_: pytest.fail("threads must not start"))
    with pytest.raises(UsageError) as refused:
        CodedLogisticRegression(**settings).fit(*two_clouds())
    assert arithmetic in str(refused.value)


def test_as_many_workers_as_the_arithmetic_asks_for_are_enough():
    for settings in ({"n_workers": 4}, {"n_workers": 6, "degree": 2}):
        model = CodedLogisticRegression(iterations=1, weight_bits=2, **settings).fit(*two_clouds())
        assert np.isfinite(model.coef_).all()
    model = CodedLogisticRegression(n_workers=16, parallelization=3, privacy=3, iterations=1).fit(*two_clouds())
    assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize("label", [1, "cat"])
def test_one_class_is_refused_by_its_name(label):
    X, y = two_clouds()
    with pytest.raises(ValueError, match=f"two classes or more, got 1 class: {label}"):
        CodedLogisticRegression(n_workers=4).fit(X, np.full(len(y), label))


def test_an_overflow_during_training_is_an_error_and_leaves_no_thread_behind():
    threads = set(threading.enumerate())
    with pytest.raises(HeadroomError, match="decoded values must be below p/2"):
        CodedLogisticRegression(n_workers=4, learning_rate="1e9").fit(*two_clouds())
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize(("prime", "least"), [(33554393, 0), (2147483647, 5)])
def test_headroom_is_told_in_bits(prime, least):
    model = CodedLogisticRegression(n_workers=4, iterations=3, prime=prime).fit(*two_clouds())
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
    with pytest.raises(AttributeError, match="has no attribute 'CodedLinearRegression'"):
        _ = fedmpi.codedml.CodedLinearRegression
