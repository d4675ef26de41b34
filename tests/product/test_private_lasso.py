"""PrivateLasso: scikit-learn's conventions, and scikit-learn's Lasso as the oracle."""

import re

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Lasso
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedmpi.errors import UsageError
from fedmpi.ppadmm import PrivateLasso


def made_up(rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 6)) + 3
    return X, X @ [4, 0, 0, -2, 0, 1] + 5 + rng.normal(size=rows)


@parametrize_with_checks([PrivateLasso(n_participants=2, tol=1e-4)])
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_it_is_scikit_learns_lasso(l1_ratio, fit_intercept):
    X, y = made_up()
    oracle = ElasticNet(alpha=0.3, l1_ratio=l1_ratio, fit_intercept=fit_intercept, tol=1e-12, max_iter=10**6)
    oracle.fit(X, y)
    model = PrivateLasso(alpha=0.3, l1_ratio=l1_ratio, fit_intercept=fit_intercept).fit(X, y)
    assert np.abs(model.coef_ - oracle.coef_).max() < 1e-6
    assert model.intercept_ == pytest.approx(oracle.intercept_, abs=1e-6)
    np.testing.assert_allclose(model.predict(X), oracle.predict(X), atol=1e-5)


def test_diabetes():
    X, y = load_diabetes(return_X_y=True)
    oracle = Lasso(alpha=0.1, tol=1e-12, max_iter=10**6).fit(X, y)
    model = PrivateLasso(alpha=0.1).fit(X, y)
    assert np.abs(model.coef_ - oracle.coef_).max() < 1e-6 * np.abs(oracle.coef_).max()
    assert np.flatnonzero(model.coef_).tolist() == np.flatnonzero(oracle.coef_).tolist()


def test_groups_are_the_participants():
    X, y = made_up()
    owners = np.array(["north", "east", "south"])[np.arange(60) % 3]
    by_group = PrivateLasso(alpha=0.3).fit(X, y, groups=owners)
    evenly = PrivateLasso(alpha=0.3, n_participants=3).fit(X, y)
    np.testing.assert_allclose(by_group.coef_, evenly.coef_, atol=1e-7)
    with pytest.raises(UsageError, match="N must be at least 2, got N=1"):
        PrivateLasso().fit(X, y, groups=np.zeros(60))
    with pytest.raises(UsageError, match=re.escape("groups must have shape (60,) like y, got (59,)")):
        PrivateLasso().fit(X, y, groups=owners[1:])


def test_frames_of_pandas_and_tensors_of_torch_are_tables_too():
    X, y = made_up()
    owners = pandas.Series(np.array(["north", "east", "south"])[np.arange(60) % 3])
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = PrivateLasso().fit(frame, pandas.Series(y), groups=owners)
    assert model.feature_names_in_.tolist() == list("abcdef")
    of_arrays = PrivateLasso().fit(X, y, groups=owners.to_numpy())
    of_tensors = PrivateLasso().fit(torch.tensor(X), torch.tensor(y), groups=owners)
    assert (of_arrays.coef_ == model.coef_).all()
    assert (of_tensors.coef_ == model.coef_).all()
    np.testing.assert_allclose(model.predict(frame), of_arrays.predict(X), rtol=1e-12)
    assert (of_tensors.predict(torch.tensor(X)) == of_arrays.predict(X)).all()


def test_too_few_iterations_are_said():
    X, y = made_up()
    with pytest.warns(ConvergenceWarning, match="must be below tol=1e-10, got more after 3 iterations"):
        model = PrivateLasso(max_iter=3).fit(X, y)
    assert model.n_iter_ == 3


def test_grid_search_and_clone():
    X, y = made_up()
    search = GridSearchCV(PrivateLasso(n_participants=3), {"alpha": [0.01, 3.0]}, cv=3).fit(X, y)
    assert search.best_params_ == {"alpha": 0.01}
    copy = clone(search.best_estimator_)
    assert copy.get_params()["alpha"] == 0.01
    assert not hasattr(copy, "coef_")


def test_wrong_parameters_are_refused_before_a_thread_starts():
    for options, text in (
        ({"alpha": -1.0}, "^alpha must be at least 0, got -1"),
        ({"max_iter": 0}, "^max_iter must be at least 1"),
        ({"mask": "xor"}, "^mask must be one of"),
        ({"n_participants": 1}, "N must be at least 2, got N=1$"),
        ({"n_participants": 61}, "number of rows must be at least that of participants, 61, got 60"),
    ):
        with pytest.raises(UsageError, match=text):
            PrivateLasso(**options).fit(*made_up())
