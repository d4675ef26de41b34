"""Readers of user files: .npz, .csv and .svm. Nothing in a file is ever unpickled or executed."""

import csv
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.dataset import Raw, check_size, open_binary, reading
from fedmpi.errors import UsageError

SUFFIXES = (".npz", ".csv", ".csv.gz", ".svm", ".svm.gz", ".svm.bz2", ".libsvm", ".libsvm.gz", ".libsvm.bz2")


def is_data_file(name: str) -> bool:
    """Tell whether the name ends like a file that `read_file` can read."""
    return name.lower().endswith(SUFFIXES)


def read_file(path: Path, label_column: str | None = None, group_column: str | None = None) -> Raw:
    """Read a user file; its suffix says the format.

    Parameters
    ----------
    path : Path
        A file for which `is_data_file` holds.
    label_column : str, optional
        CSV: name of the label column, or its place counted from 0 (negative from the end). NPZ: name of the array
        that holds the labels, or the place of their column in X.
    group_column : str, optional
        Likewise, of the column that says which group a row belongs to; it is no feature.

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
    name = path.name.lower()
    for option, value in (("label_column", label_column), ("group_column", group_column)):
        if value is not None and not (".csv" in name or name.endswith(".npz")):
            raise UsageError(f"{option} must be given for CSV and .npz files only, got {path}")
    with reading(path):
        if name.endswith(".npz"):
            named = label_column is not None or group_column is not None
            return read_columns(path, label_column, group_column) if named else read_npz(path)
        if name.endswith((".csv", ".csv.gz")):
            return read_csv(path, label_column, group_column)
        X, y = read_svm(path)
        return Raw(path.name, X, y)


def read_npz(path: Path) -> Raw:
    """Read arrays `X, y` or `X_train, y_train, X_test, y_test` of an .npz file."""
    with np.load(path, allow_pickle=False) as z:
        keys = set(z.files)
        for wanted in (("X_train", "y_train", "X_test", "y_test"), ("X", "y")):
            if keys.issuperset(wanted):
                return Raw(path.name, *(z[key] for key in wanted))
    got = ", ".join(sorted(keys)) or "none"
    raise UsageError(f"{path} must hold arrays X, y or X_train, y_train, X_test, y_test, got {got}")


def read_columns(path: Path, label_column: str | None, group_column: str | None) -> Raw:
    """Read array X of an .npz file; labels and groups are other arrays of it, or columns of X."""
    with np.load(path, allow_pickle=False) as z:
        arrays: dict[str, NDArray[Any]] = {key: z[key] for key in z.files}
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
    return Raw(path.name, X[:, features], y, columns=tuple(map(str, features)), groups=groups)


def read_svm(path: Path, columns: int | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read an svmlight / LIBSVM text file into a dense matrix.

    Parameters
    ----------
    path : Path
        Plain, .gz or .bz2.
    columns : int, optional
        Number of features; by default the largest index in the file.

    Returns
    -------
    tuple of ndarray
        X float64 of shape (m, d) and y float64 of shape (m,).

    Raises
    ------
    UsageError
        If the dense matrix would be larger than `dataset.MAX_BYTES`.
    """
    from sklearn.datasets import load_svmlight_file

    sparse, y = load_svmlight_file(path, n_features=columns)
    check_size(sparse.shape[0], sparse.shape[1], sparse.dtype.itemsize, str(path))
    return sparse.toarray(), y


class _Form(NamedTuple):
    """How a CSV file is laid out; `skip` counts the lines before the data, a header among them."""

    delimiter: str
    columns: list[str]
    skip: int


def read_csv(path: Path, label_column: str | None = None, group_column: str | None = None) -> Raw:
    """Read numbers separated by ``,``, ``;`` or tabs; the label and the group column may hold text.

    The first line is a header if none of its cells is a number, or if one of them is `label_column` or
    `group_column`. The features come back as float64.
    """
    form = _sniff(path, [name for name in (label_column, group_column) if name is not None])
    label = _place(path, form, label_column, "label_column")
    places = [label] if group_column is None else [label, _place(path, form, group_column, "group_column")]
    if len(set(places)) < len(places):
        raise UsageError(f"group_column must not be the label column, got {group_column}")
    if len(form.columns) <= len(places):
        raise UsageError(f"{path} must have at least one feature column, got {len(form.columns)} columns")
    codes: dict[int, dict[str, int]] = {place: {} for place in places}

    def coding(place: int) -> Callable[[str], int]:
        return lambda cell: codes[place].setdefault(cell.strip(), len(codes[place]))

    try:
        with _open_text(path) as f, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "input contained no data": said below
            table = np.loadtxt(
                f,
                delimiter=form.delimiter,
                quotechar='"',
                comments=None,
                skiprows=form.skip,
                ndmin=2,
                converters={place: coding(place) for place in places},
            )
    except ValueError:
        _blame(path, form, places)
        raise
    if table.size == 0:
        raise UsageError(f"{path} must have rows of data, got none")
    y, *groups = (_labels(path, form.columns[place], codes[place])[table[:, place].astype(int)] for place in places)
    columns = tuple(name for place, name in enumerate(form.columns) if place not in places)
    X = np.delete(table, places, axis=1)
    return Raw(path.name, X, y, columns=columns, groups=groups[0] if groups else None)


def _open_text(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="")  # -sig: spreadsheets add a BOM


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _sniff(path: Path, wanted: list[str]) -> _Form:
    with _open_text(path) as f:
        skip, line = next(((k, line) for k, line in enumerate(f) if line.strip()), (0, ""))
    if not line:
        raise UsageError(f"{path} must have rows of data, got an empty file")
    cells, delimiter = max(((next(csv.reader([line], delimiter=d)), d) for d in ",;\t"), key=lambda p: len(p[0]))
    cells = [cell.strip() for cell in cells]
    named = any(name in cells and not _is_number(name) for name in wanted)
    if named or not any(_is_number(cell) for cell in cells):
        return _Form(delimiter, cells, skip + 1)
    return _Form(delimiter, [str(k) for k in range(len(cells))], skip)


def _place(path: Path, form: _Form, column: str | None, what: str) -> int:
    count = len(form.columns)
    if count < 2:
        raise UsageError(f"{path} must have a label column and at least one feature column, got {count} column")
    if column is None:
        return count - 1
    if column in form.columns:
        return form.columns.index(column)
    if column.lstrip("-").isdecimal() and -count <= int(column) < count:
        return int(column) % count
    raise UsageError(f"{what} must be one of {', '.join(form.columns)}, got {column}")


def _labels(path: Path, column: str, codes: dict[str, int]) -> NDArray[Any]:
    """Return the distinct labels of a column in the order of their codes: float64, or text."""
    missing = [label for label in codes if label.lower() in ("", "nan")]
    if missing:
        raise UsageError(f'column "{column}" of {path} must have no missing values, got "{missing[0]}"')
    text = [label for label in codes if not _is_number(label)]
    if text and len(text) < len(codes):
        number = next(label for label in codes if _is_number(label))
        raise UsageError(
            f'column "{column}" of {path} must hold only numbers or only text, got "{number}" and "{text[0]}"'
        )
    return np.array(list(codes)) if text else np.array([float(label) for label in codes])


def _blame(path: Path, form: _Form, places: list[int]) -> None:
    """Name the line and column that `np.loadtxt` stumbled over."""
    with _open_text(path) as f:
        rows = csv.reader(f, delimiter=form.delimiter)
        for row in rows:
            if not row or rows.line_num <= form.skip:
                continue
            if len(row) != len(form.columns):
                raise UsageError(
                    f"{path} must have {len(form.columns)} cells in each line, got {len(row)} in line {rows.line_num}"
                )
            for place, cell in enumerate(row):
                if place not in places and not _is_number(cell):
                    raise UsageError(
                        f'feature column "{form.columns[place]}" of {path} must hold numbers, '
                        f'got "{cell}" in line {rows.line_num}'
                    )
