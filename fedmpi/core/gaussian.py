"""Normal numbers from uniform words, with the same bits on every machine.

Both ends of a share of noise make its numbers from its seed, and what they add must cancel exactly. So nothing here
comes from a library of elementary functions: logarithm, sine and cosine are polynomials, in additions, products,
quotients and square roots, each of which IEEE 754 rounds in one way only. The C kernel and its twin do the same
operations in the same order.
"""

from math import factorial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.native import compiled as _compiled
from fedmpi.core.native import pointer

_CHUNK = 1 << 14  # numbers per step: everything stays in the second-level cache

_ONE = np.uint64(0x3FF << 52)  # bits of 1.0; with 52 random bits below them, of a number in [1, 2)
_ROOT_HALF = np.uint64(0x3FE6A09E667F3BCD)
_LN2 = float.fromhex("0x1.62e42fefa39efp-1")
_BIAS = 64

_ARTANH = [1 / (2 * k + 1) for k in range(8, -1, -1)]
_SINE = [(-1) ** k / factorial(2 * k + 1) for k in range(7, -1, -1)]
_COSINE = [(-1) ** k / factorial(2 * k) for k in range(7, -1, -1)]

Floats = NDArray[np.float64]
Words = NDArray[np.uint64]


class Stream(Protocol):
    """A source of uniform random words."""

    def words(self, count: int) -> NDArray[np.uint32]:
        """`count` independent uniform uint32."""
        ...


def gaussian(stream: Stream, size: int, std: float = 1.0, grid: float = 0.0, *, compiled: bool = True) -> Floats:
    """Independent numbers from N(0, std²), shape (size,), by Box and Muller's transform.

    Parameters
    ----------
    stream : Stream
        Of it 64 bits are taken for each number.
    size : int
    std : float
    grid : float
        Round to multiples of this power of two; 0: do not.
    compiled : bool
        False forces the numpy twin; by default the C kernel is used where it was built.

    Notes
    -----
    No number is beyond ±8.6 std, where N(0, std²) has a probability of 10⁻¹⁷. The 2¹⁰⁶ pairs lie far closer than the
    2⁻⁴⁰ to which noise is rounded, so that a sum tells nothing by where it lies between them [Mironov 2012].
    """
    out = np.empty(size)
    for start in range(0, size, _CHUNK):
        part = out[start : start + _CHUNK]
        half = -(-len(part) // 2)
        words = stream.words(4 * half).view(np.uint64)
        pairs = part if len(part) % 2 == 0 else np.empty(2 * half)
        if compiled and _compiled:
            radii, angles = pointer(words, "uint64_t"), pointer(words[half:], "uint64_t")
            x, y = pointer(pairs, "double"), pointer(pairs[half:], "double")
            _compiled.lib.fedmpi_gaussian(radii, angles, half, std, grid, x, y)
        else:
            pairs[:half], pairs[half:] = _transform(words[:half], words[half:], std, grid)
        if pairs is not part:
            part[:] = pairs[:-1]
    return out


def _transform(radii: Words, angles: Words, std: float, grid: float) -> tuple[Floats, Floats]:
    u = _number(radii >> np.uint64(12) | _ONE) - 1.0 + 2.0**-53
    t = (_number(angles >> np.uint64(12) | _ONE) - 1.5 + 2.0**-53) * (np.pi / 2)
    r = np.sqrt(-2.0 * _logarithm(u)) * std
    z = t * t
    c, s = _polynomial(_COSINE, z).view(np.uint64), (_polynomial(_SINE, z) * t).view(np.uint64)
    # t is in one quadrant; two bits of the word choose among four
    swap = (c ^ s) * (angles & np.uint64(1))
    sign = angles << np.uint64(62) & np.uint64(1 << 63)
    x, y = _number(c ^ swap ^ sign) * r, _number(s ^ swap ^ sign) * r
    if grid > 0:
        x, y = (np.rint(a * (1 / grid)) * grid for a in (x, y))
    return x, y


def _logarithm(u: Floats) -> Floats:
    """Of u in (0, 1) = m 2ᵉ with m in [√½, √2): ln m = 2 artanh((m - 1) / (m + 1))."""
    bits = u.view(np.uint64)
    biased = (bits - _ROOT_HALF + np.uint64(_BIAS << 52)) >> np.uint64(52)
    e = biased.astype(np.float64) - _BIAS
    f = _number(bits - ((biased - np.uint64(_BIAS)) << np.uint64(52))) - 1.0
    s = f / (f + 2.0)
    return e * _LN2 + (s + s) * _polynomial(_ARTANH, s * s)


def _polynomial(coefficients: list[float], z: Floats) -> Floats:
    value = np.full_like(z, coefficients[0])
    for c in coefficients[1:]:
        value *= z
        value += c
    return value


def _number(bits: Words) -> Floats:
    return bits.view(np.float64)
