"""What every reader yields, what every caller gets, and the checks in between."""

import bz2
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError

MAX_BYTES = 8 << 30  # a dense matrix larger than this is refused, not tried
# what readers raise on a file that is not what it should be
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    MemoryError,
    csv.Error,
    zlib.error,
    zipfile.BadZipFile,
)
BLOCK = 1 << 22  # elements looked at in one go, so that a check needs no large temporary


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its training and test parts.

    Attributes
    ----------
    name : str
        The name for people; a stand-in says that it is one.
    X_train, X_test : ndarray of shape (m, d)
        Rows of features, C-contiguous, finite, in the integer or float type of the source (images stay
        uint8, flattened).
    y_train, y_test : ndarray of shape (m,)
        Classification: int64 in 0..C-1. Regression: float64.
    classes : tuple of str
        Name of label k at place k; empty for regression.
    groups : ndarray of shape (m,) or None
        Which group each training row belongs to, numbers or text, where a column says so.
    coefficients : ndarray of shape (d,) or None
        The true parameters of a made-up regression.
    """

    name: str
    X_train: NDArray[Any]
    y_train: NDArray[Any]
    X_test: NDArray[Any]
    y_test: NDArray[Any]
    classes: tuple[str, ...]
    groups: NDArray[Any] | None = None
    coefficients: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """What a reader found: labels as the source has them, perhaps no test part.

    `names[v]` is the class name of label v, for the sources that number their classes; `columns` are the names of
    the features, where they have any.
    """

    name: str
    X: NDArray[Any]
    y: NDArray[Any]
    X_test: NDArray[Any] | None = None
    y_test: NDArray[Any] | None = None
    names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    groups: NDArray[Any] | None = None
    coefficients: NDArray[np.float64] | None = None


def one_line(error: object) -> str:
    """Return the text of an exception on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or odd file makes a reader raise into one `UsageError`."""
    try:
        yield
    except UsageError:
        raise
    except DAMAGED as e:
        raise UsageError(f"data file must be complete and readable, got {path} ({one_line(e)})") from e


def open_binary(path: Path) -> gzip.GzipFile | bz2.BZ2File | io.BufferedReader:
    """Open a plain, .gz or .bz2 file for reading bytes."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if path.suffix == ".bz2" else path.open("rb")


def check_size(rows: int, columns: int, itemsize: int, what: str) -> None:
    """Refuse a dense matrix of more than `MAX_BYTES`."""
    size = rows * columns * itemsize
    if size > MAX_BYTES:
        raise UsageError(
            f"{what} must fit in {MAX_BYTES / 2**30:g} GiB when dense, got {rows} x {columns} = {size / 2**30:.1f} GiB"
        )


def check_part(
    X: NDArray[Any], y: NDArray[Any], what: str, columns: tuple[str, ...] = ()
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check one part of a data set and bring it to the house form.

    Parameters
    ----------
    X : ndarray of shape (m, d)
        Features.
    y : ndarray of shape (m,)
        Targets: numbers or text.
    what : str
        What the part is called in messages.
    columns : tuple of str, optional
        Names of the columns of X, for messages.

    Returns
    -------
    tuple of ndarray
        X C-contiguous in native byte order, booleans as uint8; y likewise.

    Raises
    ------
    UsageError
        For a wrong dtype or shape, no rows, lengths that differ, or a value that is not finite.
    """
    X, y = _house_form(X, f"X of {what}", "biuf"), _house_form(y, f"y of {what}", "biufU")
    if X.ndim != 2:
        raise UsageError(f"X of {what} must be 2-D (rows, columns), got shape {X.shape}")
    if X.size == 0:
        raise UsageError(f"X of {what} must have rows and columns, got shape {X.shape}")
    if y.shape != X.shape[:1]:
        raise UsageError(f"y of {what} must have shape ({len(X)},) like X has rows, got {y.shape}")
    check_finite(X, f"X of {what}", columns)
    check_finite(y[:, None], f"y of {what}")
    return X, y


def _house_form(a: NDArray[Any], what: str, kinds: str) -> NDArray[Any]:
    if a.dtype.kind not in kinds:
        raise UsageError(f"{what} must hold integer or floating-point numbers, got dtype {a.dtype}")
    dtype = np.dtype(np.uint8) if a.dtype.kind == "b" else a.dtype.newbyteorder("=")
    return np.ascontiguousarray(a, dtype=dtype)


def check_finite(X: NDArray[Any], what: str, columns: tuple[str, ...] = ()) -> None:
    """Raise `UsageError` that names the first cell of the 2-D `X` that is NaN or infinite."""
    if X.dtype.kind != "f":
        return
    step = max(1, BLOCK // X.shape[1])
    for start in range(0, len(X), step):
        bad = ~np.isfinite(X[start : start + step])
        if bad.any():
            row, column = np.unravel_index(int(bad.argmax()), bad.shape)
            name = f', "{columns[column]}"' if columns else ""
            raise UsageError(
                f"{what} must be finite, got {X[start + row, column]} "
                f"in row {start + row}, column {column} (counted from 0){name}"
            )
