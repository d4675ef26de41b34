"""What the baselines do to what is shared: noise (DP), and only the largest changes (PPDL) [Fan et al. 2020]."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.gaussian import gaussian
from fedmpi.crypto.random import Stream
from fedmpi.spn.polarization import secret_uniform

Vector = NDArray[np.float64]


def noise(stream: Stream, size: int, scale: float, kind: Literal["gaussian", "laplace"] = "gaussian") -> Vector:
    """Secret noise, shape (size,): N(0, σ²), or Laplace with the density exp(-|x|/σ) / 2σ, of variance 2σ².

    Parameters
    ----------
    scale : float
        σ.
    """
    if kind == "gaussian":
        return scale * gaussian(stream, size)
    u = secret_uniform(stream, size) - 0.5
    out: Vector = -scale * np.sign(u) * np.log1p(-2 * np.abs(u))
    return out


def largest(change: Vector, fraction: float) -> Vector:
    """Distributed selective SGD: the ⌈θh⌉ numbers with the largest magnitudes, and zeros [Shokri and Shmatikov 2015].

    Parameters
    ----------
    change : array, shape (h,)
    fraction : float
        θ in (0, 1]. Of equal magnitudes the first are taken.
    """
    count = int(np.ceil(fraction * len(change) - 1e-9))
    kept = np.argsort(-np.abs(change), kind="stable")[:count]
    out = np.zeros_like(change)
    out[kept] = change[kept]
    return out
