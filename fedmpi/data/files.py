"""Readers of user files. Nothing in a file is ever unpickled or executed."""

import csv
import io
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.arrow import read_arrow
from fedmpi.data.builder import Block, Builder, Cells, lay_out
from fedmpi.data.csvfile import read_csv
from fedmpi.data.dataset import Raw, check_size, check_unpacked, open_binary, reading
from fedmpi.data.filerows import SparseRows
from fedmpi.data.options import PLAIN, FileOptions
from fedmpi.data.rounding import TooCoarseError
from fedmpi.errors import UsageError

PACKED = ("", ".gz", ".bz2", ".xz", ".zip")
KINDS = {
    "npz": (".npz",),
    "npy": (".npy",),
    "csv": tuple(end + pack for end in (".csv", ".tsv") for pack in PACKED),
    "arrow": (".parquet", ".feather"),
    "arff": tuple(".arff" + pack for pack in PACKED),
    "svm": tuple(end + pack for end in (".svm", ".libsvm") for pack in PACKED),
}
"""Kind of file → how its name ends."""


def kind_of(name: str) -> str | None:
    """Return the kind of file of a name, None for names that are none of a data file."""
    return next((kind for kind, ends in KINDS.items() if name.lower().endswith(ends)), None)


def read_file(path: Path, options: FileOptions = PLAIN) -> Raw:
    """Read a user file; its suffix says the format.

    Parameters
    ----------
    path : Path
        A file for whose name `kind_of` knows a kind.
    options : FileOptions
        How it is read.

    Returns
    -------
    Raw
        The data as the file has them.

    Raises
    ------
    UsageError
        If the file is missing, damaged, or not laid out as its format wants.
    """
    if not path.is_file():
        raise UsageError(f"data file must exist, got {path}")
    kind = kind_of(path.name)
    options.check(str(path), kind)
    try:
        return _read(path, kind, options)
    except TooCoarseError:
        return _read(path, kind, replace(options, single=False))


def _read(path: Path, kind: str | None, options: FileOptions) -> Raw:
    with reading(path):
        if kind == "npz":
            label, group = options.label_column, options.group_column
            named = label is not None or group is not None
            return images_as_rows(read_columns(path, label, group) if named else read_npz(path))
        if kind == "npy":
            return images_as_rows(read_npy(path, options.in_memory_bytes))
        if kind == "csv":
            return read_csv(path, options)
        if kind == "arrow":
            return read_arrow(path, options)
        if kind == "arff":
            return read_arff(path, options)
        X, y = read_svm(path, options.features, options.index_base, sparse=True)
        return Raw(path.name, _svm_rows(X, str(path), options), y)


def images_as_rows(raw: Raw) -> Raw:
    """Flatten images (m, height, width), (m, channels, height, width) or (m, height, width, channels).

    Raises
    ------
    UsageError
        For images of other than 1, 3 or 4 channels.
    """
    if raw.X.ndim not in (3, 4):
        return raw
    last = raw.X.ndim == 4 and raw.X.shape[1] not in (1, 3, 4)
    if last and raw.X.shape[3] not in (1, 3, 4):
        raise UsageError(f"images of {raw.name} must have 1, 3 or 4 channels, got shape {raw.X.shape}")
    if raw.X_test is not None and raw.X_test.shape[1:] != raw.X.shape[1:]:
        raise UsageError(
            f"test images of {raw.name} must be {raw.X.shape[1:]} as the others, got {raw.X_test.shape[1:]}"
        )

    def flat(X: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(X.transpose(0, 3, 1, 2) if last else X).reshape(len(X), math.prod(shape))

    size = raw.X.shape[1:]
    shape = (1, *size) if raw.X.ndim == 3 else (size[2], size[0], size[1]) if last else size
    return replace(raw, X=flat(raw.X), X_test=None if raw.X_test is None else flat(raw.X_test), shape=shape)


# ------------------------------------------------------------------ numpy


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _header(file: Any) -> _Header:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"it is of version {version}, which holds no plain numbers")
    shape, _, dtype = read(file)
    return _Header(shape, dtype)


def _check_header(header: _Header, what: str) -> int:
    rows, columns = header.shape[0] if header.shape else 1, math.prod(header.shape[1:])
    check_size(rows, columns, header.dtype.itemsize, what)
    return rows * columns * header.dtype.itemsize


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an .npz file, whose sizes are looked at before any is unpacked."""
    total = 0
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                total += _check_header(_header(member), f"{name} of {path}")
            check_unpacked(path, total)
    with np.load(path, allow_pickle=False) as z:
        return {key: z[key] for key in z.files}


def read_npz(path: Path) -> Raw:
    """Read arrays `X, y` or `X_train, y_train` of an .npz file, and `X_test, y_test` where it has them."""
    z = _arrays(path)
    for X, y in (("X_train", "y_train"), ("X", "y")):
        if {X, y} <= z.keys():
            return Raw(path.name, z[X], z[y], *_test_part(path, z, "y_test"))
    got = ", ".join(sorted(z)) or "none"
    raise UsageError(f"{path} must hold arrays X, y or X_train, y_train, X_test, y_test, got {got}")


def _test_part(path: Path, z: dict[str, NDArray[Any]], y: str) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    if ("X_test" in z) != (y in z):
        one, other = ("X_test", y) if "X_test" in z else (y, "X_test")
        raise UsageError(f"{path} must hold X_test and {y} or neither, got {one} without {other}")
    return z.get("X_test"), z.get(y)


def read_npy(path: Path, in_memory_bytes: int | None = None) -> Raw:
    """Read X.npy and the y.npy beside it: the name of the labels' file has y in place of the X.

    X_train.npy has its test part in X_test.npy and y_test.npy, where these are there. Files of more than
    `in_memory_bytes` are memory-mapped.
    """
    if not path.name.startswith("X"):
        raise UsageError(f"name of an .npy file must begin with X, beside a file of labels with y, got {path}")
    names = [(path, path.with_name("y" + path.name[1:]))]
    test = path.with_name(path.name.replace("_train", "_test", 1))
    if test != path and test.is_file():
        names.append((test, test.with_name("y" + test.name[1:])))
    found: list[Any] = []
    for name in (name for pair in names for name in pair):
        if not name.is_file():
            raise UsageError(f"file of labels must exist beside {path}, got no {name}")
        with reading(name), name.open("rb") as file:
            if in_memory_bytes is not None and name.stat().st_size > in_memory_bytes:
                found.append(np.load(name, mmap_mode="r", allow_pickle=False))
                continue
            _check_header(_header(file), str(name))
            file.seek(0)
            found.append(np.load(file, allow_pickle=False))
    X, y, X_test, y_test = [*found, None, None][:4]
    return Raw(path.name, X, y, X_test, y_test)


def read_columns(path: Path, label_column: str | None, group_column: str | None) -> Raw:
    """Read array X of an .npz file; labels and groups are other arrays of it, or columns of X."""
    arrays = _arrays(path)
    if "X" not in arrays or arrays["X"].ndim != 2:
        raise UsageError(f"{path} must hold a 2-D array X, got {', '.join(arrays) or 'none'}")
    X, taken = arrays["X"], set[int]()

    def column(name: str, what: str) -> NDArray[Any]:
        if name in arrays and name != "X":
            return arrays[name]
        if not (name.lstrip("-").isdecimal() and -X.shape[1] <= int(name) < X.shape[1]):
            others = ", ".join(key for key in arrays if key != "X") or "none"
            raise UsageError(f"{what} must be a column of X (0 to {X.shape[1] - 1}) or an array ({others}), got {name}")
        taken.add(place := int(name) % X.shape[1])
        cells: NDArray[Any] = X[:, place]
        return cells

    y = column("y" if label_column is None else label_column, "label_column")
    groups = None if group_column is None else column(group_column, "group_column")
    if group_column is not None and group_column == label_column:
        raise UsageError(f"group_column must not be the label column, got {group_column}")
    if groups is not None and groups.shape != X.shape[:1]:
        raise UsageError(f"group_column must have shape ({len(X)},) like X has rows, got {groups.shape}")
    features = [k for k in range(X.shape[1]) if k not in taken]
    test: tuple[NDArray[Any] | None, NDArray[Any] | None] = (None, None)
    if "X_test" in arrays:
        X_test, name = arrays["X_test"], "y" if label_column is None else label_column
        if X_test.ndim != 2 or X_test.shape[1] != X.shape[1]:
            raise UsageError(f"X_test of {path} must have {X.shape[1]} columns like X, got shape {X_test.shape}")
        if name in arrays:
            test = _test_part(path, arrays, f"{name}_test")
            test = (X_test[:, features], test[1])
        else:
            test = (X_test[:, features], X_test[:, int(name)])
    return Raw(path.name, X[:, features], y, *test, columns=tuple(map(str, features)), groups=groups)


# ------------------------------------------------------------------ ARFF and svmlight


def read_arff(path: Path, options: FileOptions) -> Raw:
    """Read an ARFF file of numbers and nominal attributes, by scipy.

    Raises
    ------
    UsageError
        For attributes of text or dates.
    """
    from scipy.io import arff

    limit = csv.field_size_limit()
    try:
        with open_binary(path) as file, io.TextIOWrapper(file, "utf-8-sig") as text:
            data, meta = arff.loadarff(text)
    except NotImplementedError as error:
        raise UsageError(f"attributes of {path} must be numbers or nominal, got {error}") from None
    except (IndexError, StopIteration, KeyError, AttributeError) as error:
        raise ValueError(f"it is no ARFF file: {error!r}") from None
    finally:
        csv.field_size_limit(limit)  # scipy lifts it, for the whole process
    layout = lay_out(str(path), meta.names(), options)
    for name, kind in zip(meta.names(), meta.types(), strict=True):
        if kind not in ("numeric", "nominal"):
            raise UsageError(f'column "{name}" of {path} must hold numbers or be nominal, got type {kind}')
    builder = Builder(str(path), layout, len(data), single=options.single)

    def column(place: int) -> Cells:
        cells: NDArray[Any] = data[meta.names()[place]]
        if cells.dtype.kind == "f" and place not in layout.wanted:
            return cells
        texts, codes = np.unique(cells, return_inverse=True)
        return codes, [value.decode() if isinstance(value, bytes) else f"{value:g}" for value in texts.tolist()]

    builder.add(Block({place: column(place) for place in layout.used}, len(data)))
    return builder.finish(path.name, lambda row: f" in row {row} (counted from 0)")


def read_svm(
    path: Path, columns: int | None = None, base: int | None = None, *, sparse: bool = False
) -> tuple[Any, NDArray[Any]]:
    """Read an svmlight / LIBSVM text file.

    Parameters
    ----------
    path : Path
        Plain or packed.
    columns : int, optional
        Number of features; by default the largest index in the file.
    base : int, optional
        Number of the first feature, 0 or 1; by default 0 if that number is in the file, else 1.
    sparse : bool
        Leave the matrix sparse.

    Returns
    -------
    tuple
        X float64 of shape (m, d) and y float64 of shape (m,).

    Raises
    ------
    UsageError
        If the dense matrix would be larger than `dataset.MAX_BYTES`.
    """
    from sklearn.datasets import load_svmlight_file

    with open_binary(path) as file:
        X, y = load_svmlight_file(file, n_features=columns, zero_based="auto" if base is None else base == 0)
    if sparse:
        return X, y
    check_size(X.shape[0], X.shape[1], X.dtype.itemsize, str(path))
    return X.toarray(), y


def read_svm_pair(path: Path, test: Path, options: FileOptions) -> Raw:
    """Read the training and the test part, which have the same features and the same base."""
    from sklearn.datasets import load_svmlight_files

    base = "auto" if options.index_base is None else options.index_base == 0
    with reading(path), open_binary(path) as first, open_binary(test) as second:
        X, y, X_test, y_test = load_svmlight_files([first, second], n_features=options.features, zero_based=base)
    return Raw(path.name, _svm_rows(X, str(path), options), y, _svm_rows(X_test, str(test), options), y_test)


def _svm_rows(X: Any, what: str, options: FileOptions) -> Any:
    """Dense rows, or sparse ones where these would take more than `options.in_memory_bytes`."""
    if options.in_memory_bytes is not None and X.shape[0] * X.shape[1] * X.dtype.itemsize > options.in_memory_bytes:
        return SparseRows(X)
    check_size(X.shape[0], X.shape[1], X.dtype.itemsize, what)
    return X.toarray()
