"""FederatedClassifier: scikit-learn's conventions, its pipelines and searches, and rows of DataFrames with text."""

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fedmpi import FederatedClassifier
from fedmpi.errors import UsageError

X, Y = load_digits(n_class=3, return_X_y=True)
SMALL = {"method": "fedavg", "model": "logistic", "rounds": 2, "epochs": 1, "clients": 2}
CHEAP = {"ranks": 4, "parallelization": 1, "privacy": 1, "iterations": 10, "compare": False}
AS_ATTRIBUTES = {"check_no_attributes_set_in_init": "parameters of a system are attributes as those of the signature"}


@parametrize_with_checks(
    [FederatedClassifier("codedml", **CHEAP)], expected_failed_checks=lambda estimator: AS_ATTRIBUTES
)
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("system", ["niss", "spn"])
def test_it_learns_and_gives_probabilities(system):
    model = FederatedClassifier(system, **(SMALL | {"rounds": 6})).fit(X[:300], Y[:300])
    assert model.score(X[300:], Y[300:]) > 0.8
    p = model.predict_proba(X[300:310])
    assert p.shape == (10, 3)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(X[300:310]))
    assert model.result_["params"]["clients"] == 2


def test_groups_are_clients():
    model = FederatedClassifier("spn", **{name: v for name, v in SMALL.items() if name != "clients"})
    assert model.fit(X[:60], Y[:60], groups=np.arange(60) % 5).result_["params"]["clients"] == 5


def test_parameters_of_the_system_are_those_of_the_estimator():
    model = FederatedClassifier("niss", **SMALL)
    assert model.get_params() == {"system": "niss", "ranks": None, "random_state": 0, **SMALL}
    copy = clone(model).set_params(rounds=3, learning_rate=0.1)
    assert (copy.get_params()["rounds"], copy.get_params()["learning_rate"]) == (3, 0.1)
    assert "learning_rate" not in model.get_params()
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(model_=1)
    with pytest.raises(UsageError, match="got epoch; did you mean epochs"):
        FederatedClassifier("niss", epoch=1).fit(X[:20], Y[:20])


def test_it_is_searched_in_a_pipeline():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), FederatedClassifier("codedml", **CHEAP)),
        {"federatedclassifier__l2": [1.0, 1e5]},
        cv=2,
    ).fit(X[:60], Y[:60])
    assert search.best_params_ == {"federatedclassifier__l2": 1.0}


def test_text_columns_of_a_dataframe_are_features():
    draw = np.random.default_rng(0)
    color = draw.choice(["red", "green", "blue"], 80)
    table = pandas.DataFrame({"color": color, "size": draw.normal(size=80)})
    model = FederatedClassifier("niss", **(SMALL | {"rounds": 20, "learning_rate": 0.5})).fit(table, color == "red")
    assert model.score(table, color == "red") > 0.95
    assert list(model.feature_names_in_) == ["color", "size"]
    assert set(model.predict(table)) == {True, False}


def test_a_regression_is_no_classifier():
    with pytest.raises(UsageError, match="system must be one that trains classifiers, got ppadmm"):
        FederatedClassifier("ppadmm", ranks=4, iterations=2).fit(X[:40], Y[:40])
