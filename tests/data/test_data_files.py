"""User files: every format, and every way in which a file can be wrong."""

import bz2
import gzip
import io
import lzma
import pickle
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from fedmpi.data import dataset, load
from fedmpi.errors import UsageError

ROWS = [[5.5, 2], [6.5, -1], [7, 1e-3], [8, 0], [9, 4], [10, 5], [11, 6], [12, 7], [13, 8], [14, 9]]
TEXT = ["yes", "no"] * 5


def csv_text(delimiter=",", header=True, labels=TEXT):
    lines = ["a,b,label"] if header else []
    lines += [f"{a},{b},{label}" for (a, b), label in zip(ROWS, labels, strict=True)]
    return "".join(line.replace(",", delimiter) + "\n" for line in lines)


def write(path, data):
    raw = data if isinstance(data, bytes) else data.encode()
    pack = {".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(raw))
    return str(path)


def all_rows(data):
    """Rows with the name of their class, in the order of the first feature."""
    X = np.concatenate([data.X_train, data.X_test])
    y = np.concatenate([data.y_train, data.y_test])
    order = X[:, 0].argsort()
    return X[order].tolist(), [data.classes[k] for k in y[order]]


# ------------------------------------------------------------------ CSV


@pytest.fixture(params=["pyarrow", "numpy"])
def reader(request, monkeypatch):
    """With pyarrow, where it is installed, and as if it were not."""
    if request.param == "numpy":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    return request.param


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", ["a.csv", "b.csv.gz"])
def test_csv_layouts(reader, tmp_path, delimiter, header, name):
    got = load(write(tmp_path / name, csv_text(delimiter, header)))
    assert all_rows(got) == (ROWS, TEXT)
    assert got.classes == ("no", "yes")
    assert (got.name, got.X_train.dtype, got.y_train.dtype) == (name, np.float64, np.int64)
    assert got.X_train.flags.c_contiguous


@pytest.mark.parametrize("label", ["y", "0", "-3"])
def test_csv_label_column(reader, tmp_path, label):
    text = "y,b,c\n" + "".join(f"{k % 2},{k},{k + 1}\n" for k in range(10))
    got = load(write(tmp_path / "a.csv", text), label_column=label)
    assert all_rows(got) == ([[k, k + 1] for k in range(10)], ["0", "1"] * 5)


def test_csv_header_of_numbers_is_found_by_the_label(reader, tmp_path):
    text = "0,1,target\n" + "".join(f"{k},{k},{k % 2}\n" for k in range(10))
    assert len(all_rows(load(write(tmp_path / "a.csv", text), label_column="target"))[0]) == 10
    assert len(all_rows(load(write(tmp_path / "a.csv", text)))[0]) == 10  # "target" stands above numbers


def test_csv_quotes_blank_lines_windows_ends_and_bom(reader, tmp_path):
    text = '\ufeff\r\n"a, first";"b";"y"\r\n' + "".join(f'{k};{k};"a;{k % 2}"\r\n\r\n' for k in range(10))
    assert all_rows(load(write(tmp_path / "a.csv", text)))[1] == ["a;0", "a;1"] * 5


def test_csv_regression(reader, tmp_path):
    text = csv_text(labels=[k / 4 for k in range(10)])
    got = load(write(tmp_path / "a.csv", text), regression=True)
    order = np.concatenate([got.X_train, got.X_test])[:, 0].argsort()
    assert np.concatenate([got.y_train, got.y_test])[order].tolist() == [k / 4 for k in range(10)]


@pytest.mark.parametrize(
    ("text", "kwargs", "message"),
    [
        ("", {}, "must have rows of data, got an empty file"),
        ("\n\n", {}, "must have rows of data, got an empty file"),
        ("a,b,c\n", {}, "must have rows of data, got none"),
        ("1\n2\n", {}, "at least one feature column, got 1 column"),
        ("a,job,y\n1,2,0\n3,cook,1\n", {}, r'column "job" of .* must hold .*"cook" in line 3'),
        (
            "a,job,y\n1,2,0\n3,,1\n",
            {},
            r'column "job" of .* (must hold numbers, got ""|must have no missing values, got one) in line 3',
        ),
        ("1,2,0\n1,x,0\n", {}, r'column "1" of .* "x" in line 2'),
        ("a,b,y\n1,2,0\n1,2\n", {}, "must have 3 cells in each line, got 2 in line 3"),
        ("a,b,y\n1,2,0\n1,2,3,4\n", {}, "got 4 in line 3"),
        ("a,b,y\n1,2,0\n1_0,2,0\n", {}, r'column "a" of .*"1_0" in line 3'),
        ("a,b,y\n1,2,0\n1,nan,1\n", {}, r'column "b" of a.csv must have no missing values, got one in line 3'),
        ("a,b,y\n1,2,0\n1,-inf,1\n", {}, r'column "b" of a.csv must be finite, got -inf in line 3'),
        ("a,b,y\n1,2,0\n1,3,nan\n", {}, 'column "y" of .*a.csv must have no missing values, got one in line 3'),
        ("a,b,y\n1,2,0\n1,3,0\n", {}, r"one-class data \(0\)"),
        ("a,b,y\n1,2,0\n1,3,0.5\n", {}, "whole numbers or text .*, got 0.5"),
        ("a,b,y\n1,2,0\n", {"label_column": "z"}, "must be one of a, b, y, got z"),
        ("a,b,y\n1,2,0\n", {"label_column": "3"}, "must be one of a, b, y, got 3"),
        ("a,b,y\n1,2,u\n1,2,v\n", {"regression": True}, r'must hold numbers for regression, got "u"'),
        (b"\xff\xfe,1\n", {}, "complete and readable.*decode"),
        ("a" * 200_000 + ",b\n1,2\n", {}, "field larger than field limit"),
    ],
)
def test_csv_that_breaks_a_rule(reader, tmp_path, text, kwargs, message):
    path = write(tmp_path / "a.csv", text)
    with pytest.raises(UsageError, match=message) as e:
        load(path, **kwargs)
    assert "\n" not in str(e.value)


# ------------------------------------------------------------------ NPZ


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "u8", "f2", "<f4", ">f8"])
def test_npz_keeps_the_type(tmp_path, dtype):
    X = np.asfortranarray(np.arange(20).reshape(10, 2), dtype=dtype)
    np.savez(tmp_path / "a.npz", X=X, y=np.array(TEXT))
    got = load(str(tmp_path / "a.npz"))
    assert all_rows(got) == (X.tolist(), TEXT)
    assert got.X_train.dtype == np.dtype(dtype).newbyteorder("=")
    assert got.X_train.flags.c_contiguous


def test_npz_booleans_become_bytes(tmp_path):
    X = np.arange(20).reshape(10, 2) % 3 == 0
    np.savez(tmp_path / "a.npz", X=X, y=X[:, 0])
    got = load(str(tmp_path / "a.npz"))
    assert got.X_train.dtype == np.uint8
    np.testing.assert_array_equal(got.X_train[:, 0], got.y_train)
    assert got.classes == ("0", "1")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.array([["a"], [1]], dtype=object), "y": [0, 1]}, "[Oo]bject"),
        ({"X": np.ones((2, 1)), "y": np.array([0, 1], dtype=object)}, "[Oo]bject"),
        ({"X": [["a"], ["b"]], "y": [0, 1]}, "must hold integer or floating-point numbers, got dtype <U1"),
        ({"X": np.ones((2, 1), complex), "y": [0, 1]}, "got dtype complex128"),
        ({"X": np.ones((2, 1)), "y": np.array([b"a", b"b"])}, r"y of a.npz .* got dtype \|S1"),
        ({"X": np.ones(2), "y": [0, 1]}, r"must be 2-D \(rows, columns\), got shape \(2,\)"),
        ({"X": np.ones((2, 2, 2, 2)), "y": [0, 1]}, r"1, 3 or 4 channels, got shape \(2, 2, 2, 2\)"),
        ({"X": np.ones((2, 2, 2, 2, 2)), "y": [0, 1]}, r"must be 2-D .*, got shape \(2, 2, 2, 2, 2\)"),
        ({"X": np.ones((2, 1)), "y": [0, 1], "X_test": np.ones((2, 1))}, "got X_test without y_test"),
        (
            {"X": np.ones((2, 3)), "y": [0, 1], "X_test": np.ones((2, 4)), "y_test": [0, 1]},
            "must have 3 columns, got 4",
        ),
        ({"X": np.ones((0, 2)), "y": []}, r"must have rows and columns, got shape \(0, 2\)"),
        ({"X": np.ones((2, 0)), "y": [0, 1]}, r"must have rows and columns, got shape \(2, 0\)"),
        ({"X": np.ones((2, 1)), "y": [0, 1, 1]}, r"must have shape \(2,\) like X has rows, got \(3,\)"),
        ({"X": np.ones((2, 1)), "y": [[0, 1], [1, 0]]}, r"got \(2, 2\)"),
        ({"X": np.ones((2, 1)), "y": [0, np.inf]}, "y of a.npz must be finite, got inf in row 1"),
        ({"a": np.ones(1), "b": np.ones(1)}, "must hold arrays X, y or X_train, .* got a, b"),
        ({}, "got none"),
    ],
)
def test_npz_that_breaks_a_rule(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        load(str(tmp_path / "a.npz"))


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "a.npz", X=np.array([Trap()], dtype=object), y=[0])
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UsageError, match="complete and readable"):
            load(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


def test_nan_is_found_in_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "BLOCK", 10)
    X = np.zeros((50, 3), np.float32)
    X[37, 2] = X[41, 0] = np.nan
    np.savez(tmp_path / "a.npz", X=X, y=np.arange(50) % 2)
    with pytest.raises(UsageError, match=r"got nan in row 37, column 2 \(counted from 0\)"):
        load(str(tmp_path / "a.npz"))


# ------------------------------------------------------------------ svmlight


@pytest.mark.parametrize("name", ["a.svm", "a.libsvm", "a.svm.gz", "a.libsvm.bz2"])
def test_svm(tmp_path, name):
    got = load(write(tmp_path / name, "".join(f"{k % 2 * 2 - 1} 1:{k} 3:0.5\n" for k in range(1, 11))))
    assert all_rows(got) == ([[k, 0, 0.5] for k in range(1, 11)], ["1", "-1"] * 5)
    assert got.X_train.dtype == np.float64


def test_svm_too_large_when_dense(tmp_path):
    path = write(tmp_path / "a.svm", "1 2000000000:1\n-1 1:1\n")
    with pytest.raises(UsageError, match=r"must fit in 8 GiB when dense, got 2 x 2000000000 = 29.8 GiB"):
        load(path)


def test_svm_too_large_when_dense_stays_sparse_for_who_asks_for_it(tmp_path):
    path = write(tmp_path / "a.svm", "1 7:2 2000000:1\n-1 1:1\n" * 500)
    got = load(path, in_memory_bytes=1 << 20, test_fraction=0)
    assert got.X_train.shape == (1000, 2_000_000)
    assert got.X_train[:2].sum(axis=1).tolist() == [3, 1]
    with pytest.raises(UsageError, match="8 GiB when dense"):
        load(path, in_memory_bytes=1 << 20, scale="maxabs")


def test_sparse_rows_must_be_finite(tmp_path):
    path = write(tmp_path / "a.svm", "1 3:1\n-1 1:1 2:inf\n")
    with pytest.raises(UsageError, match=r"must be finite, got inf in row 1, column 1 \(counted from 0\)"):
        load(path, in_memory_bytes=0)


@pytest.mark.parametrize("text", ["1 a:b\n", "1 1:2\nx 1:2\n", "1 99999999999999999999:1\n"])
def test_svm_that_is_none(tmp_path, text):
    with pytest.raises(UsageError, match="complete and readable"):
        load(write(tmp_path / "a.svm", text))


def test_svm_without_rows(tmp_path):
    with pytest.raises(UsageError, match=r"must have rows and columns|complete and readable"):
        load(write(tmp_path / "a.svm", ""))


# ------------------------------------------------------------------ all formats


@pytest.mark.parametrize("name", ["a.csv.gz", "a.svm.gz", "a.svm.bz2", "a.npz"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_torn_files(tmp_path, name, keep):
    path = tmp_path / name
    if name == "a.npz":
        np.savez(path, X=np.arange(3000).reshape(-1, 1), y=np.arange(3000) % 2)
    else:
        sep = " 1:" if "svm" in name else ","
        write(path, "".join(f"{k % 2}{sep}{k * k}\n" for k in range(3000)))
    whole = path.read_bytes()
    load(str(path), label_column="0" if "csv" in name else None)
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(UsageError, match=name):
        load(str(path))


def test_label_column_is_for_csv(tmp_path):
    with pytest.raises(UsageError, match=r"for tables and \.npz files only"):
        load(write(tmp_path / "a.svm", "1 1:1\n"), label_column="y")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(UsageError, match="data file must exist"):
        load(str(tmp_path / "a.csv"))


LIMIT = 1 << 20


def odd_zip(path, flags=0, method=zipfile.ZIP_DEFLATED, member="X.npy"):
    """A .zip whose member claims to be encrypted, or packed in another way."""
    npy = io.BytesIO()
    np.save(npy, np.ones((3, 2)))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, npy.getvalue() if member.endswith("npy") else "a,b,y\n1,2,0\n")
    data = bytearray(packed.getvalue())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = data.index(signature) + at
        data[start : start + 4] = flags.to_bytes(2, "little") + method.to_bytes(2, "little")
    path.write_bytes(data)


def two_arrays_that_are_too_large_together(path):
    np.savez_compressed(path, X=np.zeros((LIMIT - 1000, 1), np.uint8), y=np.zeros(LIMIT - 1000, np.uint8))


def text_that_unpacks_to_too_much(path):
    rows = b"a,b,y\n" + b"0,0,1\n0,0,0\n" * (LIMIT // 4)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", rows)
        return
    path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[path.suffix](rows))


def text_whose_end_lies_about_its_size(path):
    path.write_bytes(gzip.compress(b"a,b,y\n" + b"0,0,1\n" * (LIMIT // 4)) + gzip.compress(b"0,0,0\n"))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.npz", two_arrays_that_are_too_large_together, "must unpack to at most"),
        *(
            (f"a.csv.{end}", text_that_unpacks_to_too_much, "must unpack to at most")
            for end in ("gz", "bz2", "xz", "zip")
        ),
        ("a.csv.gz", text_whose_end_lies_about_its_size, "must unpack to at most"),
        ("a.npz", lambda path: odd_zip(path, flags=1), "encrypted"),
        ("a.csv.zip", lambda path: odd_zip(path, flags=1, member="a.csv"), "encrypted"),
        ("a.npz", lambda path: odd_zip(path, method=99), "compression"),
        ("a.csv.zip", lambda path: odd_zip(path, method=99, member="a.csv"), "compression"),
        ("a.npz", lambda path: odd_zip(path, method=0, member="README.txt"), "complete and readable"),
    ],
)
def test_what_unpacks_to_too_much_or_cannot_be_unpacked_is_refused_in_one_line(
    tmp_path, monkeypatch, name, make, message
):
    """And before there is memory for it."""
    path = tmp_path / name
    make(path)
    load("synthetic:m=20,d=3,density=1")  # what is imported by then is not counted
    monkeypatch.setattr(dataset, "MAX_BYTES", LIMIT)
    tracemalloc.start()
    with pytest.raises(UsageError, match=message) as error:
        load(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert peak < 16 * LIMIT, "a few buffers"
