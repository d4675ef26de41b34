"""Products with a matrix of integers of 8 bits: a quarter of the memory of float32, and exact."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.native import compiled, pointer

Small = NDArray[np.int8]

LARGEST = 127

_DIGIT_BITS = 15
FRACTION_BITS = 44
"""Of numbers that are not integers, relative to the largest of their column."""


def product(X: Small, V: NDArray[np.int64]) -> NDArray[np.float64]:
    """XV of the first n columns of X, exact where sums are below 2^53 and else rounded.

    Parameters
    ----------
    X : array of int8, shape (m, d)
    V : array of int64, shape (n, C)

    Returns
    -------
    array of float64, shape (m, C)
    """
    n = len(V)
    if not compiled:
        values: NDArray[np.float64] = X[:, :n].astype(np.float64) @ V.astype(np.float64)
        return values
    X, digits = np.ascontiguousarray(X), _digits(V)
    parts = np.empty((len(digits), V.shape[1], len(X)), np.int64)
    compiled.lib.fedmpi_small_product(
        pointer(X, "int8_t"), *X.shape, n, pointer(digits, "int16_t"), parts.size // max(len(X), 1),
        pointer(parts, "int64_t"),
    )  # fmt: skip
    total = np.zeros(parts.shape[1:])
    for part in parts[::-1]:
        total *= 2.0**_DIGIT_BITS
        total += part
    return total.T


def real_product(X: Small, W: NDArray[np.floating[Any]], bits: int = FRACTION_BITS) -> NDArray[np.float64]:
    """XW of the first n columns, shape (m, C), where each of W's columns is rounded to 2^-bits of its largest number.

    The same bits whatever the processor; the error is at most ‖x‖₁·2^-bits times that number.
    """
    W = W.astype(np.float64)
    largest = np.abs(W).max(axis=0, initial=0.0)
    if not np.isfinite(largest).all():
        return np.full((len(X), W.shape[1]), np.nan)
    exponents = bits - np.frexp(largest)[1]
    integers = np.rint(np.ldexp(W, exponents)).astype(np.int64)
    return np.asarray(np.ldexp(product(X, integers), -exponents))


def transposed_product(X: Small, s: NDArray[np.float32]) -> NDArray[np.float32]:
    """Xᵀs of a vector, shape (d,), in float32."""
    if not compiled:
        sums: NDArray[np.float32] = X.T.astype(np.float32) @ s
        return sums
    X, s, g = np.ascontiguousarray(X), np.ascontiguousarray(s), np.zeros(X.shape[1], np.float32)
    compiled.lib.fedmpi_small_transposed_product(
        pointer(X, "int8_t"), *X.shape, pointer(s, "float"), pointer(g, "float")
    )
    return g


def _digits(V: NDArray[np.int64]) -> NDArray[np.int16]:
    """Digits from -2^14 to 2^14 - 1, lowest first, shape (digits, C, n)."""
    rest, half = V.T, 1 << (_DIGIT_BITS - 1)
    digits: list[NDArray[np.int16]] = []
    while not digits or rest.any():
        digit = ((rest + half) & (2 * half - 1)) - half
        digits.append(digit.astype(np.int16))
        rest = (rest - digit) >> _DIGIT_BITS
    return np.ascontiguousarray(np.stack(digits))
