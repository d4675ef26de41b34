"""Readers of user files: .npz, .csv and .svm. Nothing in a file is ever unpickled or executed."""

import csv
import io
import warnings
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


def read_file(path: Path, label_column: str | None = None) -> Raw:
    """Read a user file; its suffix says the format.

    Parameters
    ----------
    path : Path
        A file for which `is_data_file` holds.
    label_column : str, optional
        CSV only: name of the label column, or its place counted from 0 (negative from the end).

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
    if label_column is not None and ".csv" not in name:
        raise UsageError(f"label_column must be given for CSV files only, got {path}")
    with reading(path):
        if name.endswith(".npz"):
            return read_npz(path)
        if name.endswith((".csv", ".csv.gz")):
            return read_csv(path, label_column)
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


def read_csv(path: Path, label_column: str | None = None) -> Raw:
    """Read numbers separated by ``,``, ``;`` or tabs; the label column may hold text.

    The first line is a header if none of its cells is a number, or if one of them is `label_column`.
    The features come back as float64.
    """
    form = _sniff(path, label_column)
    label = _label_place(path, form, label_column)
    codes: dict[str, int] = {}
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
                converters={label: lambda cell: codes.setdefault(cell.strip(), len(codes))},
            )
    except ValueError:
        _blame(path, form, label)
        raise
    if table.size == 0:
        raise UsageError(f"{path} must have rows of data, got none")
    return Raw(path.name, np.delete(table, label, axis=1), _labels(path, codes)[table[:, label].astype(int)])


def _open_text(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="")  # -sig: spreadsheets add a BOM


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _sniff(path: Path, label_column: str | None) -> _Form:
    with _open_text(path) as f:
        skip, line = next(((k, line) for k, line in enumerate(f) if line.strip()), (0, ""))
    if not line:
        raise UsageError(f"{path} must have rows of data, got an empty file")
    cells, delimiter = max(((next(csv.reader([line], delimiter=d)), d) for d in ",;\t"), key=lambda p: len(p[0]))
    cells = [cell.strip() for cell in cells]
    named = label_column in cells and not _is_number(str(label_column))
    if named or not any(_is_number(cell) for cell in cells):
        return _Form(delimiter, cells, skip + 1)
    return _Form(delimiter, [str(k) for k in range(len(cells))], skip)


def _label_place(path: Path, form: _Form, label_column: str | None) -> int:
    count = len(form.columns)
    if count < 2:
        raise UsageError(f"{path} must have a label column and at least one feature column, got {count} column")
    if label_column is None:
        return count - 1
    if label_column in form.columns:
        return form.columns.index(label_column)
    if label_column.lstrip("-").isdecimal() and -count <= int(label_column) < count:
        return int(label_column) % count
    raise UsageError(f"label_column must be one of {', '.join(form.columns)}, got {label_column}")


def _labels(path: Path, codes: dict[str, int]) -> NDArray[Any]:
    """Return the distinct labels in the order of their codes: float64, or text."""
    text = [label for label in codes if not _is_number(label)]
    if text and len(text) < len(codes):
        number = next(label for label in codes if _is_number(label))
        raise UsageError(f'label column of {path} must hold only numbers or only text, got "{number}" and "{text[0]}"')
    return np.array(list(codes)) if text else np.array([float(label) for label in codes])


def _blame(path: Path, form: _Form, label: int) -> None:
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
                if place != label and not _is_number(cell):
                    raise UsageError(
                        f'feature column "{form.columns[place]}" of {path} must hold numbers, '
                        f'got "{cell}" in line {rows.line_num}'
                    )
