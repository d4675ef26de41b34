"""Discrete Gaussian noise: its exact distribution, and that a test sees every other one."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from fedmpi.core import discrete_gaussian as module
from fedmpi.core.discrete_gaussian import LARGEST_STD, discrete_gaussian
from fedmpi.core.gaussian import gaussian
from fedmpi.crypto.random import SecretStream
from fedmpi.errors import UsageError

SIZE = 60_000


def p_value(y: np.ndarray, std: int) -> float:
    """χ² against exp(-y²/2σ²), the tails in one cell each."""
    values = np.arange(-12 * std, 12 * std + 1)
    weights = np.exp(-(values**2) / (2 * std**2))
    expected = weights / weights.sum() * y.size
    counts = np.bincount(np.clip(y, -12 * std, 12 * std) + 12 * std, minlength=values.size)
    few = np.flatnonzero(expected >= 10)
    cut = slice(few[0], few[-1] + 1)
    folded = [
        np.concatenate([[row[: cut.start].sum()], row[cut], [row[cut.stop :].sum()]]) for row in (counts, expected)
    ]
    return float(stats.chisquare(*folded).pvalue)


@pytest.mark.parametrize("std", [1, 2, 5])
def test_the_distribution_is_the_discrete_gaussian(std: int) -> None:
    assert p_value(discrete_gaussian(SecretStream(bytes(32)), SIZE, std), std) > 1e-3


@pytest.mark.parametrize("std", [1000, 2**20 + 1, LARGEST_STD])
def test_wide_noise_is_normal_to_all_that_can_be_seen(std: int) -> None:
    """Also to the parity and the last bits, which no rounded number has right."""
    y = discrete_gaussian(SecretStream(bytes(32)), SIZE, std)
    z = y / std
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / SIZE)
    assert abs(stats.kurtosis(z)) < 5 * np.sqrt(24 / SIZE)
    assert stats.chisquare(np.bincount(y & 15, minlength=16)).pvalue > 1e-3


def rounded_normal(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    return np.rint(gaussian(SecretStream(bytes(32)), SIZE)).astype(np.int64)


def with_two_zeros(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    y = discrete_gaussian(SecretStream(bytes(32)), SIZE, 1)
    return np.concatenate([y, y[y == 0]])


def with_coins(coins: Callable[..., np.ndarray]) -> Callable[[pytest.MonkeyPatch], np.ndarray]:
    def drawn(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
        monkeypatch.setattr(module, "_coins", coins)
        return discrete_gaussian(SecretStream(bytes(32)), SIZE, 1)

    return drawn


def linear(stream: SecretStream, a: np.ndarray, b: int) -> np.ndarray:
    """1 - a/b in place of exp(-a/b)."""
    return module._below(stream, b, a.size) >= a


def too_few_terms(stream: SecretStream, a: np.ndarray, b: int) -> np.ndarray:
    """1 - a/b + a²/2b², the series cut short."""
    again = (module._below(stream, b, a.size) < a) & (module._below(stream, 2, a.size) == 0)
    return linear(stream, a, b) | again


@pytest.mark.parametrize("wrong", [rounded_normal, with_two_zeros, with_coins(linear), with_coins(too_few_terms)])
def test_another_distribution_is_seen(
    wrong: Callable[[pytest.MonkeyPatch], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert p_value(wrong(monkeypatch), 1) < 1e-6


def test_the_coins_are_exact() -> None:
    """exp(-a/b) for every a up to b, each within five deviations."""
    for a in range(4):
        heads = module._coins(SecretStream(bytes(32)), np.full(30_000, a, np.uint64), 3).mean()
        assert abs(heads - np.exp(-a / 3)) < 2.5 / np.sqrt(30_000), a
        assert a or heads == 1


@pytest.mark.parametrize("size", [0, 1, 16384, 20_001])
def test_all_sizes_and_independent_numbers(size: int) -> None:
    y = discrete_gaussian(SecretStream(b"2" * 32), size, 2**20)
    assert (y.shape, y.dtype) == ((size,), np.int64)
    if size > 1:
        assert abs(np.corrcoef(y[:-1], y[1:])[0, 1]) < 5 / np.sqrt(size)
        assert not np.array_equal(y, discrete_gaussian(SecretStream(), size, 2**20))


@pytest.mark.parametrize("std", [0, LARGEST_STD + 1])
def test_a_deviation_out_of_range_is_refused(std: int) -> None:
    with pytest.raises(UsageError, match=r"standard deviation of discrete noise must be in \[1, 2147483647\], got"):
        discrete_gaussian(SecretStream(), 1, std)
