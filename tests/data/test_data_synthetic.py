"""Synthetic sets: shape, density, seed, and how hard they are."""

import numpy as np
import pytest

from fedmpi.data import load, synthetic
from fedmpi.errors import UsageError


def accuracy(data):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=300).fit(data.X_train / 999, data.y_train)
    return model.score(data.X_test / 999, data.y_test)


def test_shape_density_and_values():
    got = load("synthetic:m=501,d=300,density=0.2,test=40")
    X = np.concatenate([got.X_train, got.X_test])
    assert (got.X_train.shape, got.X_test.shape, X.dtype) == ((501, 300), (40, 300), np.uint16)
    assert got.name == "synthetic (501x300, density 0.2)"
    assert abs((X > 0).mean() - 0.2) < 0.005  # 5 standard deviations
    assert (X.min(), X.max()) == (0, 999)
    assert sorted(np.bincount(got.y_train)) == [250, 251]
    assert np.bincount(got.y_test).tolist() == [20, 20]


def test_density_tells_nothing_about_the_class():
    got = load("synthetic:m=4000,d=50,density=0.3")
    filled = [(got.X_train[got.y_train == k] > 0).mean() for k in (0, 1)]
    assert abs(filled[0] - filled[1]) < 0.015  # 5 standard deviations


def test_same_seed_same_data():
    spec = "synthetic:m=300,d=40,density=0.5,classes=3"
    one, same, other = load(spec), load(spec, seed=0), load(spec, seed=1)
    np.testing.assert_array_equal(one.X_train, same.X_train)
    np.testing.assert_array_equal(one.y_test, same.y_test)
    assert not np.array_equal(one.X_train, other.X_train)
    assert not np.array_equal(one.y_train, other.y_train)
    assert one.classes == ("0", "1", "2")


@pytest.mark.parametrize("density", ["0.13", "1"])
def test_a_linear_model_does_well_but_not_perfectly(density):
    for seed in range(3):
        assert 0.93 < accuracy(load(f"synthetic:m=1200,d=250,density={density}", seed=seed)) < 0.99


def test_informative_columns_are_spread_out():
    got = load("synthetic:m=3000,d=1600,density=0.5")
    X = got.X_train.astype(float)
    gap = abs(X[got.y_train == 0].mean(0) - X[got.y_train == 1].mean(0))
    strong = np.sort(np.argsort(gap)[-200:])
    counts = np.histogram(strong, bins=4, range=(0, 1600))[0]
    assert counts.min() > 25  # 50 expected in each quarter


def test_gisette_stand_in_says_so(monkeypatch):
    monkeypatch.setattr(synthetic, "GISETTE", "m=60,d=50,density=0.13,test=10")
    got = load("synthetic:gisette")
    assert got.name == "synthetic stand-in for GISETTE (60x50)"
    assert got.X_test.shape == (10, 50)


def test_gisette_stand_in_has_the_shape_of_gisette():
    want = {"m": 6000, "d": 5000, "density": 0.13, "test": 1000, "classes": 2}
    assert synthetic.parse(synthetic.GISETTE) == want


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "must be one of m, d, density, test, classes, got ''"),
        ("m=5,d=5,density=1,q=3", "got 'q=3'"),
        ("m=5,d=5,density=1,m=6", "must be given once, got m twice"),
        ("m=5,d=5", "must give m, d and density, got no density"),
        ("m=x,d=5,density=1", "m of a synthetic set must be a number, got 'x'"),
        ("m=5,d,density=1", "d of a synthetic set must be a number, got ''"),
        ("m=1,d=5,density=1", "m of a synthetic set must be at least 2, got 1"),
        ("m=3,d=5,density=1,classes=4", "m of a synthetic set must be at least 4, got 3"),
        ("m=3,d=5,density=1,classes=1", "classes of a synthetic set must be at least 2, got 1"),
        ("m=5,d=0,density=1", "d of a synthetic set must be at least 1, got 0"),
        ("m=5,d=5,density=1,test=0", "test of a synthetic set must be at least 1, got 0"),
        ("m=5,d=5,density=0", r"must be in \(0, 1\], got 0"),
        ("m=5,d=5,density=1.1", "got 1.1"),
        ("m=5,d=5,density=nan", "got nan"),
        ("m=9000000,d=5000,density=1", r"synthetic set must fit in 8 GiB when dense, got 9001000 x 5000"),
    ],
)
def test_spec_that_breaks_a_rule(spec, message):
    with pytest.raises(UsageError, match=message):
        load(f"synthetic:{spec}")
