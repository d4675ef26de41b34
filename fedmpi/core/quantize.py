"""Fixed-point quantization between reals and signed integers [So et al. 2021, section III-A]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.floating[Any]]


def quantize(x: Reals, bits: int) -> Reals:
    """Deterministic rounding ⌊2^bits·x + 1/2⌋ [So et al. 2021, eqs. (3), (4)].

    Returns integers in the floating dtype of `x`; they are exact as long as they stay below 2^23 for float32
    or 2^52 for float64.
    """
    result = x * x.dtype.type(2.0**bits)
    result += x.dtype.type(0.5)
    return np.floor(result, out=result)


def quantize_stochastic(x: NDArray[np.float64], bits: int, noise: NDArray[np.float64]) -> NDArray[np.int64]:
    """Unbiased rounding of 2^bits·x, up with the probability of its fractional part [So et al. 2021, eqs. (6), (7)].

    Parameters
    ----------
    x : array of float64
    bits : int
        l_w.
    noise : array of float64, broadcastable with `x`
        Independent uniform values in [0, 1). A leading axis gives independent quantizations.
    """
    scaled = x * 2.0**bits
    down = np.floor(scaled)
    return (down + (noise < scaled - down)).astype(np.int64)


def dequantize(values: NDArray[np.int64], bits: int) -> NDArray[np.float64]:
    """Back to the reals: 2^-bits·value [So et al. 2021, eq. (23), after φ⁻¹]."""
    return np.multiply(values, 2.0**-bits, dtype=np.float64)
