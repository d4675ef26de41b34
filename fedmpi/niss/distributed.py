"""Noise that all clients make together: each adds a part that hides nothing alone, and the sum of a round is private.

The distributed discrete Gaussian mechanism [Kairouz, Liu and Steinke 2021]. A client clips its update at ζ, rounds it
to multiples of ζ/2^20, adds a discrete Gaussian, and only then hides the integers in a secure sum. At least U clients
survive, and T of them may tell the server their own noise: U - T parts of the noise must be enough, and are what is
counted.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, exp, inf, isqrt, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.discrete_gaussian import LARGEST_STD, Integers, discrete_gaussian
from fedmpi.crypto.random import Stream
from fedmpi.crypto.reals import UnitRandom
from fedmpi.errors import HeadroomError, UsageError
from fedmpi.niss.mechanism import concentrated_multiplier
from fedmpi.securesum.scheme import Scheme, Words

LEVELS = 2**20
"""Multiples of the grid in ζ: what is rounded adds a millionth to the sensitivity."""

TAIL = 40
"""Standard deviations beyond which no noise is expected in any lifetime: a probability of 2 exp(-800)."""

TRIES = 100
"""Of random rounding, each of which is refused with a probability of 0.61 at most."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Distributed:
    """What every client of a round does alike.

    Raises
    ------
    UsageError, HeadroomError
        If the noise is out of range, or a sum of so many values could wrap around.
    """

    scheme: Scheme
    clients: int
    """m, of a round."""
    colluding: int
    """T."""
    h: int
    """Numbers in an update."""
    clip: float
    """ζ."""
    noise: float | None
    """Of a client, σ in units of the mean of a round's updates; None: what --epsilon asks for."""
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 <= self.colluding < self.scheme.threshold:
            raise UsageError(
                f"--colluding must leave honest clients among --threshold {self.scheme.threshold}, got {self.colluding}"
            )
        if self.std > LARGEST_STD:
            raise UsageError(f"noise must be at most {LARGEST_STD // LEVELS} ζ, got {self.std / LEVELS:.4g} ζ")
        try:
            self.scheme.encode(np.array([float(self.largest)]), 0, self.clients)
        except HeadroomError as error:
            raise HeadroomError(
                f"--secure-sum {self.scheme.name} must hold the sum of {self.clients} updates without a wrap-around, "
                f"got noise of σ = {self.std} each: {error}"
            ) from None

    @property
    def unit(self) -> float:
        """The grid."""
        return self.clip / LEVELS

    @cached_property
    def bound(self) -> int:
        """The square of the norm of a rounded update, at most [Kairouz et al. 2021, Algorithm 1, with β = e^-1/2]."""
        d = self.h
        return min(LEVELS**2 + ceil(d / 4 + LEVELS + sqrt(d) / 2), (LEVELS + isqrt(d - 1) + 1) ** 2)

    @cached_property
    def std(self) -> int:
        """σ of one client, in units of the grid."""
        if self.noise is not None:
            return ceil(self.noise * self.clients / self.unit)
        needed = concentrated_multiplier(self.epsilon, self.delta) * self.sensitivity
        return ceil(needed / sqrt(self.scheme.threshold - self.colluding))

    @property
    def sensitivity(self) -> float:
        """Δ: how far two data sets of a client can take its rounded update apart."""
        return 2 * sqrt(self.bound)

    @property
    def largest(self) -> int:
        """No coordinate of what a client sends is larger."""
        return isqrt(self.bound) + 1 + TAIL * self.std

    def multiplier(self, honest: int) -> float:
        """σ/Δ of the Gaussian noise that hides as well as the parts of so many clients, never too large.

        A sum of n discrete Gaussians is ε²/2-concentrated with ε = Δ/(σ√n) + τ√d, where τ is how far it is from a
        discrete Gaussian of their variance [Kairouz et al. 2021, Proposition 14]; so is Gaussian noise of σ/Δ = 1/ε.
        """
        if self.std == 0 or honest < 1:
            return 0.0
        tau = 10 * sum(exp(-2 * (pi * self.std) ** 2 * k / (k + 1)) for k in range(1, honest))
        epsilon = self.sensitivity / (self.std * sqrt(honest)) + tau * sqrt(self.h)
        return (1 - 1e-12) / epsilon  # the margin is for what rounding may have taken

    @property
    def promised(self) -> float:
        """The `multiplier` that always holds: U survive, and T of them tell."""
        return self.multiplier(self.scheme.threshold - self.colluding)

    def spread(self, survivors: int) -> float:
        """Standard deviation of the noise in the mean of so many updates, per coordinate."""
        return self.std * self.unit / sqrt(survivors) if survivors else 0.0

    def hidden(self, update: Vector, stream: Stream) -> Words:
        """An update, shape (h,), clipped, rounded and with its part of the noise: words to be masked.

        Raises
        ------
        HeadroomError
            If it holds a value that is no number.
        """
        noisy = rounded(clipped_to(update, self.clip) / self.unit, self.bound, stream)
        if self.std:
            noisy += discrete_gaussian(stream, self.h, self.std)
        return self.scheme.encode(noisy.astype(np.float64), 0, self.clients)

    def mean(self, words: Words, survivors: int) -> Vector:
        """Of their updates, from the sum of their words."""
        return self.scheme.decode(words, 0) * (self.unit / survivors)


def clipped_to(update: Vector, norm: float) -> Vector:
    """An update no longer than `norm`.

    Raises
    ------
    HeadroomError
        If it holds a value that is no number.
    """
    length = float(np.linalg.norm(update))
    if not length < inf:
        raise HeadroomError(f"an update must be finite to be clipped, got the norm {length}")
    return update if length <= norm else update * (norm / length)


def rounded(x: Vector, bound: int, stream: Stream) -> Integers:
    """Up or down at random, right in the mean, and again until Σx² ≤ bound [Kairouz et al. 2021, Algorithm 1].

    The sum is taken of integers, so that the bound holds whatever floating point did before. Should it not come to
    hold, all are rounded towards zero.
    """
    down, unit = np.floor(x), UnitRandom(stream)
    up = x - down
    for _ in range(TRIES):
        whole = (down + (unit(len(x)) < up)).astype(np.int64)
        if squared(whole) <= bound:
            return whole
    return shortened(np.trunc(x).astype(np.int64), bound)


def shortened(whole: Integers, bound: int) -> Integers:
    """Every coordinate nearer to zero by one, until the bound holds."""
    while squared(whole) > bound:
        whole = whole - np.sign(whole)
    return whole


def squared(whole: Integers) -> int:
    """Σx², exactly."""
    return int(np.dot(whole, whole))
