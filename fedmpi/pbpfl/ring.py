"""Terms of a gradient as words of a ring, Z_{2^64} or Z_{2^32}, of which any sum is exact."""

import numpy as np
from numpy.typing import NDArray

from fedmpi.core import fixed_point
from fedmpi.pbpfl.params import Params
from fedmpi.securesum.scheme import Words

_HALF = np.uint64(32)


def to_words(values: NDArray[np.float64], params: Params, summands: int) -> Words:
    """Fixed point with f = `Params.fraction` bits behind the point, shape (n,).

    Raises
    ------
    HeadroomError
        If a sum of so many values like these does not fit in the ring.
    """
    if params.ring_bits == 64:
        return fixed_point.encode(values, params.fraction, summands, "the term")
    # The same with 32 more bits behind the point, of which the upper half is kept: the same limit, N·|v|·2^f < 2^31.
    wide = fixed_point.encode(values, params.fraction + 32, summands, "the term")
    rounded: NDArray[np.uint32] = ((wide + np.uint64(1 << 31)) >> _HALF).astype(np.uint32)
    return rounded


def to_reals(words: Words, params: Params) -> NDArray[np.float64]:
    """What a sum of words stands for, shape (n,)."""
    if words.dtype == np.uint64:
        return fixed_point.decode(words.view(np.uint64), params.fraction)
    return fixed_point.decode(words.astype(np.uint64) << _HALF, params.fraction + 32)
