"""Gaussian noise: its distribution, and that nothing but the stream determines it."""

import numpy as np
import pytest
from scipy import stats

from fedmpi.crypto.gaussian import gaussian
from fedmpi.crypto.random import SecretStream, permutation


def test_the_distribution_is_normal() -> None:
    z = gaussian(SecretStream(bytes(32)), 400_000)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert z.mean() == pytest.approx(0, abs=5 / np.sqrt(z.size))
    assert z.var() == pytest.approx(1, abs=5 * np.sqrt(2 / z.size))
    assert stats.kurtosis(z) == pytest.approx(0, abs=5 * np.sqrt(24 / z.size))
    tail = np.mean(np.abs(z) > 3.5)
    expected = 2 * stats.norm.sf(3.5)
    assert tail == pytest.approx(expected, abs=5 * np.sqrt(expected / z.size))


def test_the_test_above_sees_another_distribution() -> None:
    uniform = (SecretStream(bytes(32)).words(60_000) / 2**32 - 0.5) * np.sqrt(12)
    assert stats.kstest(uniform, "norm").pvalue < 1e-6


@pytest.mark.parametrize("lag", [1, 8192, 16384])
def test_numbers_are_independent(lag: int) -> None:
    """Pairs share a radius: their squares must be uncorrelated too."""
    z = gaussian(SecretStream(b"1" * 32), 1 << 18)
    for y in (z, z**2):
        assert abs(np.corrcoef(y[:-lag], y[lag:])[0, 1]) < 5 / np.sqrt(z.size)


@pytest.mark.parametrize("size", [0, 1, 2, 16383, 16384, 16385, 50_001])
def test_all_sizes(size: int) -> None:
    one, two = (gaussian(SecretStream(b"2" * 32), size) for _ in range(2))
    assert one.shape == (size,)
    np.testing.assert_array_equal(one, two)
    assert np.unique(one).size == size
    if size:
        assert not np.array_equal(one, gaussian(SecretStream(b"3" * 32), size))


class Constant:
    def __init__(self, word: int):
        self.word = word

    def words(self, count: int) -> np.ndarray:
        return np.full(count, self.word, np.uint32)


@pytest.mark.parametrize("word", [0, 1, 2**31, 2**32 - 1])
def test_no_word_gives_an_infinite_number(word: int) -> None:
    z = gaussian(Constant(word), 100)
    assert (np.abs(z) < 6.8).all()


def test_permutations_are_of_all_and_even() -> None:
    assert sorted(permutation(100)) == list(range(100))
    assert permutation(0).size == 0
    firsts = np.bincount([permutation(5)[0] for _ in range(2000)], minlength=5)
    assert stats.chisquare(firsts).pvalue > 1e-4
