"""Secret real numbers."""

import numpy as np
from numpy.typing import NDArray

from fedmpi.crypto.random import SecretStream, Stream

_AT_ONCE = 1 << 15


class UnitRandom:
    """Uniform reals in [0, 1), multiples of 2^-53.

    Parameters
    ----------
    stream : Stream, optional
        Default: a fresh `SecretStream`.
    """

    def __init__(self, stream: Stream | None = None):
        self._stream = SecretStream() if stream is None else stream

    def __call__(self, count: int) -> NDArray[np.float64]:
        """Independent uniform reals, shape (count,)."""
        out = np.empty(count)
        for start in range(0, count, _AT_ONCE):
            part = out[start : start + _AT_ONCE]
            words = self._stream.words(2 * part.size).reshape(2, -1)
            part[:] = ((words[0] >> 5) * 2.0**26 + (words[1] >> 6)) * 2.0**-53
        return out
