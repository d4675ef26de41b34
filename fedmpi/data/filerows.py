"""Rows that stay in their file, or sparse in memory, for whoever needs only some of them at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class FileRows:
    """Some rows of a memory-mapped matrix, in some order: what is not asked for is not read.

    Parameters
    ----------
    X : memory-mapped array, shape (rows, d)
    order : array of int, shape (m,), optional
        Which rows these are; by default all.
    """

    ndim = 2

    def __init__(self, X: Any, order: NDArray[np.intp] | None = None):
        self._X, self._order = X, np.arange(len(X)) if order is None else order
        self.shape, self.dtype = (len(self._order), int(X.shape[1])), X.dtype

    def __len__(self) -> int:
        """Rows."""
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Some rows, or some columns of all of them: `X[rows]` and `X[:, columns]` of an array."""
        if not isinstance(key, tuple):
            return np.ascontiguousarray(self._X[self._order[key]])
        rows, columns = key
        order = self._order[rows]
        found = np.empty((len(order), len(columns)), self.dtype)
        step = max(1, (1 << 20) // self.shape[1])
        for start in range(0, len(order), step):
            found[start : start + step] = self._X[order[start : start + step]][:, columns]
        return found

    def rows(self, order: NDArray[np.intp]) -> "FileRows":
        """Some of these rows, of which none is read yet."""
        return type(self)(self._X, self._order[order])


class SparseRows(FileRows):
    """Likewise of a sparse matrix in memory: dense are only those that are asked for.

    Parameters
    ----------
    X : SciPy sparse matrix in rows, shape (rows, d)
    order : array of int, shape (m,), optional
    """

    def __init__(self, X: Any, order: NDArray[np.intp] | None = None):
        super().__init__(X, np.arange(X.shape[0]) if order is None else order)

    @property
    def finite(self) -> bool:
        """Whether all values are."""
        return bool(np.isfinite(self._X.data).all())

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Some rows, or some columns of all of them, dense."""
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        return np.asarray(self._X[self._order[rows]][:, columns].toarray())
