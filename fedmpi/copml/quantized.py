"""Rows as the protocol takes them: scaled features and a column of ones, as integers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

CUT = 4.0
"""Prepared columns of tables, whose deviation is 1, are cut off there: the ring has room for numbers up to a bound."""

_POWER_ITERATIONS = 50


def features(X: NDArray[Any], divisor: float, largest: float) -> NDArray[np.float64]:
    """Features divided and cut off, and ones behind them, shape (m, d + 1)."""
    scaled = np.clip(np.asarray(X, np.float64) / divisor, -largest, largest)
    return np.hstack([scaled, np.ones((len(scaled), 1))])


def quantized(real: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """The nearest integers to 2^bits times the features."""
    return np.rint(real * 2.0**bits).astype(np.int32)


def targets(y: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """0 and 1: one column for two classes, one per class for more."""
    Y = y[:, None] == np.arange(classes) if classes > 2 else y[:, None]
    return np.asarray(Y, np.int64)


def largest_eigenvalue(X_bar: NDArray[Any]) -> float:
    """λ_max(X̄ᵀX̄) by power iteration; close from below, which steps leave room for: see `scale.STABLE`."""
    X = X_bar.astype(np.float32)
    v = X.sum(axis=0) + np.float32(np.random.default_rng(0).standard_normal(X.shape[1]))
    value = 0.0
    for _ in range(_POWER_ITERATIONS):
        norm = float(np.linalg.norm(v))
        if not norm > 0:
            return 0.0
        v = X.T @ (X @ (v / norm))
        value = float(np.linalg.norm(v))
    return value
