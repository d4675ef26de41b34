"""Regression data: made up with known parameters, diabetes, targets and groups of files, and partitions."""

import re

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from fedmpi.data import load
from fedmpi.data.partition import rows_of
from fedmpi.data.regression import make, parse
from fedmpi.errors import UsageError

# ------------------------------------------------------------------ made up


def test_synthetic_lasso_is_what_it_says():
    data = load("synthetic-lasso:n=20000,d=40,sparsity=0.75,noise=20,test=2000", regression=True, seed=3)
    assert data.X_train.shape == (20000, 40)
    assert data.X_test.shape == (2000, 40)
    assert np.count_nonzero(data.coefficients) == 10
    assert abs(data.X_train.mean()) < 0.01
    assert abs(data.X_train.std() - 1) < 0.01
    for X, y in ((data.X_train, data.y_train), (data.X_test, data.y_test)):
        assert (y - X @ data.coefficients).std() == pytest.approx(20, rel=0.05)


def test_synthetic_lasso_depends_on_the_seed_alone():
    one, same, other = (load("synthetic-lasso", regression=True, seed=seed) for seed in (1, 1, 2))
    assert one.X_train.shape == (5000, 100)
    np.testing.assert_array_equal(one.X_train, same.X_train)
    assert (one.X_train != other.X_train).any()


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("m=5", "key of synthetic-lasso must be one of n, d, sparsity, noise, test, got 'm=5'"),
        ("n=5,n=6", "must be given once, got n twice"),
        ("n=five", "n of synthetic-lasso must be a number, got 'five'"),
        ("n=0", "n of synthetic-lasso must be at least 1, got 0"),
        ("noise=-1", "noise of synthetic-lasso must be at least 0, got -1.0"),
        ("noise=nan", "noise of synthetic-lasso must be at least 0, got nan"),
        ("sparsity=1", r"sparsity of synthetic-lasso must be in \[0, 1\), got 1"),
        ("n=999999999,d=999999999", "must fit"),
    ],
)
def test_a_wrong_specification(spec, text):
    with pytest.raises(UsageError, match=text):
        make(spec)


def test_defaults():
    assert parse("") == {"n": 5000, "d": 100, "sparsity": 0.9, "noise": 20.0, "test": 1000}


def test_diabetes_is_scikit_learns():
    data, wanted = load("diabetes", regression=True), load_diabetes()
    got = np.concatenate([data.X_train, data.X_test])
    assert got.shape == (442, 10)
    np.testing.assert_array_equal(np.sort(got, axis=0), np.sort(wanted.data, axis=0))
    assert sorted([*data.y_train, *data.y_test]) == sorted(wanted.target)
    assert data.coefficients is None


# ------------------------------------------------------------------ targets and groups of files


def test_csv_target_and_groups(tmp_path):
    path = tmp_path / "a.csv"
    lines = ["site,age,cost,height"] + [f"{'xyz'[k % 3]},{k},{10 * k},{k + 0.5}" for k in range(30)]
    path.write_text("\n".join(lines))
    data = load(str(path), regression=True, label_column="cost", group_column="site")
    assert data.X_train.shape == (24, 2)
    np.testing.assert_array_equal(data.y_train, 10 * data.X_train[:, 0])
    assert [*data.groups] == ["xyz"[int(age) % 3] for age in data.X_train[:, 0]]


@pytest.mark.parametrize(("target", "groups"), [("cost", "site"), ("1", "3"), ("-3", "-1")])
def test_npz_target_and_groups(tmp_path, target, groups):
    table = np.arange(80.0).reshape(20, 4)
    arrays = {"X": table} if target != "cost" else {"X": table[:, [0, 2]], "cost": table[:, 1], "site": table[:, 3]}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(str(tmp_path / "a.npz"), regression=True, label_column=target, group_column=groups)
    np.testing.assert_array_equal(data.X_train[:, 1] - data.X_train[:, 0], np.full(16, 2.0))
    np.testing.assert_array_equal(data.y_train, data.X_train[:, 0] + 1)
    np.testing.assert_array_equal(data.groups, data.X_train[:, 0] + 3)


@pytest.mark.parametrize("cell", ["", "nan"])
@pytest.mark.parametrize("column", ["age", "cost", "site"])
def test_a_missing_value_is_refused_with_its_column(tmp_path, cell, column):
    path = tmp_path / "a.csv"
    rows = [{"site": "x", "age": "3", "cost": "5", "more": "1"} for _ in range(10)]
    rows[6][column] = cell
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    with pytest.raises(UsageError, match=f'"{column}"'):
        load(str(path), regression=True, label_column="cost", group_column="site")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"label_column": "b"}, r"label_column must be a column of X (0 to 1) or an array (y), got b"),
        ({"label_column": "2"}, "got 2"),
        ({"group_column": "b"}, "group_column must be a column of X"),
        ({"label_column": "0", "group_column": "0"}, "group_column must not be the label column, got 0"),
    ],
)
def test_columns_that_are_not_there(tmp_path, options, text):
    np.savez(tmp_path / "a.npz", X=np.ones((10, 2)), y=np.ones(10))
    with pytest.raises(UsageError, match=re.escape(text)):
        load(str(tmp_path / "a.npz"), regression=True, **options)


def test_csv_groups_are_not_the_target(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(UsageError, match="group_column must not be the label column, got c"):
        load(str(tmp_path / "a.csv"), regression=True, group_column="c")
    with pytest.raises(UsageError, match=r"group_column must be given for tables and \.npz files only, got digits"):
        load("digits", group_column="c")


# ------------------------------------------------------------------ partitions


@pytest.mark.parametrize(("rows", "parts"), [(10, 3), (10, 10), (7, 2), (1, 1)])
def test_parts_are_a_partition_of_nearly_equal_size(rows, parts):
    shares = [rows_of(part, parts, rows) for part in range(parts)]
    assert sorted(np.concatenate(shares)) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_group_stays_together():
    groups = np.array(["c", "a", "b", "a", "d", "c", "e"])
    shares = [rows_of(part, 2, 7, groups) for part in range(2)]
    assert [share.tolist() for share in shares] == [[0, 1, 3, 5, 6], [2, 4]]


def test_more_parts_than_rows_or_groups_are_refused():
    with pytest.raises(UsageError, match="number of rows must be at least that of participants, 4, got 3"):
        rows_of(0, 4, 3)
    with pytest.raises(UsageError, match="must have at least 3 values, one a participant, got 2"):
        rows_of(0, 3, 4, np.array([1, 1, 2, 2]))
