"""Packed numbers: every width, every size about the edges of words and blocks, and what is refused."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmpi.core import packing
from fedmpi.core.packing import pack, packed_words, unpack

WIDTHS = st.integers(1, 32)
COUNTS = st.one_of(st.integers(0, 70), st.integers(250, 300), st.integers(500, 1100))
steady = settings(deadline=None, derandomize=True, database=None)


@pytest.fixture(params=["kernel", "numpy"], autouse=True, scope="module")
def twin(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(packing, "compiled", None)
        elif packing.compiled is None:
            pytest.skip("no compiler was there")
        yield


def numbers(count: int, bits: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 1 << bits, count, dtype=np.uint32)
    values[: min(count, 3)] = [0, (1 << bits) - 1, (1 << bits) - 1][: min(count, 3)]
    return values


@steady
@given(bits=WIDTHS, count=COUNTS, seed=st.integers(0, 99))
def test_what_is_packed_comes_back_in_as_few_words_as_it_fits_into(bits: int, count: int, seed: int):
    values = numbers(count, bits, seed)
    words = pack(values, bits)
    assert words.dtype == np.uint32
    assert words.shape == (packed_words(count, bits),) == (-(-count * bits // 32),)
    np.testing.assert_array_equal(unpack(words, bits, (count,)), values)


@steady
@given(bits=WIDTHS, count=COUNTS)
def test_the_twins_agree(bits: int, count: int):
    values = numbers(count, bits)
    words = np.empty(packed_words(count, bits), np.uint32)
    packing._pack(values, bits, words)
    np.testing.assert_array_equal(pack(values, bits), words)


@steady
@given(bits=WIDTHS)
def test_every_bit_has_its_place(bits: int):
    """One number after the other, in a block and behind it: no word holds bits of two numbers in one place."""
    count = 256 + 40
    seen = np.zeros(packed_words(count, bits), np.uint64)
    for i in range(0, count, 7):
        values = np.zeros(count, np.uint32)
        values[i] = (1 << bits) - 1
        words = pack(values, bits)
        assert sum(int(word).bit_count() for word in words) == bits
        assert not (seen & words).any()
        seen |= words


@steady
@given(bits=st.integers(1, 31), count=st.integers(1, 600), data=st.data())
def test_larger_numbers_are_refused(bits: int, count: int, data: st.DataObject):
    values = numbers(count, bits)
    values[data.draw(st.integers(0, count - 1))] = 1 << bits
    with pytest.raises(ValueError, match=rf"^numbers to be packed must be below 2\^{bits}, got {1 << bits}$"):
        pack(values, bits)


@steady
@given(bits=WIDTHS, count=st.integers(0, 600), by=st.sampled_from([-1, 1, 100]))
def test_another_number_of_words_is_refused(bits: int, count: int, by: int):
    length = packed_words(count, bits) + by
    if length >= 0:
        with pytest.raises(ValueError, match=rf"^{count} numbers of {bits} bits must be packed in shape"):
            unpack(np.zeros(length, np.uint32), bits, (count,))


@steady
@given(bits=WIDTHS, count=st.integers(0, 600), data=st.data())
def test_whatever_words_come_numbers_are_below_2_to_the_width_or_refused(bits: int, count: int, data: st.DataObject):
    words = numbers(packed_words(count, bits), 32, data.draw(st.integers(0, 99)))
    try:
        values = unpack(words, bits, (count,))
    except ValueError as error:
        assert str(error).startswith("the bits behind packed numbers must be 0")
        assert words.size * 32 > count * bits
    else:
        assert count == 0 or int(values.max()) < 1 << bits
        np.testing.assert_array_equal(pack(values, bits), words)


@pytest.mark.parametrize("bits", [-1, 0, 33, 1 << 40])
def test_other_widths_are_refused(bits: int):
    for wrong in (lambda: pack(numbers(3, 1), bits), lambda: unpack(numbers(3, 1), bits, (3,))):
        with pytest.raises(ValueError, match=rf"^bits must be in \[1, 32\], got {bits}$"):
            wrong()


def test_shapes_and_a_place_of_ones_own():
    values = numbers(3 * 700, 25).reshape(3, 700)
    words = pack(values.T, 25)
    np.testing.assert_array_equal(unpack(words, 25, (700, 3)), values.T)
    out = np.zeros((5, 700), np.uint32)
    assert unpack(pack(values, 25), 25, (3, 700), out[1:4]).base is out
    np.testing.assert_array_equal(out[1:4], values)
    assert not out[[0, 4]].any()
    for wrong in (out[:3, ::2], out[:, :3].T, out, np.zeros((3, 700), np.uint64)):
        with pytest.raises(ValueError, match=r"^out must be a C-contiguous array of uint32 of shape"):
            unpack(pack(values, 25), 25, (3, 700), wrong)
    assert pack(np.zeros((0, 4), np.uint32), 25).shape == (0,)
