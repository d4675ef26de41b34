"""From a data set's features to the quantized matrix X̄ and back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.quantize import Reals, quantize
from fedmpi.errors import HeadroomError, UsageError

_CHUNK_BYTES = 8 << 20
_FLOAT32_INTEGERS = 2**24


def row_chunks(rows: int, columns: int) -> list[slice]:
    """Slices of rows of about 8 MiB in float64, so that no copy of the whole matrix is made."""
    step = max(1, _CHUNK_BYTES // (8 * max(columns, 1)))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


@dataclass(frozen=True, eq=False)
class Transform:
    """x → ((x - mean) / scale, 1): learned from the training rows, applied to every row.

    Parameters
    ----------
    mean : array of float64, shape (features,)
        Zeros unless centred.
    scale : float
        In units of the features.
    bias : bool
        Whether a column of ones is added.
    """

    mean: NDArray[np.float64]
    scale: float
    bias: bool

    @classmethod
    def fit(cls, X: NDArray[Any], *, center: bool, scale: str, bias: bool) -> "Transform":
        """Learn from training rows X, shape (m, features); `scale` is "max", "none" or a positive number."""
        rows, columns = X.shape
        mean = np.zeros(columns)
        if center:
            for part in row_chunks(rows, columns):
                mean += X[part].sum(axis=0, dtype=np.float64)
            mean /= rows
        if scale == "max":
            largest = max(float(np.abs(X[part] - mean).max(initial=0.0)) for part in row_chunks(rows, columns))
            return cls(mean, largest or 1.0, bias)
        return cls(mean, parse_scale(scale), bias)

    @property
    def columns(self) -> int:
        """d: features plus the bias."""
        return len(self.mean) + self.bias

    def apply(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Transformed rows, shape (m, d)."""
        result = np.empty((len(X), self.columns))
        features = result[:, : len(self.mean)]
        np.subtract(X, self.mean, out=features)
        features /= self.scale
        if self.bias:
            result[:, -1] = 1.0
        return result

    def quantized(self, X: NDArray[Any], bits: int, p: int) -> Reals:
        """X̄ as signed integers in float32, shape (m, d): exact, and half the memory of float64.

        Raises
        ------
        HeadroomError
            If p < 2·max|X̄| + 1 [So et al. 2021, below eq. (5)], or a value needs more than 24 bits.
        """
        result = np.empty((len(X), self.columns), np.float32)
        for part in row_chunks(len(X), self.columns):
            integers = quantize(self.apply(X[part]), bits)
            largest = float(np.abs(integers).max(initial=0.0))
            if not largest < min(p / 2, _FLOAT32_INTEGERS):
                raise HeadroomError(
                    f"quantized features must be below p/2 = {p // 2} and 2^24, got {largest:g}: "
                    f"lower --data-bits, raise --scale, or take a larger --prime"
                )
            result[part] = integers
        return result

    def original_units(self, W: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients (C, features) and intercepts (C,) for untransformed features, from weights W (d, C)."""
        coefficients = W[: len(self.mean)].T / self.scale
        intercepts = W[-1].copy() if self.bias else np.zeros(W.shape[1])
        return coefficients, intercepts - coefficients @ self.mean


def parse_scale(scale: str) -> float:
    """The number behind --scale: 1 for "none"."""
    if scale == "none":
        return 1.0
    try:
        value = float(scale)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UsageError(f"--scale must be max, none or a positive number, got {scale}")
    return value
