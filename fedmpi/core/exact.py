"""Sums of doubles that are exact whatever their sizes and order: fixed point in Z_{2^512}, as Python integers.

A value is a multiple of 2^-312, so that squares of numbers from 1e-30 to 1e19 keep all their digits.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

FRACTION_BITS = 312
"""Bits behind the point."""
WORDS = 8
"""Words of 64 bits that hold a number; a sum must be below 2^199 in size."""
LARGEST = 2.0**64
"""Numbers must be below it in size: then 2^70 of their squares have a sum."""

_LIMB = 26
_SPLIT = 2.0**27 + 1
_BLOCK = 1 << 20
_MODULUS = 1 << 64 * WORDS


def total(x: NDArray[np.float64]) -> int:
    """Σ x · 2^312; what a single value has behind the last bit is cut off before it is added.

    Parameters
    ----------
    x : array of float64, shape (n,)
        Finite, below 2^130 in size.
    """
    found = 0
    for start in range(0, len(x), _BLOCK):
        rest = x[start : start + _BLOCK].copy()
        _, largest = np.frexp(np.abs(rest).max(initial=0.0))
        # whole numbers below 2^27 have exact sums as doubles, whatever their order
        for exponent in range(_LIMB * (int(largest) // _LIMB), -FRACTION_BITS - 1, -_LIMB):
            if not rest.any():
                break
            limb = np.trunc(rest * 2.0**-exponent)
            rest -= limb * 2.0**exponent
            found += int(limb.sum()) << (exponent + FRACTION_BITS)
    return found


def total_squares(x: NDArray[np.float64]) -> int:
    """Σ x² · 2^312, of squares with all their digits [Dekker 1971]; x as in `total`, but below 2^64."""
    big = _SPLIT * x
    high = big - (big - x)
    low = x - high
    square = x * x
    return total(square) + total(((high * high - square) + 2 * high * low) + low * low)


def to_words(numbers: Iterable[int]) -> Words:
    """Integers modulo 2^512, shape (n, 8), least significant words first."""
    raw = b"".join((number % _MODULUS).to_bytes(8 * WORDS, "little") for number in numbers)
    return np.frombuffer(raw, "<u8").reshape(-1, WORDS)


def from_words(words: Words) -> list[int]:
    """The integers, between -2^511 and 2^511."""
    raw = np.ascontiguousarray(words, "<u8").tobytes()
    numbers = (int.from_bytes(raw[at : at + 8 * WORDS], "little") for at in range(0, len(raw), 8 * WORDS))
    return [number - _MODULUS if number >> (64 * WORDS - 1) else number for number in numbers]


def add(a: Words, b: Words, sign: int = 1) -> Words:
    """Numbers a + b, or with sign -1 a - b, of `WORDS` words each, shape (n, 8)."""
    return to_words(x + sign * y for x, y in zip(from_words(a), from_words(b), strict=True))
