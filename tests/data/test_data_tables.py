"""Tables as people have them: spreadsheets, Parquet and Feather, ARFF, LIBSVM, .npy pairs, folders of images."""

import bz2
import gzip
import lzma
import zipfile

import numpy as np
import pytest

from fedmpi.data import builder, dataset, load, table
from fedmpi.data.files import read_svm
from fedmpi.errors import UsageError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")


RNG = np.random.default_rng(7)


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


def whole(data):
    """All rows in the order of the first feature, with the names of their classes."""
    X = np.concatenate([data.X_train, data.X_test])
    y = np.concatenate([data.y_train, data.y_test])
    order = X[:, 0].argsort(kind="stable")
    return X[order].tolist(), [data.classes[k] for k in y[order]] if data.classes else y[order].tolist()


def rows(count, line):
    return "".join(line(k) + "\n" for k in range(count))


# ------------------------------------------------------------------ CSV


def test_a_german_spreadsheet(tmp_path):
    text = "\ufeff\r\nAlter;Größe;krank\r\n" + "".join(
        f'{k};"{k},25";{"ja" if k % 2 else "nein"}\r\n\r\n' for k in range(10)
    )
    data = load(write(tmp_path / "a.csv", text + ";;\r\n;;\r\n"))
    assert whole(data) == ([[k, k + 0.25] for k in range(10)], ["nein", "ja"] * 5)
    assert data.columns == ("Alter", "Größe")


def test_decimal_commas_without_a_header(tmp_path):
    assert whole(load(write(tmp_path / "a.csv", rows(10, lambda k: f"{k},5;{k % 2}"))))[0] == [
        [k + 0.5] for k in range(10)
    ]


@pytest.mark.parametrize("end", [".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip", ".tsv", ".tsv.bz2", ".CSV"])
def test_packed(tmp_path, end):
    separator = "\t" if "tsv" in end else ","
    raw = ("a,b,y\n" + rows(10, lambda k: f"{k},{k * k},{k % 2}")).replace(",", separator).encode()
    path = tmp_path / f"t{end}"
    if end.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.csv", raw)
    else:
        pack = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
        path.write_bytes(pack(raw))
    assert whole(load(str(path))) == ([[k, k * k] for k in range(10)], ["0", "1"] * 5)


def test_a_zip_of_two_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("b", "1")
    with pytest.raises(UsageError, match="must hold one file, got 2"):
        load(str(tmp_path / "t.csv.zip"))


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_an_index_without_a_name_is_no_feature(tmp_path, name):
    data = load(write(tmp_path / "a.csv", f"{name},a,y\n" + rows(10, lambda k: f"{k},{k * 3},{k % 2}")))
    assert whole(data)[0] == [[3 * k] for k in range(10)]
    assert data.columns == ("a",)
    (note,) = data.notes
    assert "the first column has no name and was taken for numbers of rows and left out" in note


def test_names_of_rows_as_r_writes_them(tmp_path):
    data = load(write(tmp_path / "a.csv", "a,y\n" + rows(10, lambda k: f'"car {k}",{k * 3},{k % 2}')))
    assert data.columns == ("a",)
    assert len(data.notes) == 1


def test_a_table_of_text_without_names(tmp_path):
    data = load(write(tmp_path / "a.csv", rows(20, lambda k: f"{'xz'[k // 2 % 2]},{'uv'[k // 4 % 2]},{'ab'[k % 2]}")))
    assert len(data.y_train) + len(data.y_test) == 20
    assert data.columns == ("0=x", "0=z", "1=u", "1=v")


def test_names_of_several_lines_and_lines_that_end_in_other_ways(tmp_path):
    text = '\ufeff"a\nin cm",b,y\n' + rows(10, lambda k: f"{k},{k},{k % 2}")
    assert load(write(tmp_path / "a.csv", text)).columns == ("a in cm", "b")
    for end in ("\r", "\r\n"):
        data = load(
            write(
                tmp_path / "b.csv", "\ufeffa,y\n".replace("\n", end) + "".join(f"{k},{k % 2}{end}" for k in range(10))
            )
        )
        assert whole(data) == ([[k] for k in range(10)], ["0", "1"] * 5)
    assert len(whole(load(write(tmp_path / "c.csv", "\ufeff" + rows(10, lambda k: f"{k}.5,{k % 2}"))))[0]) == 10


def test_a_wide_table(tmp_path):
    X = np.arange(40 * 3000).reshape(40, 3000) + 0.5
    data = load(write(tmp_path / "a.csv", rows(40, lambda k: ",".join(map(str, X[k])) + f",{k % 2}")))
    assert whole(data)[0] == X.tolist()


def test_an_empty_column_at_the_end(tmp_path):
    data = load(write(tmp_path / "a.csv", "a;y;\n" + rows(10, lambda k: f"{k};{k % 2};")))
    assert whole(data) == ([[k] for k in range(10)], ["0", "1"] * 5)


@pytest.mark.parametrize("first", ["0,1,2", "1,2,3", "2010,2011,y", "age,NA,y"])
def test_headers_with_numbers(tmp_path, first):
    data = load(write(tmp_path / "a.csv", first + "\n" + rows(10, lambda k: f"{k},{k / 7:.4f},{k % 2}")))
    assert len(data.y_train) + len(data.y_test) == 10


def test_a_year_as_a_name_between_columns_of_text(tmp_path):
    text = rows(20, lambda k: f"{'xz'[k % 2]},{k},{'ab'[k // 2 % 2]}")
    assert load(write(tmp_path / "a.csv", "kind,2001,y\n" + text)).columns == ("kind=x", "kind=z", "2001")
    assert load(write(tmp_path / "b.csv", text)).columns == ("0=x", "0=z", "1")


def test_a_first_row_that_counts_is_no_header_above_its_like(tmp_path):
    data = load(write(tmp_path / "a.csv", rows(10, lambda k: f"{k},{k + 1},{k + 2}")), regression=True)
    assert len(whole(data)[0]) == 10


def test_labels_never_go_through_floats(tmp_path):
    ids = ["12345678901234567", "12345678901234568", "-3"]
    data = load(write(tmp_path / "a.csv", "a,id\n" + rows(30, lambda k: f"{k},{ids[k % 3]}")))
    assert data.classes == ("-3", "12345678901234567", "12345678901234568")
    assert whole(data)[1] == ids * 10


def test_labels_that_only_look_like_numbers_are_text(tmp_path):
    data = load(write(tmp_path / "a.csv", "a,zip\n" + rows(20, lambda k: f"{k},{('01234', '1234')[k % 2]}")))
    assert data.classes == ("01234", "1234")
    big = ("99999999999999999998", "99999999999999999999")
    assert load(write(tmp_path / "b.csv", "a,y\n" + rows(20, lambda k: f"{k},{big[k % 2]}"))).classes == big
    assert load(write(tmp_path / "c.csv", "a,y\n" + rows(20, lambda k: f"{k},{k % 2}.0"))).classes == ("0", "1")


def test_text_becomes_categories(tmp_path):
    jobs = ("cook", " nurse", "smith ")
    data = load(write(tmp_path / "a.csv", "a, job,y\n" + rows(30, lambda k: f"{k},{jobs[k % 3]},{k % 2}")))
    assert data.columns == ("a", "job=cook", "job=nurse", "job=smith")
    assert whole(data)[0] == [[k, *np.eye(3)[k % 3]] for k in range(30)]
    assert data.preparation.names == data.columns


def test_numbers_that_are_categories(tmp_path):
    path = write(tmp_path / "a.csv", "a,area,y\n" + rows(30, lambda k: f"{k},{k % 3 + 7},{k % 2}"))
    data = load(path, categorical=["area"])
    assert data.columns == ("a", "area=7", "area=8", "area=9")
    with pytest.raises(UsageError, match="categorical must be one of a, area, y, got x"):
        load(path, categorical=["x"])


def test_rows_without_preparation(tmp_path):
    data = load(
        write(
            tmp_path / "a.csv",
            "a,job,y\n" + rows(20, lambda k: f"{k if k % 4 else '?'},{'xyNA'[k % 2 * 2 :][:2]},{k % 2}"),
        ),
        prepare=False,
    )
    assert data.values == {1: ("xy",)}
    assert np.isnan(data.X_train).any(axis=0).all()
    assert data.preparation is None


@pytest.mark.parametrize("missing", sorted(table.MISSING))
def test_missing_values(tmp_path, missing):
    path = write(
        tmp_path / "a.csv", "a,b,y\n" + rows(20, lambda k: f"{k},{missing if k == 7 else 5 + k % 2},{k % 3 % 2}")
    )
    with pytest.raises(UsageError, match=r'column "b" of a.csv must have no missing values, got one in line 9: fill'):
        load(path)
    data = load(path, impute="most_frequent")
    assert not np.isnan(data.X_train).any()
    assert whole(data)[0][7] in ([7, 5], [7, 6])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,a,y\n1,2,0\n", 'column names of .*a.csv must differ, got "a" twice'),
        ("a,when,y\n1,2024-02-03,0\n", 'column "when" of .* got the date "2024-02-03" in line 2: make a number of it'),
        ("a,when,y\n1,3.2.2024 12:00,0\n", "got the date"),
        ("a,when,y\n1,12:30,0\n", 'got the date "12:30"'),
        ('a,pay,y\n1,"1,234",0\n1,x,1\n', 'without thousands and units, got "1,234" in line 2'),
        ("a,pay,y\n1,$5,0\n1,x,1\n", 'without thousands and units, got "\\$5"'),
        ("a;pay;y\n1,5;1.234,56;0\n", 'without thousands and units, got "1.234,56"'),
        ("a,b,y\n\n1,2,0\n\n1,x,1\n", 'column "b" .* only numbers or only text, got "2" in line 3 and "x" in line 5'),
        ("a,b,y\n" + "1,2,0\n" * 600 + "1,x,1\n", 'column "b" .* must hold numbers, got "x" in line 602: correct it'),
        ("a,b,y\n" + "1,2,0\n" * 600 + "1,2\n", "must have 3 cells in each line, got 2 in line 602"),
        ("a,b,y\n" + "1,2,0\n" * 600 + "1,2,3,4\n", "got 4 in line 602"),
        ("a,b,y\n1,2,0\n1,3,inf\n", 'column "y" of .* must be finite, got "inf" in line 3'),
        ("a,b,y\n1,2,0\n1,3,\n", 'column "y" of .* must have no missing values, got one in line 3'),
        ("a,b,y\n1,1e999,0\n", 'column "b" of a.csv must be finite, got inf in line 2'),
        (",Unnamed: 1\n1,2\n", "only columns to leave out"),
        (",y\n1,2\n", "at least one feature column"),
        ("a,y\n" + "1" * 40_000_000, "must have fewer than 32 Mi characters"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as e:
        load(write(tmp_path / "a.csv", text))
    assert "\n" not in str(e.value)


def test_too_many_categories(tmp_path):
    path = write(tmp_path / "a.csv", "a,name,y\n" + rows(300, lambda k: f"{k},n{k},{k % 2}"))
    with pytest.raises(UsageError, match=r'column "name" .* at most 200 values to become categories, got 300'):
        load(path)
    assert load(path, categorical=["name"]).X_train.shape[1] > 200


def test_numbers_are_read_to_the_last_bit_with_pyarrow_and_without(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(300, 4)) * 10.0 ** np.arange(-150, 150)[:, None]
    path = write(
        tmp_path / "a.csv", "".join(",".join(map(repr, row.tolist())) + f",{k % 2}\n" for k, row in enumerate(X))
    )
    one = load(path)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    two = load(path)
    assert one.X_train.tobytes() == two.X_train.tobytes()
    assert {row.tobytes() for row in (*one.X_train, *one.X_test)} == {row.tobytes() for row in X}


@pytest.mark.parametrize("line", ["1,cook,0", "1,?,0"])
def test_what_needs_pyarrow_says_so(tmp_path, monkeypatch, line):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        UsageError, match=r'"job" .* in line 2: text and missing values need pyarrow: pip install "fedmpi'
    ):
        load(write(tmp_path / "a.csv", f"a,job,y\n{line}\n"))
    with pytest.raises(UsageError, match="pyarrow must be installed"):
        load(write(tmp_path / "a.parquet", ""))


def test_a_table_is_no_image_and_an_image_says_its_shape(tmp_path):
    path = write(tmp_path / "a.csv", rows(10, lambda k: f"{k}.5,2,3,4,{k % 2}"))
    assert load(path).shape == ()
    assert load(path, image_shape=(1, 2, 2)).shape == (1, 2, 2)
    with pytest.raises(UsageError, match=r"of 4 features, got \(3, 2, 2\)"):
        load(path, image_shape=(3, 2, 2))
    assert load("digits").shape == (1, 8, 8)


def test_the_size_is_limited_while_a_file_is_unpacked(tmp_path, monkeypatch):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"1,2,0\n" * 140_000))
    monkeypatch.setattr(dataset, "MAX_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="must fit in"):
        load(str(tmp_path / "a.csv.gz"))


# ------------------------------------------------------------------ a test file


def test_test_rows_from_their_own_file(tmp_path):
    train = write(tmp_path / "a.csv", "a,job,y\n" + rows(10, lambda k: f"{k},{'xz'[k % 2]},{k % 2}"))
    test = write(tmp_path / "b.csv", "y,job,more,a\n1,z,7,50\n0,new,7,51\n")
    data = load(train, test_file=test, label_column="y")
    assert data.X_train.tolist() == [[k, 1 - k % 2, k % 2] for k in range(10)]
    assert data.X_test.tolist() == [[50, 0, 1], [51, 0, 0]]
    with pytest.raises(UsageError, match='must have the columns of the training rows, got no "a"'):
        load(train, test_file=write(tmp_path / "c.csv", "job,b,y\nx,1,1\n"), label_column="y")
    with pytest.raises(UsageError, match=r'column "job" of .*d.csv must hold text, got numbers'):
        load(train, test_file=write(tmp_path / "d.csv", "job,a,y\n1,1,1\n"), label_column="y")
    with pytest.raises(UsageError, match="must be of the same kind"):
        load(train, test_file="x.svm")


def test_svm_test_file_base_and_number_of_features(tmp_path):
    train = write(tmp_path / "a.svm", "1 1:2 3:5\n-1 2:4\n")
    test = write(tmp_path / "t.svm", "1 4:7\n-1 1:1\n")
    data = load(train, test_file=test)
    assert data.X_train.tolist() == [[2, 0, 5, 0], [0, 4, 0, 0]]
    assert data.X_test.tolist() == [[0, 0, 0, 7], [1, 0, 0, 0]]
    assert load(train, test_file=test, features=6).X_test.shape == (2, 6)
    assert load(train, test_file=test, index_base=0).X_train.tolist() == [[0, 2, 0, 5, 0], [0, 0, 4, 0, 0]]
    X, _ = read_svm(tmp_path / "a.svm", sparse=True)
    assert X.nnz == 3
    with pytest.raises(UsageError, match="index_base must be 0 or 1, got 2"):
        load(train, test_file=test, index_base=2)
    with pytest.raises(UsageError, match=r"features must be given for \.svm files only"):
        load(write(tmp_path / "a.csv", "1,2,3\n"), features=3)


# ------------------------------------------------------------------ Parquet, Feather, ARFF


@pytest.fixture(params=["parquet", "feather"])
def save(request, tmp_path):
    def to_file(columns, **names):
        made = pa.table(columns)
        path = tmp_path / f"a.{request.param}"
        parquet.write_table(made, path) if request.param == "parquet" else feather.write_feather(made, path)
        return str(path)

    return to_file


def test_columns_of_every_type(save):
    path = save(
        {
            "k": pa.array(range(20), pa.int16()),
            "half": pa.array([k / 2 for k in range(20)], pa.float32()),
            "flag": pa.array([k % 3 == 0 for k in range(20)]),
            "digits": pa.array([str(k) for k in range(20)]),
            "job": pa.array(["cook", "nurse"] * 10),
            "y": pa.array([2**60 + k % 2 for k in range(20)]),
        }
    )
    data = load(path)
    assert data.columns == ("k", "half", "flag", "digits", "job=cook", "job=nurse")
    assert whole(data)[0] == [[k, k / 2, k % 3 == 0, k, 1 - k % 2, k % 2] for k in range(20)]
    assert data.classes == (str(2**60), str(2**60 + 1))


def test_a_null_among_categories_is_missing_and_never_another_category(save, monkeypatch):
    # several chunks with dictionaries of their own: `to_numpy` of the column gives nulls the last category of all
    monkeypatch.setattr("fedmpi.data.arrow.ROWS", 8)
    chunks = [pa.array([["25", "30"], ["30", "7"]][c][k % 2] if k % 5 else None for k in range(10)) for c in (0, 1)]
    job = pa.chunked_array([chunk.dictionary_encode() for chunk in chunks])
    truth = [value for chunk in chunks for value in chunk.to_pylist()]
    path = save({"k": pa.array(range(20)), "grade": job, "y": pa.array([0, 1] * 10)})
    with pytest.raises(UsageError, match=r'column "grade" of .* must have no missing values, got one in row 0'):
        load(path)
    data = load(path, prepare=False)
    X = np.concatenate([data.X_train, data.X_test])
    X = X[X[:, 0].argsort(), 1]
    got = X.tolist() if 1 not in data.values else [None if x != x else data.values[1][int(x)] for x in X]
    assert [None if x is None or x != x else str(int(float(x))) for x in got] == truth


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us")])
def test_dates_are_refused(save, kind):
    path = save({"when": pa.array([1, 2], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind), "y": [0, 1]})
    with pytest.raises(UsageError, match=r'column "when" of .* got dates or times'):
        load(path)


def test_other_columns_are_refused_or_left_out(save):
    with pytest.raises(UsageError, match=r'column "a" of .* must hold numbers or text, got list'):
        load(save({"a": [[1], [2]], "y": [0, 1]}))
    data = load(save({"__index_level_0__": range(10), "a": range(10), "y": [0, 1] * 5}))
    assert data.columns == ("a",)


def test_an_index_of_pandas_after_the_columns(save):
    data = load(save({"a": range(10), "y": [0, 1] * 5, "__index_level_0__": range(100, 110)}))
    assert (data.columns, data.classes) == (("a",), ("0", "1"))


def test_a_parquet_file_says_its_size_before_it_is_read(tmp_path, monkeypatch):
    parquet.write_table(pa.table({"a": np.zeros(100_000), "y": np.zeros(100_000)}), tmp_path / "a.parquet")
    monkeypatch.setattr(dataset, "MAX_BYTES", 100_000)
    monkeypatch.setattr(builder.Builder, "add", None)
    with pytest.raises(UsageError, match=r"must fit in .* got 100000 x 1"):
        load(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arff", "a.npy", "X.npy"])
def test_files_that_are_none(tmp_path, name):
    for text in ("", "no such thing at all\n" * 10):
        with pytest.raises(UsageError):
            load(write(tmp_path / name, text))


@pytest.mark.parametrize("end", ["csv.xz", "csv.zip", "tsv.gz", "parquet", "feather"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_torn_files(tmp_path, end, keep):
    path = tmp_path / f"a.{end}"
    made = pa.table({"a": RNG.normal(size=3000), "job": ["cook", "nurse", "smith"] * 1000, "y": [0, 1] * 1500})
    text = "".join(f"{a}\t{b}\t{y}\n" for a, b, y in zip(*made.to_pydict().values(), strict=True)).encode()
    if end == "csv.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.csv", text)
    elif end in ("parquet", "feather"):
        parquet.write_table(made, path) if end == "parquet" else feather.write_feather(made, path)
    else:
        path.write_bytes(lzma.compress(text) if end == "csv.xz" else gzip.compress(text))
    whole_file = path.read_bytes()
    assert load(str(path)).X_train.shape[1] == 4
    path.write_bytes(whole_file[: int(keep * len(whole_file))])
    with pytest.raises(UsageError, match=path.name):
        load(str(path))


@pytest.mark.parametrize("end", ["parquet", "feather"])
def test_damaged_files_end_in_one_line_or_in_a_table(tmp_path, end):
    path = tmp_path / f"a.{end}"
    made = pa.table({"a": RNG.normal(size=60), "job": pa.array(["cook", "nurse", "smith"] * 20), "y": [0, 1] * 30})
    made = made.append_column("kind", made["job"].dictionary_encode())
    if end == "parquet":
        parquet.write_table(made, path)
    else:
        feather.write_feather(made, path, compression="uncompressed")
    whole_file = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole_file)
        for place in RNG.integers(0, len(damaged), 3):
            damaged[place] = RNG.integers(0, 256)
        path.write_bytes(damaged)
        try:
            load(str(path), label_column="y", impute="mean", scale="maxabs")
        except UsageError as error:
            assert "\n" not in str(error)


def test_arff(tmp_path):
    head = "@relation r\n@attribute a numeric\n@attribute job {cook,nurse}\n@attribute y {0,1}\n@data\n"
    path = write(tmp_path / "a.arff", head + rows(20, lambda k: f"{k},{('cook', 'nurse')[k % 2]},{k % 2}"))
    data = load(path)
    assert data.columns == ("a", "job=cook", "job=nurse")
    assert whole(data)[1] == ["0", "1"] * 10
    with pytest.raises(UsageError, match=r'column "job" of .* must have no missing values, got one in row 1'):
        load(write(tmp_path / "b.arff", head + "1,cook,1\n2,?,0\n"))
    with pytest.raises(UsageError, match="must be numbers or nominal"):
        load(write(tmp_path / "c.arff", head.replace("numeric", "string") + "x,cook,1\n"))
    with pytest.raises(UsageError, match=r'column "a" of .* got type date'):
        load(write(tmp_path / "d.arff", head.replace("numeric", 'date "yyyy-MM-dd"') + "2020-01-02,cook,1\n"))


# ------------------------------------------------------------------ numpy files, folders of images


def test_own_test_part_of_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.eye(4), y=[[0], [1], [0], [1]], X_test=np.ones((2, 4)), y_test=[1, 0])
    data = load(str(tmp_path / "a.npz"))
    assert data.X_train.shape == (4, 4)
    assert (data.y_train.tolist(), data.y_test.tolist()) == ([0, 1, 0, 1], [1, 0])
    np.savez(tmp_path / "b.npz", X=np.eye(4), t=[0, 1, 0, 1], X_test=np.ones((2, 4)), t_test=[1, 0])
    assert load(str(tmp_path / "b.npz"), label_column="t").y_test.tolist() == [1, 0]
    data = load(str(tmp_path / "b.npz"), label_column="3", regression=True)
    assert (data.X_test.shape, data.y_test.tolist()) == ((2, 3), [1, 1])


def test_images_of_an_npz(tmp_path):
    X = np.arange(10 * 2 * 4 * 3, dtype=np.uint8).reshape(10, 2, 4, 3)
    np.savez(tmp_path / "a.npz", X=X, y=np.arange(10) % 2)
    data = load(str(tmp_path / "a.npz"))
    assert (data.shape, data.X_train.dtype) == ((3, 2, 4), np.uint8)
    assert {row.tobytes() for row in (*data.X_train, *data.X_test)} == {
        image.transpose(2, 0, 1).tobytes() for image in X
    }
    np.savez(tmp_path / "b.npz", X=X[..., 0], y=np.arange(10) % 2)
    assert load(str(tmp_path / "b.npz")).shape == (1, 2, 4)


def test_sizes_of_an_npz_are_looked_at_first(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((1000, 100)), y=np.zeros(1000))
    monkeypatch.setattr(dataset, "MAX_BYTES", 1000)
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(UsageError, match=r"X\.npy of .* must fit in"):
        load(str(tmp_path / "a.npz"))


def test_npy_pairs(tmp_path):
    for name, array in {
        "X_train": np.eye(4),
        "y_train": [0, 1, 0, 1],
        "X_test": np.ones((1, 4)),
        "y_test": [1],
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    data = load(str(tmp_path / "X_train.npy"))
    assert (data.X_train.tolist(), data.X_test.tolist()) == (np.eye(4).tolist(), [[1] * 4])
    (tmp_path / "y_test.npy").unlink()
    with pytest.raises(UsageError, match=r"got no .*y_test\.npy"):
        load(str(tmp_path / "X_train.npy"))
    np.save(tmp_path / "X.npy", np.array([None]))
    np.save(tmp_path / "y.npy", [0])
    with pytest.raises(UsageError, match=r"[Oo]bject"):
        load(str(tmp_path / "X.npy"))


def picture(path, pixels):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


def test_a_folder_of_images(tmp_path):
    for kind, red in (("cat", 200), ("dog", 100)):
        for k in range(5):
            picture(tmp_path / f"pets/{kind}/{k}.png", np.full((2, 3, 3), (red, k, 0)))
    data = load(str(tmp_path / "pets"))
    assert (data.shape, data.classes, data.name) == ((3, 2, 3), ("cat", "dog"), "pets")
    assert {(row[0], row[6]) for row in data.X_train.tolist() + data.X_test.tolist()} == {
        (red, k) for red in (100, 200) for k in range(5)
    }
    picture(tmp_path / "pets/cat/9.png", np.zeros((4, 4, 3)))
    with pytest.raises(UsageError, match=r"must have one size, got 3x2 and 4x4 \(9\.png\)"):
        load(str(tmp_path / "pets/"))


def test_grey_images_in_two_folders(tmp_path):
    for part, count in (("train", 4), ("test", 2)):
        for kind in "ab":
            for k in range(count):
                picture(tmp_path / f"digits/{part}/{kind}/{k}.png", np.full((2, 2), k))
    data = load(f"{tmp_path}/digits/")
    assert (data.shape, data.X_train.shape, data.X_test.shape) == ((1, 2, 2), (8, 4), (4, 4))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="must hold a folder of images for each class, got none"):
        load(f"{tmp_path}/empty/")
    with pytest.raises(UsageError, match="folder of images must exist"):
        load(f"{tmp_path}/nowhere/")
    (tmp_path / "digits/test/a/0.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match="must be complete and readable"):
        load(f"{tmp_path}/digits/")
