"""Fixed point in the ring Z_{2^64}: reals as 64-bit words of which any sum is exact, wraps and all."""

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import HeadroomError

Words = NDArray[np.uint64]

WIDE_BITS = (-52, 0, 52, 104)
"""Bits behind the point of the words of a wide value: each holds what the words before it have left of a double."""


def limit(fraction_bits: int, summands: int) -> float:
    """2^63 / (N·2^f): N values below it in size have a sum that Z_{2^64} can tell from every other."""
    return 2.0 ** (63 - fraction_bits) / summands


def encode(values: NDArray[np.float64], fraction_bits: int, summands: int, what: str = "value") -> Words:
    """⌊v·2^f⌉ mod 2^64, refused where a sum of N such values could overflow: N·max|v|·2^f < 2^63.

    Parameters
    ----------
    values : array of float64, shape (n,)
    fraction_bits : int
        f, at most 62; negative for large values.
    summands : int
        N, how many values will be added up.
    what : str
        What the values are called in messages.

    Returns
    -------
    array of uint64, shape (n,)

    Raises
    ------
    HeadroomError
        Naming the first coordinate that is too large, or not finite.
    """
    most = limit(fraction_bits, summands)
    if not np.abs(values).max(initial=0.0) < most:  # nor is NaN
        at = int((np.abs(values) < most).argmin())
        raise HeadroomError(
            f"{what} of coordinate {at} must be below 2^63/(N·2^f) = {most:.6g} in size "
            f"for N = {summands} and f = {fraction_bits} fraction bits, got {values[at]:.6g}"
        )
    scaled = values * 2.0**fraction_bits
    return np.rint(scaled, out=scaled).astype(np.int64).view(np.uint64)


def decode(words: Words, fraction_bits: int) -> NDArray[np.float64]:
    """The reals of a sum of encoded values, shape (n,)."""
    return words.view(np.int64).astype(np.float64) * np.float64(2.0**-fraction_bits)


def encode_wide(values: NDArray[np.float64], summands: int, what: str = "value") -> Words:
    """Four words a value: for sums that need range and precision, such as squares in units that nobody chose.

    Parameters
    ----------
    values : array of float64, shape (n,)
        N·|v| < 2^115, kept to 2^−105.
    summands : int
        N, at most 2^11.
    what : str
        What the values are called in messages.

    Returns
    -------
    array of uint64, shape (4n,)

    Raises
    ------
    HeadroomError
        Naming the first value that is too large, or not finite.
    """
    if summands > 2**11:  # N halves of 2^52 must stay below 2^63
        raise HeadroomError(f"the number of summands of wide values must be at most {2**11}, got {summands}")
    most = limit(WIDE_BITS[0], summands)
    if wrong := values[~(np.abs(values) < most)].tolist():
        raise HeadroomError(
            f"{what} must be below {most:.6g} in size among {summands} that are summed, got {wrong[0]:.6g}: "
            "divide the target, or the column that is so large, by something"
        )
    parts, rest = np.empty((len(WIDE_BITS), len(values))), values
    for part, bits in zip(parts, WIDE_BITS, strict=True):
        np.rint(rest * 2.0**bits, out=part)
        rest = rest - part * 2.0**-bits
    return parts.astype(np.int64).view(np.uint64).ravel()


def decode_wide(words: Words) -> NDArray[np.float64]:
    """The reals of a sum of values encoded by `encode_wide`, shape (n,)."""
    parts = words.reshape(len(WIDE_BITS), -1).view(np.int64) * np.exp2(np.negative(WIDE_BITS))[:, None]
    total: NDArray[np.float64] = parts[0] + (parts[1] + (parts[2] + parts[3]))
    return total
