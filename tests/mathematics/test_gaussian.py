"""Gaussian noise: its distribution, that nothing but the stream determines it, and that both kernels have its bits."""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedmpi.core import gaussian as module
from fedmpi.core.gaussian import gaussian
from fedmpi.core.native import compiled
from fedmpi.crypto.random import SecretStream, permutation


def moments_are_normal(z: np.ndarray) -> bool:
    """Distribution, moments and tails, each within five standard deviations of its estimate."""
    tail = stats.norm.sf(3.5)
    return (
        stats.kstest(z, "norm").pvalue > 1e-3
        and abs(z.mean()) < 5 / np.sqrt(z.size)
        and abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
        and abs(stats.skew(z)) < 5 * np.sqrt(6 / z.size)
        and abs(stats.kurtosis(z)) < 5 * np.sqrt(24 / z.size)
        and all(abs(np.mean(side > 3.5) - tail) < 5 * np.sqrt(tail / z.size) for side in (z, -z))
    )


def test_the_distribution_is_normal() -> None:
    assert moments_are_normal(gaussian(SecretStream(bytes(32)), 400_000))


def test_it_has_the_standard_deviation_asked_for_and_lies_on_the_grid() -> None:
    z = gaussian(SecretStream(bytes(32)), 400_000, 0.25, 2.0**-20)
    assert moments_are_normal(z / 0.25)
    np.testing.assert_array_equal(z * 2**20, np.rint(z * 2**20))
    assert np.abs(z - gaussian(SecretStream(bytes(32)), 400_000, 0.25)).max() <= 2.0**-21


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z: (stats.norm.cdf(z) - 0.5) * np.sqrt(12),
        lambda z: np.abs(z),
        lambda z: 1.01 * z,
        lambda z: z + 0.01,
        lambda z: np.clip(z, -3.4, 3.4),
    ],
)
def test_the_tests_above_see_another_distribution(wrong: Callable[[np.ndarray], np.ndarray]) -> None:
    assert not moments_are_normal(wrong(gaussian(SecretStream(bytes(32)), 400_000)))


@pytest.mark.parametrize("lag", [1, 8192, 16384])
def test_numbers_are_independent(lag: int) -> None:
    """Pairs share a radius: their squares must be uncorrelated too."""
    z = gaussian(SecretStream(b"1" * 32), 1 << 18)
    for y in (z, z**2, np.sign(z)):
        assert abs(np.corrcoef(y[:-lag], y[lag:])[0, 1]) < 5 / np.sqrt(z.size)


def test_pairs_have_all_directions() -> None:
    z = gaussian(SecretStream(b"4" * 32), 1 << 14)
    half = z.size // 2
    angles = np.arctan2(z[half:], z[:half])
    assert stats.kstest(angles, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("size", [0, 1, 2, 16383, 16384, 16385, 50_001])
def test_all_sizes(size: int) -> None:
    one, two = (gaussian(SecretStream(b"2" * 32), size) for _ in range(2))
    assert one.shape == (size,)
    np.testing.assert_array_equal(one, two)
    assert np.unique(one).size == size
    if size:
        assert not np.array_equal(one, gaussian(SecretStream(b"3" * 32), size))


# -- the two kernels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 16385, 200_000])
@pytest.mark.parametrize(("std", "grid"), [(1.0, 0.0), (0.3, 2.0**-40), (256.0, 2.0**-40), (1e-12, 2.0**-40)])
def test_c_and_numpy_give_the_same_bits(size: int, std: float, grid: float) -> None:
    assert compiled is not None
    one, two = (gaussian(SecretStream(b"5" * 32), size, std, grid, compiled=c) for c in (True, False))
    np.testing.assert_array_equal(one.view(np.uint64), two.view(np.uint64))


def test_the_bits_are_those_that_every_machine_has() -> None:
    """Of a seed that two machines with other processors and compilers share."""
    z = gaussian(SecretStream(bytes(range(32))), 4)
    assert [x.hex() for x in z.tolist()] == [
        "0x1.09eac0f003865p-1",
        "-0x1.13bc49c6bc678p+0",
        "0x1.7e8b3dedf99a6p-2",
        "0x1.df1a779cc67f7p-2",
    ]


class Listed:
    """Given 64-bit words: radii, then angles."""

    def __init__(self, *values: int):
        self.values = np.array(values, np.uint64)

    def words(self, count: int) -> np.ndarray:
        return np.resize(self.values, count // 2).view(np.uint32)


@pytest.mark.parametrize("use_c", [True, False])
def test_it_is_box_and_mullers_transform(use_c: bool) -> None:
    """Against the library's logarithm and sines, which are right to the last bits."""
    words = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    words[:4000] >>= np.arange(4000, dtype=np.uint64) % np.uint64(50)  # small numbers under the logarithm
    words[4000:8000] |= ~np.uint64(0) << np.uint64(20)  # and numbers next to 1
    z = gaussian(Listed(*words), words.size // 2 * 2, compiled=use_c)[:16384]
    radii, angles = words[:8192], words[8192:16384]
    u = (radii >> np.uint64(12)).astype(np.float64) * 2.0**-52 + 2.0**-53
    t = ((angles >> np.uint64(12)).astype(np.float64) * 2.0**-52 + 2.0**-53 - 0.5) * np.pi / 2
    r = np.sqrt(-2 * np.where(u > 0.5, np.log1p(u - 1), np.log(u)))
    swapped, sign = (angles & np.uint64(1)).astype(bool), np.where(angles & np.uint64(2), -1.0, 1.0)
    first, second = np.where(swapped, np.sin(t), np.cos(t)), np.where(swapped, np.cos(t), np.sin(t))
    np.testing.assert_allclose(z, np.concatenate([r * sign * first, r * sign * second]), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("use_c", [True, False])
@pytest.mark.parametrize("word", [0, 1, 2**12 - 1, 2**12, 2**63, 2**64 - 1])
def test_no_word_gives_an_infinite_number(word: int, use_c: bool) -> None:
    z: Any = gaussian(Listed(word), 100, compiled=use_c)
    assert (np.abs(z) < 8.6).all()
    assert (z != 0).any()


def test_without_a_compiler_numpy_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gaussian(SecretStream(b"6" * 32), 1000)
    monkeypatch.setattr(module, "_compiled", None)
    np.testing.assert_array_equal(gaussian(SecretStream(b"6" * 32), 1000), expected)


def test_permutations_are_of_all_and_even(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(permutation(100)) == list(range(100))
    assert permutation(0).size == 0
    keys = (number.to_bytes(32, "big") for number in count())
    monkeypatch.setattr("fedmpi.crypto.random.fresh_seed", lambda: next(keys))
    firsts = np.bincount([permutation(5)[0] for _ in range(2000)], minlength=5)
    assert stats.chisquare(firsts).pvalue > 1e-4
