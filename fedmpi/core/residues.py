"""Integers in a wide range as residues modulo one, two or three primes [Chinese remainder theorem]."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.field import FieldArray, PrimeField
from fedmpi.errors import UsageError

WIDE_PRIMES = (2**26 - 5, 2**26 - 27, 2**26 - 45)
"""Primes whose residues stand side by side: the largest three below 2^26, for which the kernels fold."""

_DIGIT = 26
"""Bits of the lower of the two parts in which integers beyond int64 are held."""

_LOW = (1 << _DIGIT) - 1


class Residues:
    """Signed integers in (-M/2, M/2), M = Π p_j, as arrays with one residue for each prime along the first axis.

    Sums and products of residues are those of the integers as long as these stay in the range, and each prime is
    a field of its own: everything that is done modulo one prime (masks, codes, products) is done for each apart.

    Parameters
    ----------
    primes : sequence of int
        One, two or three different primes below 2^31, whose product is below 2^78.

    Raises
    ------
    UsageError
        If there are others, or a modulus is not prime.

    Notes
    -----
    Two primes of 26 bits give 51 bits of range and a sign, three give 77.
    """

    def __init__(self, primes: Sequence[int]):
        if not 1 <= len(set(primes)) == len(primes) <= 3:
            raise UsageError(f"primes must be one to three different ones, got {', '.join(map(str, primes)) or 'none'}")
        self.fields = tuple(PrimeField(p) for p in primes)
        self.primes = tuple(primes)
        self.modulus = 1
        for p in primes:
            self.modulus *= p
        if self.modulus >= 2**78:
            raise UsageError(f"the product of the primes must be below 2^78, got {' · '.join(map(str, primes))}")

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def half(self) -> float:
        """M/2, never rounded up: integers of a smaller absolute value come back as they were."""
        return float(np.nextafter(self.modulus / 2, 0)) if self.modulus >= 2**53 else self.modulus / 2

    def from_signed(self, values: NDArray[Any]) -> FieldArray:
        """Residues of integers below 2^53 in absolute value, of an integer or floating dtype; s → (primes, *s)."""
        out = np.empty((len(self), *values.shape), np.uint32)
        small = values.size == 0 or float(np.abs(values).max()) < min(self.primes) / 2
        for field, residue in zip(self.fields, out, strict=True):
            residue[...] = field.from_signed(values) if small else field.array(values.astype(np.int64, copy=False))
        return out

    def contains(self, values: FieldArray) -> bool:
        """Whether every residue is in [0, p_j)."""
        return len(values) == len(self) and all(
            field.contains(residue) for field, residue in zip(self.fields, values, strict=True)
        )

    def add(self, a: FieldArray, b: FieldArray) -> FieldArray:
        """Residue by residue."""
        return np.stack([field.add(x, y) for field, x, y in zip(self.fields, a, b, strict=True)])

    def parts(self, values: FieldArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The signed integers as (high, low) with value = high·2^26 + low and 0 ≤ low < 2^26: shape (primes, *s) → s.

        Mixed radix [Garner 1959]: v = a_0 + p_0·(a_1 + p_1·a_2) with 0 ≤ a_j < p_j.
        """
        digits: list[NDArray[np.int64]] = []
        for j, (field, residue) in enumerate(zip(self.fields, values, strict=True)):
            digit = residue.astype(np.int64)
            for p, earlier in zip(self.primes[:j], digits, strict=True):
                digit -= earlier % field.p
                digit %= field.p
                digit *= field.inverse(p)
                digit %= field.p
            digits.append(digit)
        low: NDArray[np.int64] = digits[0].copy()
        high = np.zeros_like(low)
        if len(digits) > 1:
            top = digits[1] if len(digits) == 2 else digits[1] + self.primes[1] * digits[2]  # below 2^52
            low += self.primes[0] * (top & _LOW)
            high += self.primes[0] * (top >> _DIGIT)
        high += low >> _DIGIT
        low &= _LOW
        half_high, half_low = divmod(self.modulus // 2, 1 << _DIGIT)
        negative = (high > half_high) | ((high == half_high) & (low > half_low))
        all_high, all_low = divmod(self.modulus, 1 << _DIGIT)
        low -= np.where(negative, all_low, 0)
        high += (low >> _DIGIT) - np.where(negative, all_high, 0)
        low &= _LOW
        return high, low

    def reals(self, values: FieldArray, bits: int) -> NDArray[np.float64]:
        """2^-bits times the signed integers, correctly rounded: shape (primes, *s) → s.

        So the same integers give the same bits, whatever the number of primes.
        """
        if len(self) == 1:
            return np.multiply(self.fields[0].to_signed(values[0]), 2.0**-bits, dtype=np.float64)
        high, low = self.parts(values)
        return _rounded(high, low, bits)

    def sum_reals(self, values: FieldArray, bits: int) -> NDArray[np.float64]:
        """2^-bits times the sum of signed integers over the second axis, correctly rounded: (primes, n, *s) → s.

        The sum need not be in (-M/2, M/2).
        """
        if len(self) == 1:
            total = self.fields[0].to_signed(values[0]).sum(axis=0)
            return np.asarray(np.multiply(total, 2.0**-bits, dtype=np.float64))
        high, low = (part.sum(axis=0) for part in self.parts(values))
        return _rounded(high + (low >> _DIGIT), low & _LOW, bits)


def _rounded(high: NDArray[np.int64], low: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    if high.size and int(np.abs(high).max()) >= 2**53:  # of a sum; Python rounds integers of any size correctly
        whole = high.astype(object) * (1 << _DIGIT) + low
        return np.asarray(whole.astype(np.float64) * 2.0**-bits)
    return np.asarray((high * 2.0**_DIGIT + low) * 2.0**-bits)  # high·2^26 is exact: the sum alone is rounded
