"""Terms as words of a ring, and secret reals."""

import numpy as np
import pytest

from fedmpi.crypto.random import SecretStream
from fedmpi.crypto.reals import UnitRandom
from fedmpi.errors import HeadroomError
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.ring import to_reals, to_words


@pytest.mark.parametrize(("bits", "most"), [(64, 2.0**23), (32, 2.0**15)])
def test_sums_of_words_are_sums_of_reals(bits: int, most: float) -> None:
    """To half a unit in the last place for each; to the limit, and not beyond it."""
    params, rng, N = Params(ring_bits=bits), np.random.default_rng(0), 5  # type: ignore[arg-type]
    values = rng.uniform(-1, 1, (N, 1000)) * most / N * 0.999
    words = [to_words(v, params, N) for v in values]
    assert words[0].dtype.itemsize == bits // 8
    total = sum(words[1:], words[0])
    rounding = N * (0.5 * 2.0**-params.fraction + most * 2.0**-53)
    np.testing.assert_allclose(to_reals(total, params), values.sum(0), rtol=0, atol=rounding)
    with pytest.raises(HeadroomError, match="the term of coordinate 2 must be below"):
        to_words(np.array([0, 1, 1.001 * most / N]), params, N)
    with pytest.raises(HeadroomError, match="the term of coordinate 1"):
        to_words(np.array([0, np.nan]), params, N)


def test_masked_words_wrap() -> None:
    params = Params(ring_bits=32)
    words = to_words(np.array([-1.5, 2.25]), params, 2)
    mask = np.array([2**32 - 1, 2**31], np.uint32)
    np.testing.assert_array_equal(to_reals(words + mask - mask, params), [-1.5, 2.25])


def test_secret_reals_are_uniform_and_have_all_their_bits() -> None:
    random = UnitRandom(SecretStream(bytes(32)))
    x = random(100_000)
    assert x.min() >= 0
    assert x.max() < 1
    counts = np.histogram(x, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 6 * np.sqrt(2 * 99)
    low = (x * 2.0**53).astype(np.int64) & 255
    counts = np.bincount(low, minlength=256)
    assert ((counts - len(x) / 256) ** 2 / (len(x) / 256)).sum() < 255 + 6 * np.sqrt(2 * 255)
    assert not np.array_equal(UnitRandom()(10), UnitRandom()(10))
