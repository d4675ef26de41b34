"""Fixed point in Z_{2^64}: sums are exact, and what could overflow is refused with its coordinate."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmpi.core.fixed_point import decode, decode_wide, encode, encode_wide, limit
from fedmpi.errors import HeadroomError

REALS = st.floats(-1e5, 1e5, allow_nan=False)


@given(st.lists(REALS, min_size=1, max_size=20), st.integers(0, 41))
def test_a_sum_of_words_is_the_sum_of_rounded_reals(values, bits):
    words = np.zeros(1, np.uint64)
    for value in values:
        words += encode(np.array([value]), bits, len(values))
    exact = sum(round(value * 2**bits) for value in values)  # Python integers
    assert decode(words, bits)[0] == exact / 2**bits


@given(st.lists(st.floats(-1e30, 1e30, allow_nan=False), min_size=1, max_size=20))
def test_a_wide_sum_has_range_and_precision(values):
    words = np.zeros(4, np.uint64)
    for value in values:
        words += encode_wide(np.array([value]), len(values))
    exact = float(sum(map(Fraction, values)))
    assert decode_wide(words)[0] == pytest.approx(exact, rel=1e-15, abs=len(values) * 2.0**-104)


@pytest.mark.parametrize("bits", [20, 40])
@pytest.mark.parametrize("summands", [2, 10])
def test_the_largest_values_that_are_accepted_do_not_overflow(bits, summands):
    most = np.nextafter(limit(bits, summands), 0)
    for value in (most, -most):
        words = sum((encode(np.array([value]), bits, summands) for _ in range(summands)), np.zeros(1, np.uint64))
        assert decode(words, bits)[0] == pytest.approx(summands * value, rel=1e-12)


@pytest.mark.parametrize("wrong", [2.0**13, -(2.0**13), np.nan, np.inf])
def test_what_could_overflow_is_refused_with_its_coordinate(wrong):
    values = np.array([1.0, 2.0, wrong, wrong])
    pattern = "x + u of coordinate 2 must be below 2^63/(N·2^f) = 4096 in size for N = 2048 and f = 40"
    with pytest.raises(HeadroomError, match=re.escape(pattern)):
        encode(values, 40, 2048, "x + u")


def test_wide_values_are_refused_by_the_same_rule():
    with pytest.raises(HeadroomError, match="a total must be below"):
        encode_wide(np.array([0.0, 2.0**112]), 8, "a total")
    with pytest.raises(HeadroomError, match="must be at most 2048, got 2049"):
        encode_wide(np.zeros(1), 2049)
