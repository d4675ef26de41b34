"""Which large tables float32 is enough for."""

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.table import blocks

LARGE = 256 << 20
"""Bytes of a table in float64 from which on it is rounded to float32, where that does no harm."""
STEPS = 1 << 16
"""A deviation from the mean has at least so many steps of rounding."""


class TooCoarseError(Exception):
    """A table was rounded, and rows came later for which that does harm: it is read again."""


class Rounding:
    """What rounding the columns of a table to float32 does, looked at block by block.

    It does no harm to a column if all values stay what they are, or if the largest is moved by at most 1/65536 of
    the standard deviation: no statistic of the column and no scaled value changes by more than that.

    Parameters
    ----------
    d : int
        Columns.
    """

    def __init__(self, d: int) -> None:
        self._exact = np.ones(d, dtype=bool)
        self._low, self._high = np.full(d, np.inf), np.full(d, -np.inf)
        self._counts, self._sums, self._squares = np.zeros((3, d))
        self._origin: NDArray[np.float64] | None = None

    def add(self, X: NDArray[np.float64]) -> None:
        """Look at rows, shape (m, d); NaN stands for a missing value."""
        with np.errstate(all="ignore"):  # of infinite values others speak
            for block in blocks(*X.shape):
                rows = X[block]
                self._low = np.fmin(self._low, np.fmin.reduce(rows, axis=0))
                self._high = np.fmax(self._high, np.fmax.reduce(rows, axis=0))
                if (left := np.flatnonzero(self._exact)).size:
                    cells = rows[:, left]
                    self._exact[left] = ((cells.astype(np.float32) == cells) | np.isnan(cells)).all(axis=0)
                if self._origin is None:
                    self._origin = np.nan_to_num(rows[0])
                rows = rows - self._origin
                counts = np.full(rows.shape[1], len(rows))
                if np.isnan(sums := rows.sum(axis=0)).any():
                    counts -= np.isnan(rows).sum(axis=0)
                    rows = np.nan_to_num(rows)
                    sums = rows.sum(axis=0)
                self._counts += counts
                self._sums += sums
                self._squares += np.einsum("ij,ij->j", rows, rows)

    @property
    def harmless(self) -> bool:
        """Whether float32 is enough for all columns."""
        with np.errstate(all="ignore"):
            counts = np.maximum(self._counts, 1)
            deviation = np.sqrt(self._squares / counts - (self._sums / counts) ** 2)
            largest = np.maximum(abs(self._low), abs(self._high))
            moved = largest * np.finfo(np.float32).eps / 2
            usual = (largest < 1e30) & (deviation > 1e-30)  # far from where float32 ends
            return bool((self._exact | (self._low == self._high) | (usual & (moved * STEPS <= deviation))).all())


def harmless(X: NDArray[np.float64]) -> bool:
    """Whether float32 is enough for these rows alone."""
    rounding = Rounding(X.shape[1])
    rounding.add(X)
    return rounding.harmless
