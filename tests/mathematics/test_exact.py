"""Sums of doubles as whole numbers: no digit is lost, whatever the sizes, the order and the grouping."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedmpi.core.exact import FRACTION_BITS, WORDS, add, from_words, to_words, total, total_squares

UNIT = 1 << FRACTION_BITS
REALS = st.one_of(st.floats(-1e19, 1e19), st.floats(-1e-6, 1e-6)).filter(lambda x: x == 0 or abs(x) > 1e-30)


@given(st.lists(REALS, max_size=30))
def test_sums_and_sums_of_squares_have_all_digits(values: list[float]) -> None:
    x = np.array(values, np.float64)
    assert total(x) == sum(Fraction(value) for value in values) * UNIT
    assert total_squares(x) == sum(Fraction(value) ** 2 for value in values) * UNIT


@given(st.lists(st.floats(-1e19, 1e19), max_size=30), st.integers(0, 30))
def test_parts_add_up_to_the_whole(values: list[float], cut: int) -> None:
    """Also where values are smaller than the last bit."""
    x = np.array([*values, 1e-100, 5e-324])
    for summed in (total, total_squares):
        assert summed(x) == summed(x[:cut]) + summed(x[cut:])


@given(st.lists(st.tuples(st.integers(-(2**510), 2**510), st.integers(-(2**510), 2**510)), min_size=1, max_size=5))
def test_words_wrap(pairs: list[tuple[int, int]]) -> None:
    a, b = (to_words(numbers) for numbers in zip(*pairs, strict=True))
    assert a.shape == (len(pairs), WORDS)
    assert from_words(add(a, b)) == [x + y for x, y in pairs] or any(abs(x + y) >= 2**511 for x, y in pairs)
    np.testing.assert_array_equal(add(add(a, b), b, -1), a)
