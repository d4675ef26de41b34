"""Integers as residues modulo one, two or three primes, against Python's integers and fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmpi.core import DEFAULT_PRIME, WIDE_PRIMES, Residues
from fedmpi.errors import UsageError

CHOICES = [(DEFAULT_PRIME,), (2**31 - 1,), WIDE_PRIMES[:1], WIDE_PRIMES[:2], WIDE_PRIMES, (101,), (3, 5), (7, 101, 13)]
every_choice = pytest.mark.parametrize(
    "residues", [Residues(primes) for primes in CHOICES], ids=["-".join(map(str, primes)) for primes in CHOICES]
)


def encoded(residues: Residues, values: list[int]) -> np.ndarray:
    """Residues of integers of any size, by Python's own arithmetic."""
    return np.array([[value % p for value in values] for p in residues.primes], np.uint32)


def rounded(value: int, bits: int) -> float:
    """2^-bits times an integer, correctly rounded: Python's division of integers is."""
    return float(Fraction(value) / Fraction(2) ** bits)


def extremes(residues: Residues) -> list[int]:
    """Integers at the ends of the range, around 0 and around the ends of exact float64."""
    half = residues.modulus // 2
    near = [0, 1, 2, 2**26, 2**52, 2**53, 2**53 + 1, 2**54 - 1, 2**54 + 2, 2**62, 2**63, 2**76, half - 1, half]
    return [sign * value for value in near if value <= half for sign in (1, -1)]


@every_choice
def test_extremes_come_back_correctly_rounded(residues: Residues) -> None:
    values = extremes(residues)
    for bits in (0, 7, 60, -3):
        expected = [rounded(value, bits) for value in values]
        assert residues.reals(encoded(residues, values), bits).tolist() == expected


@every_choice
@given(data=st.data(), bits=st.integers(-20, 200))
@settings(max_examples=40, deadline=None)
def test_reals_are_correctly_rounded(residues: Residues, data: st.DataObject, bits: int) -> None:
    half = residues.modulus // 2
    values = data.draw(st.lists(st.integers(-half, half), max_size=20))
    result = residues.reals(encoded(residues, values), bits)
    assert result.dtype == np.float64
    assert result.tolist() == [rounded(value, bits) for value in values]


@every_choice
@given(data=st.data(), bits=st.integers(0, 120), count=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_sums_are_correctly_rounded_though_they_leave_the_range(
    residues: Residues, data: st.DataObject, bits: int, count: int
) -> None:
    half = residues.modulus // 2
    rows = data.draw(
        st.lists(st.lists(st.integers(-half, half), min_size=3, max_size=3), min_size=count, max_size=count)
    )
    array = np.stack([encoded(residues, row) for row in rows], axis=1)
    assert array.shape == (len(residues), count, 3)
    expected = [rounded(sum(column), bits) for column in zip(*rows, strict=True)]
    assert residues.sum_reals(array, bits).tolist() == expected


@every_choice
def test_sums_of_the_largest(residues: Residues) -> None:
    half = residues.modulus // 2
    for sign in (1, -1):
        array = np.stack([encoded(residues, [sign * half, sign * (half - 1)])] * 1000, axis=1)
        expected = [rounded(1000 * sign * value, 5) for value in (half, half - 1)]
        assert residues.sum_reals(array, 5).tolist() == expected


@every_choice
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_parts_are_the_integers(residues: Residues, data: st.DataObject) -> None:
    half = residues.modulus // 2
    values = data.draw(st.lists(st.integers(-half, half), max_size=20))
    high, low = residues.parts(encoded(residues, values))
    assert [int(h) * 2**26 + int(w) for h, w in zip(high, low, strict=True)] == values
    assert all(0 <= w < 2**26 for w in low.tolist())


@every_choice
@given(data=st.data(), dtype=st.sampled_from([np.int64, np.float32, np.float64]))
@settings(max_examples=30, deadline=None)
def test_signed_integers_come_back(residues: Residues, data: st.DataObject, dtype: type) -> None:
    most = min(residues.modulus // 2, 2**24 if dtype == np.float32 else 2**53 - 1)
    values = data.draw(st.lists(st.integers(-most, most), max_size=20))
    result = residues.from_signed(np.array(values, dtype))
    assert result.shape == (len(residues), len(values))
    assert residues.contains(result)
    np.testing.assert_array_equal(result, encoded(residues, values).reshape(result.shape))
    assert residues.reals(result, 0).tolist() == values


@given(st.lists(st.tuples(*[st.integers(40 - 2**24, 2**24 - 40)] * 2), min_size=1, max_size=20), st.integers(0, 60))
@settings(max_examples=50, deadline=None)
def test_one_two_and_three_primes_give_the_same_bits(pairs: list[tuple[int, int]], bits: int) -> None:
    """What fits in the narrowest field: sums of two residues, decoded."""
    results = []
    for primes in (WIDE_PRIMES[:1], WIDE_PRIMES[:2], WIDE_PRIMES):
        residues = Residues(primes)
        a, b = (residues.from_signed(np.array(values, np.int64)) for values in zip(*pairs, strict=True))
        results.append(residues.reals(residues.add(a, b), bits).tolist())
    assert results[0] == results[1] == results[2] == [rounded(a + b, bits) for a, b in pairs]


@every_choice
def test_products_stay_products(residues: Residues) -> None:
    """A product that fits comes back, prime by prime by the kernels."""
    rng = np.random.default_rng(0)
    size = int((residues.modulus / 2 / 50) ** 0.5)
    X, w = (rng.integers(-min(size, 2**30), min(size, 2**30) + 1, shape) for shape in ((9, 40), (40, 2)))
    parts = zip(residues.fields, residues.from_signed(X), residues.from_signed(w), strict=True)
    decoded = residues.reals(np.stack([field.product(x, v) for field, x, v in parts]), 3)
    expected = X.astype(object) @ w.astype(object)
    assert decoded.tolist() == [[rounded(value, 3) for value in row] for row in expected.tolist()]


@every_choice
def test_what_is_below_half_fits(residues: Residues) -> None:
    assert int(residues.half) <= residues.modulus / 2
    assert 2 * Fraction(residues.half) <= residues.modulus
    assert residues.half > 0.999 * residues.modulus / 2


def test_contains_refuses_what_is_no_residue() -> None:
    residues = Residues(WIDE_PRIMES[:2])
    good = np.array([[WIDE_PRIMES[0] - 1], [WIDE_PRIMES[1] - 1]], np.uint32)
    assert residues.contains(good)
    assert not residues.contains(good[::-1])  # the second prime is smaller
    assert not residues.contains(good[:1])


@pytest.mark.parametrize("primes", [(), (5, 5), (3, 5, 7, 11), (2**31 - 1, 2**31 - 19, 2**31 - 61), (15,), (3, 2**26)])
def test_what_is_no_set_of_primes_is_refused(primes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        Residues(primes)
