"""Which large tables float32 is enough for."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.table import blocks

LARGE = 256 << 20
"""Bytes of a table in float64 from which on it is rounded to float32, where that does no harm."""
STEPS = 1 << 16
"""A deviation from the mean has at least so many steps of rounding."""
EVERY = 16
"""Of so many rows one is looked at for the deviation; the others are taken to lie at the mean, so that what is found is
at most the true one."""


class TooCoarseError(Exception):
    """A table was rounded, and rows came later for which that does harm: it is read again."""


@dataclass(frozen=True)
class Look:
    """What was seen of some rows: the extremes and exactness of each column, and one row in sixteen."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    exact: NDArray[np.bool_]
    rows: int
    some: NDArray[np.float64]


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
        self._rows = 0
        self._counts, self._sums, self._squares = np.zeros((3, d))
        self._origin: NDArray[np.float64] | None = None

    def look(self, X: NDArray[np.float64]) -> Look:
        """Look at rows, shape (m, d), in any thread; NaN stands for a missing value."""
        exact = np.zeros(X.shape[1], dtype=bool)
        if (left := np.flatnonzero(self._exact)).size:
            cells = X[:, left]
            with np.errstate(all="ignore"):  # of infinite values others speak
                exact[left] = ((cells.astype(np.float32) == cells) | np.isnan(cells)).all(axis=0)
        return Look(np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0), exact, len(X), X[::EVERY].copy())

    def add(self, look: Look) -> None:
        """Count what was seen; always in the order of the rows, so that every reading comes to the same."""
        self._low, self._high = np.fmin(self._low, look.low), np.fmax(self._high, look.high)
        self._exact &= look.exact
        self._rows += look.rows
        if self._origin is None:
            self._origin = np.nan_to_num(look.some[0])
        with np.errstate(all="ignore"):
            some = look.some - self._origin
            self._counts += len(some) - np.isnan(some).sum(axis=0)
            self._sums += np.nansum(some, axis=0)
            self._squares += np.nansum(some * some, axis=0)

    def add_all(self, X: NDArray[np.float64]) -> None:
        """Look at many rows, some at a time."""
        for block in blocks(*X.shape):
            self.add(self.look(X[block]))

    @property
    def harmless(self) -> bool:
        """Whether float32 is enough for all columns."""
        with np.errstate(all="ignore"):
            squares = self._squares - self._sums**2 / np.maximum(self._counts, 1)
            squares = np.maximum(squares, (self._high - self._low) ** 2 / 2)  # of the outermost two alone
            deviation = np.sqrt(squares / max(self._rows, 1))
            largest = np.maximum(abs(self._low), abs(self._high))
            moved = largest * np.finfo(np.float32).eps / 2
            usual = (largest < 1e30) & (deviation > 1e-30)  # far from where float32 ends
            return bool((self._exact | (self._low == self._high) | (usual & (moved * STEPS <= deviation))).all())


def harmless(X: NDArray[np.float64]) -> bool:
    """Whether float32 is enough for these rows alone."""
    rounding = Rounding(X.shape[1])
    rounding.add_all(X)
    return rounding.harmless
