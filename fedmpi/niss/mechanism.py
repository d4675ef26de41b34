"""Gaussian mechanisms: how much noise gives (ε, δ)-differential privacy."""

from functools import lru_cache
from math import erfc, exp, inf, log, log1p, sqrt

from fedmpi.errors import UsageError

ORDERS = (*(1 + k / 10 for k in range(1, 100)), *range(11, 64), *(float(round(64 * 16 ** (k / 32))) for k in range(33)))
"""Of Rényi privacy. With orders up to 63 alone, as Opacus has them, no ε below 0.1 can be seen at δ = 1e-5."""


@lru_cache
def noise_multiplier(epsilon: float, delta: float, mechanism: str = "analytic") -> float:
    """The least σ/Δ for (ε, δ).

    Parameters
    ----------
    epsilon : float
        Positive.
    delta : float
        In (0, 1).
    mechanism : str
        analytic: exact [Balle and Wang 2018, Theorem 8]. classic: √(2 ln(1.25/δ))/ε, which is proved for ε < 1 only
        [Yang et al. 2021, Theorem 1].

    Raises
    ------
    UsageError
        If ε or δ is out of range.
    """
    if not (0 < epsilon < float("inf") and 0 < delta < 1):
        raise UsageError(f"epsilon must be positive and delta in (0, 1), got {epsilon} and {delta}")
    if mechanism == "classic":
        return sqrt(2 * log(1.25 / delta)) / epsilon
    low, high = 1e-6, 1.0
    while delta_of(high, epsilon) > delta:
        high *= 2
    for _ in range(200):
        middle = sqrt(low * high)
        low, high = (middle, high) if delta_of(middle, epsilon) > delta else (low, middle)
    return high


def delta_of(multiplier: float, epsilon: float) -> float:
    """The least δ for ε of the Gaussian mechanism with σ/Δ, which falls in both [Balle and Wang 2018, eq. (6)]."""
    a, b = 1 / (2 * multiplier), epsilon * multiplier
    upper, lower = _normal_cdf(a - b), _normal_cdf(-a - b)
    return upper - exp(epsilon + log(lower)) if lower > 0 else upper


def epsilon_for(multiplier: float, delta: float) -> float:
    """The least ε of the Gaussian mechanism with σ/Δ: infinite without noise, 0 where noise is without end."""
    if multiplier <= 0:
        return float("inf")
    if multiplier == float("inf") or delta_of(multiplier, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(multiplier, high) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(multiplier, middle) > delta else (low, middle)
    return high


@lru_cache
def concentrated_multiplier(epsilon: float, delta: float) -> float:
    """The σ/Δ with which every mechanism of concentrated privacy (Δ/σ)²/2 is (ε, δ)-private.

    From concentrated to approximate privacy by [Canonne, Kamath and Steinke 2020, Proposition 12], over the `ORDERS` of
    the accountant, which so finds no more than ε.

    Raises
    ------
    UsageError
        If ε or δ is out of range, or no noise is enough for them at these orders.
    """
    if not (0 < epsilon < inf and 0 < delta < 1):
        raise UsageError(f"epsilon must be positive and delta in (0, 1), got {epsilon} and {delta}")
    # of each order α what is left for α/(2z²)
    left = ((epsilon + (log(delta) + log(a)) / (a - 1) - log1p(-1 / a)) / a for a in ORDERS)
    if (most := max(left)) <= 0:
        raise UsageError(f"--epsilon must be larger for --delta {delta:g}, got {epsilon:g}")
    return sqrt(1 / (2 * most)) * (1 + 1e-9)


def _normal_cdf(x: float) -> float:
    return erfc(-x / sqrt(2)) / 2
