"""Rows that a program has in memory, as a data set with a name that holds while a training lasts.

No name of this kind means anything in another process: a command line or a message that names one finds nothing.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.builder import Block, Builder, Cells, lay_out
from fedmpi.data.dataset import Raw, check_size
from fedmpi.data.files import images_as_rows
from fedmpi.data.options import FileOptions
from fedmpi.data.rounding import TooCoarseError
from fedmpi.data.rows import as_text
from fedmpi.errors import UsageError

PREFIX = "memory:"
GROUPS = "groups"
"""What the groups are called, for --split-by."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What a program gave: an array or a DataFrame, and what belongs to its rows."""

    X: Any
    y: NDArray[Any]
    groups: NDArray[Any] | None = None

    @property
    def named(self) -> bool:
        """Whether the columns have names: a DataFrame of pandas."""
        return hasattr(self.X, "columns")

    def digest(self) -> bytes:
        """Of all values."""
        columns = [self.X[name].to_numpy() for name in self.X.columns] if self.named else [self.X]
        found = hashlib.sha256(repr([self.X.shape, *(self.X.columns if self.named else ())]).encode())
        for part in (*columns, self.y, self.groups):
            a = np.asarray(part)
            found.update(repr((a.dtype, a.shape)).encode())
            found.update("\0".join(map(str, a.ravel())).encode() if a.dtype == object else a.tobytes())
        return found.digest()


_held: dict[str, list[tuple[Rows, Rows | None]]] = {}
_lock = threading.Lock()


@contextmanager
def held(X: Any, y: Any, X_test: Any = None, y_test: Any = None, groups: Any = None) -> Iterator[str]:
    """A name for these rows, for the time of a block; the same rows have the same name.

    Parameters
    ----------
    X : array, shape (m, d), or images as in an .npz file, sparse matrix, or DataFrame
    y : array, shape (m,), or the name of a column of a DataFrame
    X_test, y_test : likewise, optional
        Default: the test rows are drawn.
    groups : array, shape (m,), or the name of a column of a DataFrame, optional
        Which group each row belongs to, called `GROUPS`.

    Raises
    ------
    UsageError
        If one of them does not fit the others.
    """
    if X_test is not None and y_test is None and isinstance(y, str):
        y_test = y
    if y is None or (X_test is None) != (y_test is None):
        raise UsageError("y must be given with X, and y_test with X_test, got one without the other")
    train = _rows(X, y, groups, "X")
    test = None if X_test is None else _rows(X_test, y_test, None, "X_test")
    if test is not None and train.named and isinstance(groups, str):
        test = replace(test, X=test.X.drop(columns=groups, errors="ignore"))
    name = PREFIX + hashlib.sha256(train.digest() + (test.digest() if test else b"")).hexdigest()[:16]
    with _lock:
        _held.setdefault(name, []).append((train, test))
    try:
        yield name
    finally:
        with _lock:
            _held[name].pop()
            if not _held[name]:
                del _held[name]


def read(name: str, options: FileOptions) -> tuple[Raw, Raw | None]:
    """The training and the test rows of a name, as a file with them would be read.

    Raises
    ------
    UsageError
        If this process holds no such rows, or an option does not fit them.
    """
    with _lock:
        there = _held.get(name, [])[-1:]
    if not there:
        raise UsageError(
            f"a data set in memory must be one that the program of this rank has, the same on all ranks, got {name}"
        )
    train, test = there[0]
    if options.label_column is not None:
        raise UsageError(f"label_column must not be given with y, got {options.label_column}")
    wide = replace(options, single=False)
    tested = None
    if test is not None:  # which nobody owns
        owned = options.group_column if test.named and options.group_column in test.X.columns else None
        tested = _read(test, replace(wide, group_column=owned))
    try:
        return _read(train, options), tested
    except TooCoarseError:
        return _read(train, wide), tested


def _rows(X: Any, y: Any, groups: Any, what: str) -> Rows:
    if hasattr(X, "to_pandas"):  # of polars or Arrow
        X = X.to_pandas()
    if hasattr(X, "columns"):
        for name in (one for one in (y, groups) if isinstance(one, str)):
            if name not in X.columns:
                raise UsageError(f'{what} must have the column "{name}", got {", ".join(map(str, X.columns[:20]))}')
        found = [X[one].to_numpy() if isinstance(one, str) else one for one in (y, groups)]
        X = X.drop(columns=[one for one in (y, groups) if isinstance(one, str)])
        y, groups = found
    elif hasattr(X, "toarray"):
        check_size(X.shape[0], X.shape[1], X.dtype.itemsize, what)
        X = X.toarray()
    else:
        X = np.asarray(X)
    y, groups = np.asarray(y), None if groups is None else np.asarray(groups)
    for values, name in ((y, "y"), (groups, GROUPS)):
        if values is not None and (values.ndim == 0 or len(values) != (len(X) if X.ndim else 0)):
            raise UsageError(f"{name} must have a value for each row of {what}, got shape {values.shape}")
    return Rows(X, y, groups)


def _read(rows: Rows, options: FileOptions) -> Raw:
    if rows.named:
        return _read_frame(rows, options)
    options.check("an array", "npz" if options.group_column == GROUPS else None)
    X = rows.X.view()
    X.flags.writeable = False  # else rows are sorted in place
    return images_as_rows(Raw("arrays", X, _plain(rows.y), groups=_plain(rows.groups)))


def _read_frame(rows: Rows, options: FileOptions) -> Raw:
    """The columns of a DataFrame as those of a file: whole numbers, numbers, or text."""
    columns = [*map(str, rows.X.columns)]
    label = next(name for name in ("y", "label", "labels", "target", "") if name not in columns)
    names, given = [*columns, label], {len(columns): rows.y}
    if rows.groups is not None:
        if GROUPS in columns:
            raise UsageError(
                f'the DataFrame must have no column "{GROUPS}" beside groups, got one: give its name as groups'
            )
        names.append(GROUPS)
        given[len(names) - 1] = rows.groups
    layout = lay_out("the DataFrame", names, replace(options, label_column=label))
    if rows.groups is not None and layout.group is None:
        layout = replace(layout, left_out=(*layout.left_out, len(names) - 1))
    builder = Builder("the DataFrame", layout, len(rows.X), single=options.single)

    def cells(place: int) -> Cells:
        import pandas

        column = pandas.Series(given[place]) if place in given else rows.X.iloc[:, place]
        if place in given and column.dtype.kind in "iu":
            return np.asarray(column)
        return _cells(column, names[place], as_names=place in layout.wanted)

    builder.add(Block({place: cells(place) for place in layout.used}, len(rows.X)))
    return builder.finish("DataFrame", lambda row: f" in row {row} (counted from 0)")


def _cells(column: Any, name: str, *, as_names: bool) -> Cells:
    """A column of pandas as numbers, or as codes and text."""
    if column.dtype.kind in "mM":
        raise UsageError(
            f'column "{name}" must hold numbers or categories, got dates or times ({column.dtype}): '
            "make a number of them, such as days since the first, or remove the column"
        )
    if column.dtype.kind in "biuf" and not as_names:
        numbers: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return numbers
    there, known = ~column.isna().to_numpy(), dict[str, int]()
    codes = np.full(len(column), -1)
    codes[there] = [known.setdefault(as_text(cell), len(known)) for cell in column[there]]
    return codes, [*known]


def _plain(values: Any) -> Any:
    """Labels or groups of Python's own objects as numbers or text."""
    return values if values is None or values.dtype != object else np.array([*map(as_text, values)])
