"""From a data set's features to the quantized matrix X̄ and back."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.core import small
from fedmpi.core.quantize import quantize
from fedmpi.data import FileRows
from fedmpi.errors import HeadroomError, UsageError

SCALES = ("column", "std", "max", "none")
"""What --scale may be, besides a number."""

OUTLIER = 100.0
"""Values beyond so many times the 95th percentile of their column's non-zero values are taken for outliers."""

KEPT = 3.0
"""Outliers are cut off at so many times the largest value that is none: what they tell of a row is not lost."""

KEPT_LINEAR = 1000.0
"""The same for a linear model, in which the largest values count most."""

_CHUNK_BYTES = 8 << 20
_FLOAT32_INTEGERS = 2**24
_LARGEST_FEATURE = 1e300


def row_chunks(rows: int, columns: int, item_bytes: int = 8) -> list[slice]:
    """Slices of rows of about 8 MiB, if not said otherwise in float64, so that no copy of the whole matrix is made."""
    step = max(1, _CHUNK_BYTES // (item_bytes * max(columns, 1)))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def pieces_of(X: "Quantized") -> list[slice]:
    """Row chunks for products that make no copy of small integers; those of a file are made anew, of reals."""
    rows, columns = X.shape
    return row_chunks(rows, columns, 1 if X.dtype == np.int8 and isinstance(X, np.ndarray) else 8)


def dense(X: Any) -> NDArray[Any]:
    """Rows as an array, also those of a SciPy sparse matrix."""
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X)


def times(X: "Quantized", W: NDArray[Any]) -> NDArray[Any]:
    """XW for weights of the first columns of X, shape (m, C).

    In the precision of X, but of integers of 8 bits in float64: exact for integers, and else as `small.real_product`.
    """
    if X.dtype == np.int8:
        multiply = small.product if W.dtype == np.int64 else small.real_product
        return np.concatenate([multiply(X[part], W) for part in pieces_of(X)] or [np.empty((0, W.shape[1]))])
    Z, W = np.empty((len(X), W.shape[1]), X.dtype), W.astype(X.dtype)
    for part in row_chunks(*X.shape):
        np.matmul(X[part][:, : len(W)], W, out=Z[part])
    return Z


def times_transposed(X: "Quantized", S: NDArray[np.float64]) -> NDArray[np.float64]:
    """XᵀS, shape (d, C)."""
    total = np.zeros((X.shape[1], S.shape[1]))
    for part in row_chunks(*X.shape):
        total += X[part].T @ S[part]
    return total


@dataclass(frozen=True, eq=False)
class Transform:
    """x → ((x - mean) / scale, 1): learned from the training rows, applied to every row.

    Parameters
    ----------
    mean : array of float64, shape (features,)
        Zeros unless centred.
    scale : array of float64, shape (features,)
        In units of the features.
    ones : bool
        Whether a column of ones is added.
    limit : array of float64, shape (features,)
        Where x - mean is farther from 0 it is cut off there; infinite for all columns without outliers.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    ones: bool
    limit: NDArray[np.float64]

    @classmethod
    def fit(cls, X: Any, *, center: bool, scale: str, ones: bool, kept: float = KEPT) -> "Transform":
        """Learn from training rows.

        Parameters
        ----------
        X : array or SciPy sparse matrix, shape (m, features)
        center : bool
            Subtract each column's mean.
        scale : str
            What each column is divided by. "column": its own largest absolute value, outliers left aside; "std": its
            standard deviation; "max": the largest absolute value of all columns; "none", or a positive number.
        ones : bool
        kept : float
            Where outliers are cut off, in units of the largest value that is none.

        Raises
        ------
        UsageError
            If a value is so large that its square does not fit in float64.
        """
        rows, columns = X.shape
        mean, unlimited = np.zeros(columns), np.full(columns, np.inf)
        if center:
            for part in row_chunks(rows, columns):
                mean += dense(X[part]).sum(axis=0, dtype=np.float64)
            mean /= rows
        if scale not in ("column", "std"):
            value = parse_scale(scale) if scale != "max" else _largest(X, mean).max(initial=0.0) or 1.0
            return cls(mean, np.full(columns, value), ones, unlimited)
        largest = _largest(X, mean)
        if largest.max(initial=0.0) > _LARGEST_FEATURE:
            j = int(largest.argmax())
            raise UsageError(f"features must be at most 1e300 in absolute value, got {largest[j]:g} in column {j}")
        if scale == "std":
            deviation = _deviations(X, largest)
            return cls(mean, np.where(deviation > 0, deviation, np.where(largest > 0, largest, 1.0)), ones, unlimited)
        ordinary = _ordinary(X, mean, largest)
        bound = np.minimum(ordinary, largest)
        return cls(mean, np.where(bound > 0, bound, 1.0), ones, kept * ordinary)

    @property
    def columns(self) -> int:
        """d: features, and the column of ones."""
        return len(self.mean) + self.ones

    @property
    def clipped(self) -> NDArray[np.intp]:
        """The columns with outliers."""
        return np.flatnonzero(np.isfinite(self.limit))

    def apply(self, X: Any) -> NDArray[np.float64]:
        """Transformed rows, shape (m, d)."""
        rows = dense(X)
        result = np.empty((len(rows), self.columns))
        features = result[:, : len(self.mean)]
        np.subtract(rows, self.mean, out=features)
        for j in self.clipped:
            np.clip(features[:, j], -self.limit[j], self.limit[j], out=features[:, j])
        features /= self.scale
        if self.ones:
            result[:, -1] = 1.0
        return result

    def outputs(self, X: Any, W: NDArray[np.float64]) -> NDArray[np.float64]:
        """XW of raw rows, shape (m, C), for weights whose last row may be an intercept; no copy of X is made."""
        rows, columns = X.shape
        z = np.empty((rows, W.shape[1]))
        for part in row_chunks(rows, columns):
            x = self.apply(X[part])[:, :columns]
            z[part] = x @ W[:columns]
        return z + W[columns] if len(W) > columns else z

    def quantized(self, X: Any, bits: int, largest: float, entry: float = math.inf) -> tuple["Quantized", "Erased"]:
        """X̄ as signed integers of shape (m, d), and what rounding erased; int8, or float32, which is exact too.

        Of rows that stay in their file, so does X̄.

        Parameters
        ----------
        bits : int
            l_x.
        largest : float
            p/2, or of several primes Π p_j/2.
        entry : float
            The largest absolute value of transformed rows, where it is known: what fits in int8 takes no more.

        Raises
        ------
        HeadroomError
            If a value does not fit [So et al. 2021, below eq. (5)], or needs more than 24 bits.
        """
        result: Quantized
        dtype = np.int8 if 2.0**bits * entry < small.LARGEST - 1 else np.float32
        if isinstance(X, FileRows):
            result = RowsAnew(X, self.columns, dtype, lambda rows: quantize(self.apply(rows), bits))
        else:
            result = np.empty((X.shape[0], self.columns), dtype)
        features = len(self.mean)
        entries, left = 0, 0
        low, high = np.full(features, np.inf), np.full(features, -np.inf)
        for part in row_chunks(*result.shape):
            x = self.apply(X[part])
            entries += int(np.count_nonzero(x[:, :features] != 0))  # ten times as fast as of the numbers themselves
            np.minimum(low, x[:, :features].min(axis=0, initial=np.inf), out=low)
            np.maximum(high, x[:, :features].max(axis=0, initial=-np.inf), out=high)
            integers = quantize(x, bits)
            left += int(np.count_nonzero(integers[:, :features] != 0))
            if isinstance(result, np.ndarray):
                result[part] = integers
        # Rounding keeps the order: the largest value before it is the largest after it.
        ends = quantize(np.stack([low, high]), bits)
        value = max(float(np.abs(ends).max(initial=0.0)), 2.0**bits * self.ones)
        if not value < min(largest, _FLOAT32_INTEGERS):
            raise HeadroomError(
                f"quantized features must be below p/2 = {largest:.0f} and 2^24, got {value:g}: "
                f"lower --data-bits, or take --scale column"
            )
        vary = low < high
        return result, Erased(entries, entries - left, int(vary.sum()), int((vary & (ends[0] == ends[1])).sum()))

    def original_units(self, W: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients (C, features) and intercepts (C,) for untransformed features, from weights W.

        W has one row for each feature, and one more for the intercept if there is one. Where features have
        outliers, the coefficients are those of features that are cut off at `limit`.

        Raises
        ------
        UsageError
            If a coefficient is beyond float64, because its feature is so small.
        """
        features = len(self.mean)
        with np.errstate(over="ignore"):
            coefficients = W[:features].T / self.scale
        if not np.isfinite(coefficients).all():
            j = int(np.flatnonzero(~np.isfinite(coefficients).all(axis=0))[0])
            raise UsageError(
                f"features must be large enough for a finite coefficient, got {self.scale[j]:g} in column {j}"
            )
        intercepts = W[features].copy() if len(W) > features else np.zeros(W.shape[1])
        return coefficients, intercepts - coefficients @ self.mean


class RowsAnew:
    """Rows that are made from those of a file whenever some are asked for, and kept nowhere.

    Parameters
    ----------
    X : FileRows
    columns : int
        Of what is made.
    dtype : data type
        Likewise.
    make : callable
        Rows of the file, shape (n, features) → shape (n, columns).
    """

    def __init__(self, X: FileRows, columns: int, dtype: Any, make: Callable[[NDArray[Any]], NDArray[Any]]):
        self.shape, self.dtype = (len(X), columns), np.dtype(dtype)
        self._X, self._make = X, make

    def __len__(self) -> int:
        """How many there are."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Some of them."""
        return self._make(self._X[rows]).astype(self.dtype, copy=False)


Quantized = NDArray[Any] | RowsAnew
"""X̄, shape (m, d): in memory, or of rows that stay in their file."""


@dataclass(frozen=True)
class Erased:
    """What quantization leaves of the features."""

    entries: int
    """Entries that are not 0."""
    erased_entries: int
    """Of these, the ones that become 0."""
    columns: int
    """Columns that are not constant."""
    erased_columns: int
    """Of these, the ones that become constant."""

    @property
    def text(self) -> str:
        """In one line, for people."""
        return (
            f"{self.erased_entries / max(self.entries, 1):.2%} of the non-zero entries and "
            f"{self.erased_columns} of {self.columns} columns"
        )


def _largest(X: Any, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest |x_ij - mean_j| of each column."""
    rows, columns = X.shape
    largest = np.zeros(columns)
    for part in row_chunks(rows, columns):
        x = dense(X[part])
        for end in (x.min(axis=0), x.max(axis=0)):
            np.maximum(largest, np.abs(end - mean), out=largest)
    return largest


def _deviations(X: Any, largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard deviation of each column, in two passes over x / largest, which can't overflow."""
    rows, columns = X.shape
    unit = np.where(largest > 0, largest, 1.0)
    mean, squares = np.zeros(columns), np.zeros(columns)
    for part in row_chunks(rows, columns):
        mean += (dense(X[part]) / unit).sum(axis=0) / rows
    for part in row_chunks(rows, columns):
        squares += np.square(dense(X[part]) / unit - mean).sum(axis=0) / rows
    deviation = np.sqrt(squares)
    constant = deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-30)  # nothing but the rounding of the mean
    return np.where(constant, 0.0, deviation) * unit


def _ordinary(X: Any, mean: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest absolute value of each column that is no outlier; infinite where no value is one.

    Only columns whose mean is far below their largest value can have one, so that few are sorted.
    """
    rows, columns = X.shape
    totals, counts = np.zeros(columns), np.zeros(columns)
    unit = np.where(largest > 0, largest, 1.0)
    for part in row_chunks(rows, columns):
        x = np.abs(dense(X[part]) - mean)
        totals += (x / unit).sum(axis=0)
        counts += np.count_nonzero(x, axis=0)
    found = np.full(columns, np.inf)
    # With 95 % of the values below 1/100 of the largest, their mean is below 0.95/100 + 0.05 of it.
    suspects = np.flatnonzero((totals < 0.06 * counts) & (counts >= 20))
    several = max(1, _CHUNK_BYTES // (8 * max(rows, 1)))  # a look at columns of a file reads all of it
    for start in range(0, len(suspects), several):
        group = suspects[start : start + several]
        for j, x in zip(group, np.abs(dense(X[:, group]) - mean[group]).T, strict=True):
            x = x[x > 0]
            ordinary = x[x <= OUTLIER * np.quantile(x, 0.95)]
            if len(ordinary) < len(x):
                found[j] = ordinary.max()
    return found


def parse_scale(scale: str) -> float:
    """The number behind --scale: 1 for "none"."""
    if scale == "none":
        return 1.0
    try:
        value = float(scale)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UsageError(f"--scale must be column, std, max, none or a positive number, got {scale}")
    return value
