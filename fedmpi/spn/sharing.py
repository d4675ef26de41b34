"""What the baselines do to what is shared: noise (DP), and only the largest changes (PPDL) [Fan et al. 2020]."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.core.gaussian import gaussian
from fedmpi.crypto.random import Stream
from fedmpi.spn.polarization import secret_uniform

Vector = NDArray[np.float64]

SAMPLE = 10_000
"""Magnitudes from which it is told which are certainly too small to be shared."""

CHUNK = 1 << 16
"""Numbers in a step: they stay in the second-level cache."""


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
        Becomes the result.
    fraction : float
        θ in (0, 1]. Of equal magnitudes the first are taken; what is no number stays, so that it is noticed.
    """
    count = int(np.ceil(fraction * len(change) - 1e-9))
    # most are certainly too small, which a sample tells
    sample = np.sort(np.abs(change[:: len(change) // SAMPLE + 1]))
    least = sample[int((1 - min(1.0, 1.2 * fraction)) * len(sample))]
    parts = [change[start : start + CHUNK] for start in range(0, len(change), CHUNK)]
    among = np.concatenate([sizes[sizes >= least] for sizes in map(np.abs, parts)])
    if len(among) < count:
        among = np.abs(change)
    # torch selects as fast where many are equal, which numpy does not
    least = torch.kthvalue(torch.from_numpy(among), len(among) - count + 1).values.item()
    missing = count - np.count_nonzero(among > least)
    for part in parts:
        sizes = np.abs(part)
        dropped = sizes <= least
        equal = np.flatnonzero(sizes == least)[:missing]
        dropped[equal] = False
        missing -= len(equal)
        part[dropped] = 0.0
    return change
