"""Gaussian noise from a cryptographic stream."""

import numpy as np
from numpy.typing import NDArray

from fedmpi.crypto.random import Stream

_CHUNK = 1 << 14  # numbers per step: everything stays in the second-level cache


def gaussian(stream: Stream, size: int) -> NDArray[np.float64]:
    """Independent numbers from N(0, 1), shape (size,), by Box and Muller's transform of 32-bit uniform numbers.

    Notes
    -----
    No number is beyond ±6.8, where N(0, 1) has a probability of 10⁻¹¹.
    """
    out = np.empty(size)
    for start in range(0, size, _CHUNK):
        part = out[start : start + _CHUNK]
        half = -(-len(part) // 2)
        u = stream.words(2 * half).astype(np.float64)
        u += 0.5
        u *= 2.0**-32
        radius, angle = u[:half], u[half:]
        np.log(radius, out=radius)
        radius *= -2
        np.sqrt(radius, out=radius)
        angle *= 2 * np.pi
        np.multiply(radius, np.cos(angle), out=part[:half])
        rest = len(part) - half
        np.multiply(radius[:rest], np.sin(angle[:rest]), out=part[half:])
    return out
