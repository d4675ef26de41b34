"""Rounding of a shared integer: a → a/2^m, without anybody seeing it [Catrina and Saxena 2010, protocol TruncPr].

T + 1 owners contribute to the mask. Contributor j draws r_j = 2^m h_j + l_j below 2^b and shares l_j and h_j. All
open a + Σ r_j, the only thing that is seen, and take from what they see the part that is theirs to take::

    ⌊(a + Σ r_j) / 2^m⌋ - Σ h_j  =  ⌊a / 2^m⌋ + carry,   0 ≤ carry ≤ T + 1

The paper's single r of bits that nobody knows has a carry of 0 or 1, and costs a product for each of its bits. Here the
carry is that of T + 2 numbers: `distribution` has its chances. Half a unit is taken off for each contributor but one,
so that the error has mean 0, up to 2^-(m+1) for each of them.

What hides a: any T owners miss one contributor's r_j, uniform below 2^b, while two values of a are less than 2B
apart; so what is opened of both differs by less than 2B/2^b in statistical distance, for each number that is opened.
"""

import math
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedmpi.copml.sharing import Ring
from fedmpi.core import FieldArray, PrimeField, Residues

Limbs = NDArray[np.uint32]
"""Integers of any size, 26 bits each along the first axis, lowest first."""

_LIMB = 26

Integers = Callable[[int, int], Limbs]
"""(count, bits) → secret integers, uniform below 2^bits."""


def secret_integers(count: int, bits: int) -> Limbs:
    """From the operating system, shape (⌈bits/26⌉, count)."""
    limbs = -(-bits // _LIMB)
    words = np.frombuffer(os.urandom(4 * limbs * count), np.uint32).reshape(limbs, count)
    masks = [(1 << min(_LIMB, bits - _LIMB * k)) - 1 for k in range(limbs)]
    return words & np.array(masks, np.uint32)[:, None]


def residues_of(residues: Residues, limbs: Limbs) -> FieldArray:
    """Shape (limbs, count) → (q, count)."""
    out = np.zeros((len(residues), limbs.shape[1]), np.uint32)
    for j, field in enumerate(residues.fields):
        value = np.zeros(limbs.shape[1], np.uint64)
        for limb in limbs[::-1]:
            value = ((value << np.uint64(_LIMB)) + limb) % np.uint64(field.p)
        out[j] = value
    return out


def contribution(ring: Ring, count: int, bits: int, mask_bits: int, integers: Integers = secret_integers) -> FieldArray:
    """A contributor's shares of l and h for so many truncations by 2^bits, shape (N, q, 2, count)."""
    low, high = integers(count, bits), integers(count, mask_bits - bits)
    return ring.share(np.stack([residues_of(ring.residues, part) for part in (low, high)], axis=1))


def centre(bits: int, mask_bits: int, contributors: int) -> int:
    """What is taken off a + Σ r_j so that it lies in the middle of the ring: a multiple of 2^bits."""
    return contributors * (1 << mask_bits - 1) >> bits << bits


def masked(ring: Ring, a: FieldArray, low: FieldArray, high: FieldArray, bits: int, mask_bits: int) -> FieldArray:
    """Shares of what is opened: a + Σ r_j, moved by public numbers; shapes (q, count)."""
    contributors = ring.threshold + 1
    mask = ring.add(low, ring.times(2**bits, high))
    return ring.plus(-half(bits, contributors) - centre(bits, mask_bits, contributors), ring.add(a, mask))


def truncated(ring: Ring, opened: FieldArray, high: FieldArray, bits: int, mask_bits: int) -> FieldArray:
    """Shares of a/2^bits, rounded, from what was opened; shapes (q, count)."""
    high_low = ring.residues.parts(opened)
    known = np.stack([floors(field, *high_low, bits) for field in ring.residues.fields])
    return ring.plus(centre(bits, mask_bits, ring.threshold + 1) >> bits, ring.subtract(known, high))


def floors(field: PrimeField, high: NDArray[np.int64], low: NDArray[np.int64], bits: int) -> FieldArray:
    """⌊(high·2^26 + low) / 2^bits⌋ modulo a prime, for integers below 2^78 as `Residues.parts` has them."""
    if bits >= _LIMB:
        return field.array(high >> bits - _LIMB)
    return field.array((high % field.p << _LIMB - bits) + (low >> bits))


def rounded(a: NDArray[np.int64], low: NDArray[np.int64], bits: int, contributors: int) -> NDArray[np.int64]:
    """The same in the clear, where Σ l_j is known."""
    return (a - half(bits, contributors) + low) >> bits


def half(bits: int, contributors: int) -> int:
    """What is taken off so that the mean error is 0: half a unit for each contributor but one."""
    return (contributors - 1) * (1 << bits) >> 1


def distribution(fraction: float, contributors: int) -> dict[int, float]:
    """Chances of the result less ⌊a/2^m⌋ where a/2^m has this fractional part, for 2^m large.

    The floor of the fraction and the sum of so many uniform numbers, less (n - 1)/2 [Irwin 1927; Hall 1927].
    """
    n = contributors
    start = fraction - (n - 1) / 2
    lowest = math.floor(start)
    return {k: _below(k + 1 - start, n) - _below(k - start, n) for k in range(lowest, lowest + n + 2)}


def _below(x: float, n: int) -> float:
    """The chance that the sum of n uniform numbers is below x."""
    x = min(max(x, 0.0), float(n))
    terms = ((-1.0) ** k * math.comb(n, k) * (x - k) ** n for k in range(math.floor(x) + 1))
    return float(sum(terms)) / math.factorial(n)
