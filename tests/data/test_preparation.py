"""One preparation of columns: as scikit-learn's, from training rows, sums or bounds, and plain data."""

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Lasso, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, OneHotEncoder, StandardScaler

from fedmpi.data import Preparation, Table, load
from fedmpi.data.column import Column
from fedmpi.errors import UsageError

RNG = np.random.default_rng(5)


def numbers(rows=200, missing=0.0):
    X = RNG.normal([40, 5e4, 1.6e9, -3], [15, 2e4, 1e6, 1e-3], (rows, 4))
    X[RNG.random(X.shape) < missing] = np.nan
    return Table(X, ("age", "income", "time", "x"))


def mixed(rows=200):
    X = np.column_stack([RNG.normal(size=rows), RNG.integers(0, 3, rows), RNG.integers(5, 9, rows)]).astype(float)
    X[:3, 1] = range(3)
    return Table(X, ("a", "job", "b"), {1: ("smith", "cook", "nurse")})


# ------------------------------------------------------------------ as scikit-learn


@pytest.mark.parametrize(("scale", "scaler"), [("standard", StandardScaler()), ("maxabs", MaxAbsScaler())])
@pytest.mark.parametrize("impute", [None, "mean", "median", "most_frequent"])
def test_numbers_as_scikit_learn(scale, scaler, impute):
    train, test = numbers(missing=0.2 if impute else 0), numbers(50, missing=0.2 if impute else 0)
    made = Preparation.fit(train, scale=scale, impute=impute)
    theirs = make_pipeline(SimpleImputer(strategy=impute or "mean"), scaler).fit(train.X)
    for table in (train, test):
        np.testing.assert_allclose(made.apply(table), theirs.transform(table.X), rtol=1e-9, atol=1e-7)


def test_categories_as_scikit_learn():
    train, test = mixed(), mixed(30)
    made = Preparation.fit(train)
    as_text = [
        np.column_stack([t.X.astype(object), np.array(t.values[1], object)[t.X[:, 1].astype(int)]])
        for t in (train, test)
    ]
    theirs = ColumnTransformer(
        [("a", StandardScaler(), [0]), ("job", OneHotEncoder(sparse_output=False), [3]), ("b", StandardScaler(), [2])]
    ).fit(as_text[0])
    np.testing.assert_allclose(made.apply(test), theirs.transform(as_text[1]).astype(float), atol=1e-12)
    assert made.names == ("a", "job=cook", "job=nurse", "job=smith", "b")


def test_float32_is_float64_rounded_once():
    table = numbers()
    made = Preparation.fit(table)
    assert (made.apply(table, np.float32) == made.apply(table).astype(np.float32)).all()


def test_integers_are_numbers_like_others():
    X = RNG.integers(0, 1000, (100, 3))
    one, two = (Preparation.fit(Table(a, ("a", "b", "c"))) for a in (X, X.astype(float)))
    assert one == two
    assert one.apply(Table(X, ("a", "b", "c"))).dtype == np.float64


# ------------------------------------------------------------------ what it is fitted on, and what it is applied to


def test_statistics_come_from_the_training_rows_only(tmp_path):
    # the test rows are a thousand times as far away, and have a category of their own
    X = np.r_[RNG.normal(size=100), 1000 * RNG.normal(size=50)]
    y = np.arange(150) % 2
    np.savez(tmp_path / "a.npz", X_train=X[:100, None], y_train=y[:100], X_test=X[100:, None], y_test=y[100:])
    data = load(str(tmp_path / "a.npz"), scale="standard")
    np.testing.assert_allclose([data.X_train.mean(), data.X_train.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(data.X_test[:, 0], (X[100:] - X[:100].mean()) / X[:100].std())


def test_columns_are_found_by_name_and_text_by_value():
    train = mixed()
    made = Preparation.fit(train)
    codes = np.array([2.0, 0.0, 1.0])
    other = Table(
        np.column_stack([train.X[:3, 2], codes, np.ones(3), train.X[:3, 0]]),
        ("b", "job", "more", "a"),
        {1: ("baker", "nurse", "cook")},
    )
    got = made.apply(other)
    assert got[:, 1:4].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]  # nobody was a baker
    np.testing.assert_array_equal(got[:, [0, 4]], made.apply(train)[:3, [0, 4]])
    with pytest.raises(UsageError, match='must have the column "a", got "b"'):
        made.apply(Table(np.ones((1, 1)), ("b",)))
    with pytest.raises(UsageError, match='column "job" must hold text, got numbers'):
        made.apply(Table(train.X, train.names))


def test_missing_values():
    table = numbers(missing=0.1)
    with pytest.raises(UsageError, match=r'column "age" must have no missing values, got .* in 200 rows: fill them in'):
        Preparation.fit(table)
    made = Preparation.fit(numbers())
    with pytest.raises(UsageError, match="must have no missing values, got some"):
        made.apply(table)
    text = Table(np.array([[0.0], [1], [1], [np.nan]]), ("job",), {0: ("a", "b")})
    assert Preparation.fit(text, impute="mean").apply(text).tolist() == [[1, 0], [0, 1], [0, 1], [0, 1]]
    with pytest.raises(UsageError, match="must have no missing values"):
        Preparation.fit(text)


def test_constants_are_left_out_with_a_line():
    X = np.column_stack([np.arange(10.0), np.full(10, 7.7), np.full(10, np.nan), np.zeros(10)])
    table = Table(X, ("a", "same", "none", "job"), {3: ("cook",)})
    made = Preparation.fit(table, impute="mean")
    assert made.names == ("a",)
    assert made.notes == ('3 columns are the same in all training rows and left out: "same", "none", "job"',)
    with pytest.raises(UsageError, match="some column must differ between rows, got 1 constant columns"):
        Preparation.fit(Table(np.ones((3, 1)), ("a",)))
    kept = Preparation.fit(Table(X[:, :2], ("a", "same")), drop_constants=False)
    assert np.isfinite(kept.apply(Table(X[:, :2], ("a", "same")))).all()


def test_images_keep_their_pixels(tmp_path):
    X = RNG.integers(0, 9, (20, 2, 2)).astype(np.uint8)
    X[:, 0, 0] = 0
    np.savez(tmp_path / "a.npz", X=X, y=np.arange(20) % 2)
    data = load(str(tmp_path / "a.npz"), scale="maxabs")
    assert (data.X_train.shape[1], data.shape) == (4, (1, 2, 2))


def test_outliers_are_cut_off_where_that_is_asked_for():
    X = RNG.normal(size=(100, 2))
    X[7, 0] = 99999
    made = Preparation.fit(Table(X, ("a", "b")), cut=5)
    assert made.apply(Table(X, ("a", "b")))[:, 0].max() < 10
    assert made.notes == ('outliers are cut off in 1 of 2 columns: "a"',)
    assert made.columns[1].upper == np.inf
    rare = np.zeros((100, 1))
    rare[:3] = 1
    assert not Preparation.fit(Table(rare, ("a",)), cut=5).columns[0].is_cut  # 3 of 100 are no mistake


def test_sparse_stays_sparse():
    X = csr_matrix(np.where(RNG.random((50, 6)) < 0.2, RNG.normal(size=(50, 6)), 0))
    table = Table(X, tuple("abcdef"))
    for scale, scaler in (("maxabs", MaxAbsScaler()), ("standard", StandardScaler(with_mean=False))):
        got = Preparation.fit(table, scale=scale).apply(table)
        assert got.nnz == X.nnz
        np.testing.assert_allclose(got.toarray(), scaler.fit_transform(X).toarray(), atol=1e-12)
    with pytest.raises(UsageError, match="moves nothing"):
        Preparation.fit(Table(X.toarray(), table.names)).apply(table)
    with pytest.raises(UsageError, match="without cut and impute"):
        Preparation.fit(table, cut=3)


# ------------------------------------------------------------------ from outside


def moments(parts, shift):
    """What each participant adds to the sum."""
    found = [part - shift for part in parts]
    there = [~np.isnan(part) for part in found]
    return (
        sum(one.sum(axis=0) for one in there),
        sum(np.where(one, part, 0).sum(axis=0) for one, part in zip(there, found, strict=True)),
        sum(np.where(one, part * part, 0).sum(axis=0) for one, part in zip(there, found, strict=True)),
    )


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_sums_of_many_participants_give_what_one_place_would_see(missing):
    table = numbers(missing=missing)
    shift = np.array([0, 0, 1.6e9, 0])
    impute = "mean" if missing else None
    made = Preparation.from_moments(
        table.names, 200, *moments(np.array_split(table.X, 7), shift), shift=shift, impute=impute
    )
    np.testing.assert_allclose(
        made.apply(table), Preparation.fit(table, impute=impute).apply(table), rtol=1e-6, atol=1e-6
    )


def test_moments_know_constants_and_categories():
    X = np.column_stack([np.arange(10.0), np.full(10, 0.1), np.arange(10) % 2])
    made = Preparation.from_moments(("a", "same", "job"), 10, *moments([X], 0), values={2: ("x", "y")})
    assert made.names == ("a", "job=x", "job=y")


@pytest.mark.parametrize(
    ("count", "total", "square", "message"),
    [
        (11, 1, 1, "must be of 0 to 10 values, got 11"),
        (10, 1, -1, "must be of 0 to 10 values"),
        (9, 1, 1, "no missing values, got 1 in 10 rows"),
        (10, 100, 10, "must be those of values with this sum"),
        (10, np.nan, 1, "sums of the moments must be finite, got nan"),
    ],
)
def test_sums_of_no_rows_are_refused(count, total, square, message):
    with pytest.raises(UsageError, match=message):
        Preparation.from_moments(("a",), 10, count, total, square)


def test_public_bounds():
    made = Preparation.from_bounds(("age", "job"), [0, 0], [100, 0], values={1: ("x", "y")}, classes=("no", "yes"))
    table = Table(np.array([[0, 0], [50, 1], [1000, np.nan]]), ("age", "job"), {1: ("y", "x")})
    assert made.apply(Table(table.X[:2], table.names, table.values)).tolist() == [[-1, 0, 1], [0, 1, 0]]
    assert made.apply(Table(np.array([[1000, 0.0]]), table.names, table.values))[0, 0] == 1
    with pytest.raises(UsageError, match='bounds of column "age" must be finite and rise, got 1 to 1'):
        Preparation.from_bounds(("age",), 1, 1)


def test_a_public_file(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.csv").write_text("age,job,y\n" + "".join(f"{k},{'xz'[k % 2]},{k % 2}\n" for k in range(20)))
    (tmp_path / "s.json").write_text(Preparation.from_bounds(("age", "job"), 0, 100, values={1: ("x", "z")}).to_json())
    data = load(str(tmp_path / "t.csv"), statistics=tmp_path / "s.json")
    assert data.X_train.shape == (16, 3)
    assert data.X_train[:, 0].max() < 0
    with pytest.raises(UsageError, match="statistics must be a readable file"):
        load(str(tmp_path / "t.csv"), statistics=tmp_path / "none.json")
    with pytest.raises(UsageError, match="one of prepare=False, statistics, or scale and impute"):
        load(str(tmp_path / "t.csv"), statistics=tmp_path / "s.json", scale="standard")


# ------------------------------------------------------------------ plain data


def test_json_keeps_every_bit():
    made = Preparation.fit(mixed(), cut=5, classes=("no", "yes"))
    again = Preparation.from_json(made.to_json())
    assert again == made
    assert again.apply(mixed()).shape == (200, 5)
    assert json.loads(made.to_json())["columns"][1] == {"name": "job", "values": ["cook", "nurse", "smith"]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "columns": [], "classes": [], "notes": []}',
        '{"format": 1, "columns": [{"name": "a", "dropped": true}], "classes": [], "notes": []}',
        '{"format": 1, "columns": [{"name": "a"}, {"name": "a"}], "classes": [], "notes": []}',
        '{"format": 1, "columns": [{"name": "a"}], "classes": "ab", "notes": []}',
        *(
            f'{{"format": 1, "classes": [], "notes": [], "columns": [{{"name": "a", {more}}}]}}'
            for more in (
                '"deviation": 0',
                '"deviation": -1',
                '"deviation": "1"',
                '"deviation": true',
                '"deviation": 1e999',
                '"mean": NaN',
                '"mean": null',
                '"mean": 1' + "0" * 400,
                '"lower": 2, "upper": 1',
                '"fill": "x"',
                '"fill": NaN',
                '"values": ["a", "a"]',
                '"values": ["a", 1]',
                '"values": ["a"], "fill": "b"',
                '"dropped": 1',
                '"more": 1',
            )
        ),
        '{"format": 1, "columns": [{"name": 7}], "classes": [], "notes": []}',
        "[" * 100_000,
    ],
)
def test_json_of_strangers(text):
    with pytest.raises(UsageError) as e:
        Preparation.from_json(text)
    assert "\n" not in str(e.value)


def test_arguments():
    table = numbers(10)
    for kwargs, message in (
        ({"scale": "log"}, "scale must be one of none, standard, maxabs, got log"),
        ({"impute": "zero"}, "impute must be one of mean, median, most_frequent, got zero"),
        ({"cut": -1}, "cut must be at least 0, got -1"),
    ):
        with pytest.raises(UsageError, match=message):
            Preparation.fit(table, **kwargs)
    with pytest.raises(UsageError, match="must have rows to look at"):
        Preparation.fit(Table(np.empty((0, 1)), ("a",)))
    with pytest.raises(UsageError, match='column "a" must be finite, got inf'):
        Preparation.fit(Table(np.array([[np.inf], [1]]), ("a",)))
    with pytest.raises(UsageError, match="impute must be mean where only sums are known, got median"):
        Preparation.from_moments(("a",), 1, 1, 1, 1, impute="median")
    assert Column("a").deviation == 1


# ------------------------------------------------------------------ tables that trained to chance


def test_ages_and_incomes_are_learnt(tmp_path):
    # 600 people: a plain model on raw columns of such sizes is chance for systems that share one scale
    age, income = RNG.uniform(20, 90, 600).round(1), RNG.normal(5e4, 1e4, 600).round()
    lines = [f"{a},{int(i)},{'old' if a > 55 else 'young'}\n" for a, i in zip(age, income, strict=True)]
    (tmp_path / "a.csv").write_text("age,income,state\n" + "".join(lines))
    data = load(str(tmp_path / "a.csv"), scale="standard")
    assert np.abs(data.X_train).max() < 6
    assert LogisticRegression(C=100).fit(data.X_train, data.y_train).score(data.X_test, data.y_test) >= 0.98


def test_one_typo_leaves_the_other_columns_alone(tmp_path):
    X = RNG.normal(size=(200, 5))
    y = (X[:, 0] - X[:, 1] > 0).astype(int)
    X[11, 4] = 99999
    np.savez(tmp_path / "a.npz", X=X, y=y)
    data = load(str(tmp_path / "a.npz"), scale="standard")
    assert LogisticRegression(C=100).fit(data.X_train, data.y_train).score(data.X_test, data.y_test) >= 0.9


def test_a_column_of_unix_times(tmp_path):
    X = np.column_stack([RNG.normal(size=(300, 3)), 1.6e12 + 864e5 * np.arange(300)])
    np.savez(tmp_path / "a.npz", X=X, y=X[:, :3] @ [30, -20, 5] + RNG.normal(size=300))
    data = load(str(tmp_path / "a.npz"), scale="standard", regression=True)
    assert Lasso(alpha=0.1).fit(data.X_train, data.y_train).score(data.X_test, data.y_test) > 0.99
    assert data.preparation.columns[3].deviation == pytest.approx(864e5 * 300 / 12**0.5, rel=0.05)
