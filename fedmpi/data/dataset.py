"""What every reader yields, what every caller gets, and the checks in between."""

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.filerows import FileRows, SparseRows
from fedmpi.data.preparation import Preparation
from fedmpi.data.table import Where
from fedmpi.errors import UsageError

MAX_BYTES = 8 << 30  # a dense matrix larger than this is refused, not tried
# what readers raise on a file that is not what it should be
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    MemoryError,
    RuntimeError,  # a member of a .zip is encrypted, or packed as nobody here can unpack
    csv.Error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
LONG = 2000  # characters of a message
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
        uint8, flattened). Of a caller who asks for that `FileRows`, whose rows stay in their file or sparse.
    y_train, y_test : ndarray of shape (m,)
        Classification: int64 in 0..C-1. Regression: float64.
    classes : tuple of str
        Name of label k at place k; empty for regression.
    groups : ndarray of shape (m,) or None
        Which group each training row belongs to, numbers or text, where a column says so.
    coefficients : ndarray of shape (d,) or None
        The true parameters of a made-up regression.
    shape : tuple of int
        Of one row where rows are images: (channels, height, width). Empty for tables: nothing is guessed.
    columns : tuple of str
        Names of the features, where the source has them.
    values : mapping
        Rows that were not prepared: column of text → its values, of which the rows hold the places.
    notes : tuple of str
        What was found in the source and done about it, for people.
    preparation : Preparation or None
        What was done to the rows, if anything.
    rounded : bool
        Whether the rows were float32 before the preparation.
    """

    name: str
    X_train: NDArray[Any]
    y_train: NDArray[Any]
    X_test: NDArray[Any]
    y_test: NDArray[Any]
    classes: tuple[str, ...]
    groups: NDArray[Any] | None = None
    coefficients: NDArray[np.float64] | None = None
    shape: tuple[int, ...] = ()
    columns: tuple[str, ...] = ()
    values: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    preparation: Preparation | None = None
    rounded: bool = False

    @property
    def digest(self) -> bytes:
        """SHA-256 of the training rows and what they mean: ranks that read one file must have the same.

        Where missing values are filled in by what was learnt here the rows are left out: sums over doubles differ in
        the last bit between kinds of processors.
        """
        filled = self.preparation is not None and any(c.fill is not None for c in self.preparation.columns)
        words = (self.columns, self.classes, self.shape, sorted(self.values.items()), self.X_train.shape)
        found = hashlib.sha256(repr((*words, self.X_train.dtype.str)).encode())
        for array in (self.y_train,) if filled else (self.X_train, self.y_train):
            found.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
        return found.digest()

    def check_same(self, digest: bytes, rank: int) -> None:
        """Refuse another version of the file than rank 0 has; nothing is compared where it gave no digest.

        Raises
        ------
        UsageError
        """
        if digest and digest != self.digest:
            raise UsageError(
                f"the data set must be the same on all ranks, got another {self.name} on rank {rank} than on 0"
            )


@dataclass(frozen=True, eq=False)
class Raw:
    """What a reader found: labels as the source has them, perhaps no test part.

    `names[v]` is the class name of label v, for the sources that number their classes; `columns` are the names of
    the features, where they have any. Where a column holds text, X holds places in `values`, or NaN; `where` says at
    which place of the file a row stands. Of a table of which some columns were asked for `others` are the names of
    those left out, and `last` is that of the last column of all.
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
    shape: tuple[int, ...] = ()
    values: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    where: Where | None = None
    others: tuple[str, ...] = ()
    last: str = ""


def one_line(error: object) -> str:
    """Return the text of an exception on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or odd file makes a reader raise into one `UsageError`."""
    try:
        yield
    except UsageError as e:
        if len(str(e).splitlines()) < 2 and len(str(e)) < LONG:
            raise
        raise UsageError(one_line(e)[:LONG]) from None  # it quotes a cell of several lines, or a book
    except DAMAGED as e:
        raise UsageError(f"data file must be complete and readable, got {path} ({one_line(e)})") from e


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading bytes: plain, .gz, .bz2, .xz, or a .zip of one file."""
    suffix = path.suffix.lower()
    if suffix == ".zip":
        archive = zipfile.ZipFile(path)
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if len(names) != 1:
            raise UsageError(f"{path} must hold one file, got {len(names)}")
        check_unpacked(path, archive.getinfo(names[0]).file_size)
        return _bounded(path, archive.open(names[0]))
    unpack: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if suffix not in unpack:
        return path.open("rb")
    if suffix == ".gz":  # says at its end what its last part unpacks to, modulo 2^32
        with path.open("rb") as file:
            file.seek(-min(4, path.stat().st_size), io.SEEK_END)
            check_unpacked(path, int.from_bytes(file.read(4), "little"))
    return _bounded(path, unpack[suffix](path, "rb"))


class _Unpacked(io.RawIOBase):
    """What a packed file holds, as far as it is not too much: a small one can unpack to more than there is memory."""

    def __init__(self, path: Path, file: IO[bytes]):
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        data = self._file.read(len(buffer))
        check_unpacked(self._path, self._file.tell())
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _bounded(path: Path, file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], io.BufferedReader(_Unpacked(path, file), 1 << 20))


def check_unpacked(path: Path, size: int) -> None:
    """Refuse a packed file whose contents are larger than the largest matrix."""
    if size > MAX_BYTES:
        raise UsageError(f"{path} must unpack to at most {MAX_BYTES / 2**30:g} GiB, got {size / 2**30:.3g} GiB or more")


def check_size(rows: int, columns: int, itemsize: int, what: str) -> None:
    """Refuse a dense matrix of more than `MAX_BYTES`."""
    size = rows * columns * itemsize
    if size > MAX_BYTES:
        raise UsageError(
            f"{what} must fit in {MAX_BYTES / 2**30:g} GiB when dense, got {rows} x {columns} = {size / 2**30:.1f} GiB"
        )


def check_part(
    X: NDArray[Any],
    y: NDArray[Any],
    what: str,
    columns: tuple[str, ...] = (),
    where: Where | None = None,
    *,
    missing: bool = False,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check one part of a data set and bring it to the house form.

    Parameters
    ----------
    X : ndarray of shape (m, d)
        Features.
    y : ndarray of shape (m,) or (m, 1)
        Targets: numbers or text.
    what : str
        What the part is called in messages.
    columns : tuple of str, optional
        Names of the columns of X, for messages.
    where : callable, optional
        Where a row stands in its file.
    missing : bool
        Whether NaN stands for a missing value, and is left to a preparation.

    Returns
    -------
    tuple of ndarray
        X C-contiguous in native byte order, booleans as uint8; y likewise.

    Raises
    ------
    UsageError
        For a wrong dtype or shape, no rows, lengths that differ, or a value that is not finite.
    """
    y = _house_form(y, f"y of {what}", "biufU")
    if not isinstance(X, FileRows):
        X = _house_form(X, f"X of {what}", "biuf")
    if X.ndim != 2:
        raise UsageError(f"X of {what} must be 2-D (rows, columns), got shape {X.shape}")
    if 0 in X.shape:
        raise UsageError(f"X of {what} must have rows and columns, got shape {X.shape}")
    if y.shape == (len(X), 1):
        y = y[:, 0]
    if y.shape != X.shape[:1]:
        raise UsageError(f"y of {what} must have shape ({len(X)},) like X has rows, got {y.shape}")
    if not (isinstance(X, SparseRows) and X.finite):
        check_finite(X, f"X of {what}", columns, where, missing=missing)
    check_finite(y[:, None], f"y of {what}")
    return X, y


def _house_form(a: NDArray[Any], what: str, kinds: str) -> NDArray[Any]:
    if a.dtype.kind not in kinds:
        raise UsageError(f"{what} must hold integer or floating-point numbers, got dtype {a.dtype}")
    dtype = np.dtype(np.uint8) if a.dtype.kind == "b" else a.dtype.newbyteorder("=")
    return np.ascontiguousarray(a, dtype=dtype)


def check_finite(
    X: NDArray[Any],
    what: str,
    columns: tuple[str, ...] = (),
    where: Where | None = None,
    *,
    missing: bool = False,
) -> None:
    """Raise `UsageError` that names the first cell of the 2-D `X` that is infinite, or NaN and not `missing`."""
    if X.dtype.kind != "f":
        return
    step = max(1, BLOCK // X.shape[1])
    for start in range(0, len(X), step):
        block = X[start : start + step]
        bad = np.isinf(block) if missing else ~np.isfinite(block)
        if not bad.any():
            continue
        row, column = np.unravel_index(int(bad.argmax()), bad.shape)
        cell, row = block[row, column], start + row
        table = what.removeprefix("X of ")
        if where is None:
            name = f', "{columns[column]}"' if columns else ""
            raise UsageError(f"{what} must be finite, got {cell} in row {row}, column {column} (counted from 0){name}")
        if np.isnan(cell):
            raise UsageError(
                f'column "{columns[column]}" of {table} must have no missing values, got one{where(int(row))}: '
                "fill them in, or ask to impute them"
            )
        raise UsageError(f'column "{columns[column]}" of {table} must be finite, got {cell}{where(int(row))}')
