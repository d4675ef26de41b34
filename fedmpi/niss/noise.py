"""Noise in shares that cancel: n_i of the client that drew it, -n_i of the client that received it.

All noise, and all that it is added to, is rounded to multiples of 2^-40. Sums of such numbers below 2^12 are exact in
float64, in any order, so that what should cancel does so to the bit.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.gaussian import gaussian
from fedmpi.crypto.random import SecretStream, Stream
from fedmpi.errors import UsageError

GRID_BITS = 40
GRID = 2.0**-GRID_BITS

Vector = NDArray[np.float64]

Seed = tuple[bytes, float]
"""32 secret bytes that a share is made from, and its standard deviation."""

LARGEST_STD = 2.0**8
"""So that no sum of the noise of thousands of clients leaves the range in which sums are exact."""


def on_grid(x: Vector) -> Vector:
    """Round to multiples of `GRID`, in place."""
    x *= 1 / GRID
    np.rint(x, out=x)
    x *= GRID
    return x


def expand(seed: bytes, std: float, size: int) -> Vector:
    """A share n_i ~ N(0, std²) of h = `size` coordinates, from its 32-byte seed.

    The stream of a seed is used for one share only, so it may begin at its start.
    """
    return gaussian(SecretStream(seed), size, checked(std), GRID)


def checked(std: float) -> float:
    """A standard deviation; UsageError if it is out of range."""
    if not 0 <= std <= LARGEST_STD:
        raise UsageError(f"the standard deviation of noise must be in [0, {LARGEST_STD:g}], got {std}")
    return std


def distort(r: Vector, tau2: float, stream: Stream) -> Vector:
    """A received share after distortion: s ∘ r with s ~ N(1, τ²), drawn anew for each coordinate.

    With one s for all coordinates the product would lie in the span of what colluders know.
    """
    if tau2 == 0:
        return r
    s = gaussian(stream, r.size, tau2**0.5)
    s += 1
    s *= r
    return on_grid(s)


def mix(
    own: Iterable[Seed],
    received: Iterable[Seed | Vector],
    tau2: float,
    stream: Stream,
    size: int,
    kept: float = 0.0,
) -> Vector:
    """What a client adds to its upload: Σ_i (n_i + r_i) and noise that nothing cancels, shape (size,).

    In [Yang et al. 2021, Algorithm 2] it is Σ_i (n_i + s_i ∘ r_i). What a random factor adds to a share is no Gaussian,
    and small wherever the share happens to be: who knows the share knows where.

    Parameters
    ----------
    own : iterable of Seed
        Of the n_i.
    received : iterable of Seed or array
        The seeds of which others hold n_i and this client -n_i, or the r_i themselves.
    tau2 : float
        The variance of the s_i, for the paper's own form; else 0.
    stream : Stream
        Secret; for the s_i, or for what is kept.
    kept : float
        Variance of the noise that nothing cancels.
    """
    total = np.zeros(size)
    for seed, std in own:
        total += expand(seed, std, size)
    for share in received:
        # A seed makes n_i, the share is -n_i.
        if isinstance(share, np.ndarray):
            total += distort(share, tau2, stream)
        else:
            total -= distort(expand(*share, size), tau2, stream)
    if kept:
        total += gaussian(stream, size, checked(kept**0.5), GRID)
    return total
