"""`load` on the real sets of the data folder, and its rules on small files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedmpi.data import Dataset, catalogue, load
from fedmpi.data.known import data_folder, read_known
from fedmpi.errors import UsageError

DATA = Path(os.environ.get("FEDMPI_DATA", "/nowhere"))


def needs(folder):
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"$FEDMPI_DATA has no {folder}")


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def labelled(path, y, **more):
    """A file whose feature is the number of its row."""
    return save(path, X=np.arange(len(y))[:, None], y=np.asarray(y), **more)


def assert_same(a: Dataset, b: Dataset):
    assert (a.name, a.classes) == (b.name, b.classes)
    for part in ("X_train", "y_train", "X_test", "y_test"):
        np.testing.assert_array_equal(getattr(a, part), getattr(b, part))


# ------------------------------------------------------------------ real data


@needs("cifar10")
def test_cifar10_pairs_are_the_first_rows_of_the_file():
    got = load("cifar10", data_dir=DATA, classes=("airplane", "automobile"), max_rows=9019)
    with np.load(DATA / "cifar10/train.npz") as z:
        X, y = z["X"], z["y"]
    rows = np.flatnonzero(y < 2)[:9019]
    assert got.X_train.dtype == np.uint8
    np.testing.assert_array_equal(got.X_train, X[rows].reshape(9019, 3072))
    np.testing.assert_array_equal(got.y_train, y[rows])
    assert got.X_test.shape == (2000, 3072)
    assert np.bincount(got.y_test).tolist() == [1000, 1000]
    assert got.classes == ("airplane", "automobile")


@needs("cifar10")
def test_class_order_and_numbers_set_the_labels():
    one = load("cifar10", data_dir=DATA, classes=("truck", "airplane"), max_rows=50)
    two = load("cifar10", data_dir=DATA, classes=("9", "0"), max_rows=50)
    assert_same(one, two)
    assert one.classes == ("truck", "airplane")
    with np.load(DATA / "cifar10/train.npz") as z:
        y = z["y"]
    assert one.y_train.tolist() == [0 if v == 9 else 1 for v in y if v in (0, 9)][:50]


@needs("mnist")
def test_mnist(monkeypatch):
    monkeypatch.setenv("FEDMPI_DATA", str(DATA))
    got = load("mnist")
    assert (got.X_train.shape, got.X_test.shape) == ((60000, 784), (10000, 784))
    assert (got.X_train.dtype, got.y_train.dtype) == (np.uint8, np.int64)
    assert got.X_train.flags.c_contiguous
    assert got.classes == tuple("0123456789")
    assert got.y_train[:6].tolist() == [5, 0, 4, 1, 9, 2]  # as in every book
    assert np.bincount(got.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    got.X_train[0] = 0  # may be written to, as the arrays of all other sets


@needs("tabular")
def test_wine_as_classes_and_as_regression():
    classes, numbers = load("wine", data_dir=DATA), load("wine", data_dir=DATA, regression=True)
    assert classes.name == "wine"
    assert classes.classes == ("3", "4", "5", "6", "7", "8", "9")
    assert numbers.classes == ()
    assert numbers.y_train.dtype == np.float64
    assert set(numbers.y_train) <= set(range(3, 10))
    assert len(numbers.y_test) == round(0.2 * 4898)
    both = np.concatenate([numbers.X_train, numbers.X_test])
    assert both.shape == (4898, 11)
    assert [
        7,
        0.27,
        0.36,
        20.7,
        0.045,
        45,
        170,
        1.001,
        3,
        0.45,
        8.8,
    ] in both.tolist()  # the first of the file


def test_digits():
    from sklearn.datasets import load_digits

    got = load("digits", classes=("4", "9"), test_fraction=0.25)
    assert got.X_train.dtype == np.uint8
    assert got.classes == ("4", "9")
    truth = {row.tobytes(): label for row, label in zip(*load_digits(return_X_y=True), strict=True)}
    for X, y in ((got.X_train, got.y_train), (got.X_test, got.y_test)):
        assert [truth[row.astype(float).tobytes()] for row in X] == [(4, 9)[label] for label in y]
    assert len(got.y_test) == round(0.25 * 181) + round(0.25 * 180)


def test_digits_of_a_scikit_learn_that_keeps_them_elsewhere(monkeypatch):
    usual = read_known("digits")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    other = read_known("digits")
    assert other.X.dtype == usual.X.dtype == np.uint8
    np.testing.assert_array_equal(other.X, usual.X)
    np.testing.assert_array_equal(other.y, usual.y)


def test_a_rank_reads_digits_without_importing_what_it_does_not_need():
    code = "import sys; from fedmpi.data import load; load('digits'); print({'sklearn', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


# ------------------------------------------------------------------ places and names


def test_data_folder_order(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDMPI_DATA", str(tmp_path / "env"))
    assert data_folder(tmp_path / "given") == tmp_path / "given"
    assert data_folder() == tmp_path / "env"
    monkeypatch.delenv("FEDMPI_DATA")
    assert data_folder() == tmp_path / "cache" / "fedmpi"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_folder() == tmp_path / ".cache" / "fedmpi"


MADE_UP = ["synthetic:gisette", "synthetic-lasso"]


def test_catalogue_tells_what_is_there(tmp_path):
    before = {e.name: e for e in catalogue(tmp_path)}
    fetched = ["mnist", "cifar10", "cifar100", "svhn", "gisette", "wine", "bank", "ham10000", "ham10000-64"]
    assert sorted(before) == sorted(["digits", "diabetes", *fetched, *MADE_UP])
    assert sorted(name for name, e in before.items() if e.present) == sorted(["digits", "diabetes", *MADE_UP])
    assert before["wine"].where == str(tmp_path / "tabular")
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular/winequality-white.csv").touch()
    assert {e.name for e in catalogue(tmp_path) if e.present} == {"digits", "diabetes", *MADE_UP, "wine"}
    assert all(e.description and e.source for e in before.values())


def test_set_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"fedmpi data fetch mnist\), got no .*train-images.* in ") as e:
        load("mnist", data_dir=tmp_path)
    assert str(tmp_path) in str(e.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cifr10", "must be one of digits, mnist, .*did you mean cifar10"),
        ("synthetic", "did you mean synthetic:gisette"),
        ("synthetic-laso", "did you mean synthetic-lasso"),
        ("qqqq", r"got qqqq$"),
        ("table.xls", r"got table.xls$"),
        ("none.csv", "data file must exist, got none.csv"),
    ],
)
def test_unknown_names(name, text):
    with pytest.raises(UsageError, match=text):
        load(name)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"max_rows": 0}, "max_rows must be at least 1, got 0"),
        ({"test_fraction": -0.1}, r"must lie in \[0, 1\), got -0.1"),
        ({"test_fraction": 1.0}, "got 1.0"),
        ({"test_fraction": float("nan")}, "got nan"),
        ({"regression": True, "classes": ("1", "2")}, "must be empty for regression, got 1, 2"),
        ({"label_column": "y"}, "for tables and .npz files only, got digits"),
        ({"classes": ("1", "ten")}, "must be one of 0, 1, 2, .* got ten"),
        ({"classes": ("1", "1")}, "must differ, got 1, 1"),
        ({"classes": ("1",)}, r"one-class data \(1\)"),
        ({"max_rows": 3}, r'class "3" must have a training row, got none in 3 rows'),
    ],
)
def test_arguments_out_of_range(kwargs, text):
    with pytest.raises(UsageError, match=text):
        load("digits", **kwargs)


def test_import_is_light():
    heavy = "{'sklearn', 'scipy', 'pooch', 'requests', 'tqdm', 'pyarrow', 'pandas', 'PIL'}"
    code = f"import sys, fedmpi.data; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


# ------------------------------------------------------------------ split and selection


def test_split_is_stratified_seeded_and_in_file_order(tmp_path):
    y = np.array([7] * 50 + [3] * 10 + [5] * 1)[np.random.default_rng(1).permutation(61)]
    path = labelled(tmp_path / "a.npz", y)
    got = load(path, test_fraction=0.3, seed=4)
    assert np.bincount(got.y_test, minlength=3).tolist() == [3, 0, 15]
    assert np.bincount(got.y_train).tolist() == [7, 1, 35]
    assert (np.diff(got.X_train[:, 0]) > 0).all()
    assert sorted([*got.X_train[:, 0], *got.X_test[:, 0]]) == list(range(61))
    labels = np.array([3, 5, 7])
    np.testing.assert_array_equal(labels[got.y_train], y[got.X_train[:, 0]])
    assert_same(got, load(path, test_fraction=0.3, seed=4))
    assert load(path, test_fraction=0.3, seed=5).X_test.tolist() != got.X_test.tolist()


def test_each_class_keeps_a_training_row(tmp_path):
    got = load(labelled(tmp_path / "a.npz", [0, 0, 1, 1, 1]), test_fraction=0.99)
    assert np.bincount(got.y_train).tolist() == [1, 1]


def test_split_comes_before_max_rows_and_classes(tmp_path):
    path = labelled(tmp_path / "a.npz", np.arange(60) % 3)
    whole, few = load(path), load(path, max_rows=12)
    np.testing.assert_array_equal(few.X_train, whole.X_train[:12])
    np.testing.assert_array_equal(few.X_test, whole.X_test)
    pair = load(path, classes=("2", "0"))
    np.testing.assert_array_equal(pair.X_test, whole.X_test[whole.y_test != 1])
    assert set(pair.X_train[pair.y_train == 0, 0] % 3) == {2}


def test_regression_split_and_max_rows(tmp_path):
    path = labelled(tmp_path / "a.npz", np.linspace(0, 1, 10))
    got = load(path, regression=True, max_rows=4)
    assert (got.X_train.shape, got.X_test.shape) == ((4, 1), (2, 1))
    np.testing.assert_array_equal(got.y_train, np.linspace(0, 1, 10)[got.X_train[:, 0]])


def test_no_row_left_for_the_test_part(tmp_path):
    with pytest.raises(UsageError, match=r"test part of a.npz must have at least one row, got none"):
        load(labelled(tmp_path / "a.npz", [0, 1]))


def test_all_rows_may_be_for_training(tmp_path):
    got = load(labelled(tmp_path / "a.npz", [0, 1]), test_fraction=0)
    assert got.y_train.tolist() == [0, 1]
    assert got.X_test.shape == (0, got.X_train.shape[1])
    assert len(got.y_test) == 0
    given = {"X_train": np.eye(2), "y_train": [0, 1], "X_test": np.ones((3, 2)), "y_test": [1, 0, 0]}
    np.savez(tmp_path / "b.npz", **given)
    assert len(load(str(tmp_path / "b.npz"), test_fraction=0).y_test) == 3, "a test part that is there stays"


def test_labels_of_minus_one_and_one_start_with_the_negative(tmp_path):
    got = load(labelled(tmp_path / "a.npz", [1, -1] * 10))
    assert got.classes == ("-1", "1")
    assert set(got.y_train[got.X_train[:, 0] % 2 == 1]) == {0}


def test_test_part_of_the_file_is_used(tmp_path):
    parts = {"X_train": np.eye(4), "y_train": [0, 1, 0, 2], "X_test": np.ones((3, 4)), "y_test": [1, 2, 0]}
    got = load(save(tmp_path / "a.npz", **parts), classes=("2", "1"))
    assert got.X_train.tolist() == np.eye(4)[[1, 3]].tolist()
    assert (got.y_train.tolist(), got.y_test.tolist()) == ([1, 0], [1, 0])
    with pytest.raises(UsageError, match=r'class "3" must have a training row'):
        load(save(tmp_path / "b.npz", **parts | {"y_test": [1, 2, 3]}))
    with pytest.raises(UsageError, match="must have 4 columns, got 2"):
        load(save(tmp_path / "c.npz", **parts | {"X_test": np.ones((3, 2))}))
    numbers = load(save(tmp_path / "d.npz", **parts | {"y_test": [0.5, 2, 3]}), regression=True)
    assert numbers.y_test.tolist() == [0.5, 2, 3]
