"""Integers with probabilities proportional to exp(-y²/2σ²), exactly: every step compares uniform integers.

No logarithm and no rounded number is in it, so that a sum tells nothing by what floating point can't say [Mironov
2012]. The steps are those of Karney [2016, algorithm D], the coins of probability exp(-a/b) those of Canonne, Kamath
and Steinke [2020, algorithm 1]. σ is a whole number, which keeps all numbers small.
"""

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.gaussian import Stream
from fedmpi.errors import UsageError

LARGEST_STD = 2**31 - 1
"""So that 2σ² fits in 63 bits."""

_AT_ONCE = 1 << 14  # numbers tried per step; 64 bits of each come from one call of the stream

Integers = NDArray[np.int64]
_Words = NDArray[np.uint64]


def discrete_gaussian(stream: Stream, size: int, std: int) -> Integers:
    """Independent numbers from N_Z(0, σ²), shape (size,).

    Parameters
    ----------
    stream : Stream
        Secret. How much of it is taken depends on what is drawn.
    size : int
    std : int
        σ, from 1 on. The variance is σ², less a part of 2·10⁻⁷ at σ = 1 and of 10⁻¹⁵ above.

    Raises
    ------
    UsageError
        If σ is out of range.
    """
    if not 1 <= std <= LARGEST_STD:
        raise UsageError(f"the standard deviation of discrete noise must be in [1, {LARGEST_STD}], got {std}")
    out, done = np.empty(size, np.int64), 0
    while done < size:
        # hardly more than two are tried for one that stays
        found = _tried(stream, min(_AT_ONCE, 2 * (size - done) + 16), std)[: size - done]
        out[done : done + len(found)] = found
        done += len(found)
    return out


def _tried(stream: Stream, count: int, std: int) -> Integers:
    """What stays of so many trials: y = ±(kσ + j), of which exp(-y²/2σ²) = exp(-k²/2) exp(-kj/σ) exp(-j²/2σ²)."""
    k = _geometric(stream, count)
    k = k[_all_of(stream, np.ones_like(k), 2, k * (k - np.uint64(1)))]  # (k - 1)·k/2 on top of k/2; k = 0 wraps to 0
    j = _below(stream, std, k.size)
    stays = _all_of(stream, j, std, k)
    k, j = k[stays], j[stays]
    stays = _coins(stream, j * j, 2 * std * std)
    y: Integers = (k[stays] * np.uint64(std) + j[stays]).astype(np.int64)
    negative = _below(stream, 2, y.size) == 1
    y[negative] *= -1
    once: Integers = y[(y != 0) | ~negative]  # else 0 would come twice as often
    return once


def _geometric(stream: Stream, count: int) -> _Words:
    """How many coins of probability exp(-1/2) fall one way before one does not."""
    k, alive = np.zeros(count, np.uint64), np.arange(count)
    while alive.size:
        alive = alive[_coins(stream, np.ones(alive.size, np.uint64), 2)]
        k[alive] += np.uint64(1)
    return k


def _all_of(stream: Stream, a: _Words, b: int, times: _Words) -> NDArray[np.bool_]:
    """Whether so many coins of probability exp(-a/b) all fall that way, for each a."""
    alive, left = np.ones(a.size, np.bool_), times.copy()
    while (at := np.flatnonzero(alive & (left > 0))).size:
        alive[at] = _coins(stream, a[at], b)
        left[at] -= np.uint64(1)
    return alive


def _coins(stream: Stream, a: _Words, b: int) -> NDArray[np.bool_]:
    """True with probability exp(-a/b), for 0 ≤ a ≤ b: if the first K with none of probability a/(bK) is odd."""
    result, alive, K = np.empty(a.size, np.bool_), np.arange(a.size), 1
    while alive.size:
        success = _below(stream, b, alive.size) < a[alive]
        if K > 1:
            success &= _below(stream, K, alive.size) == 0
        result[alive[~success]] = K % 2 == 1
        alive, K = alive[success], K + 1
    return result


def _below(stream: Stream, bound: int, count: int) -> _Words:
    """Uniform integers in [0, bound): words with as many bits, drawn anew while they are too large."""
    mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
    out, wrong = np.empty(count, np.uint64), np.arange(count)
    while wrong.size:
        out[wrong] = stream.words(2 * wrong.size).view(np.uint64) & mask
        wrong = wrong[out[wrong] >= bound]
    return out
