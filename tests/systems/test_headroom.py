"""The bound of every decoded value: never too low, exact where it has to be, and an error where nothing helps."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmpi.codedml.headroom import Headroom
from fedmpi.codedml.protocol import row_blocks
from fedmpi.errors import HeadroomError

P = 33554393


def largest_value(X_bar: np.ndarray, blocks: list[slice], W_bar: np.ndarray, coefficients: list[int]) -> int:
    """The largest |X̄_kᵀ s̄_k|, with Python integers."""
    W = W_bar.astype(object)
    largest = 0
    for block in blocks:
        X = X_bar[block].astype(int).astype(object)
        s, power = np.full((len(X), W.shape[2]), coefficients[0], object), 1
        for w, c in zip(W, coefficients[1:], strict=True):
            power = power * (X @ w)
            s = s + c * power
        if len(X):
            largest = max(largest, *(abs(v) for v in (X.T @ s).ravel()))
    return largest


def instance(seed: int, *, m: int, d: int, r: int, outputs: int, top_x: int, top_w: int) -> tuple[Any, Any, list[int]]:
    rng = np.random.default_rng(seed)
    X_bar = rng.integers(-top_x, top_x + 1, (m, d)).astype(np.float32)
    if seed % 3 == 0:  # rows and columns that are parallel make Cauchy and Schwarz's inequality an equality
        X_bar[:] = X_bar[:1] * (rng.random((m, 1)) < 0.7)
    W_bar = rng.integers(-top_w, top_w + 1, (r, d, outputs))
    if seed % 2 == 0 and X_bar[0].any():
        W_bar[:] = X_bar[0].astype(int)[:, None] * rng.integers(-3, 4, (r, 1, outputs))
    coefficients = rng.integers(-(2**10), 2**10, r + 1).tolist()
    return X_bar, W_bar, coefficients


SHAPES = st.fixed_dictionaries(
    {
        "m": st.integers(1, 30),
        "d": st.integers(1, 12),
        "r": st.integers(1, 3),
        "outputs": st.integers(1, 3),
        "top_x": st.sampled_from([1, 4, 4095, 2**24 - 1]),
        "top_w": st.sampled_from([0, 1, 100, 2**30]),
    }
)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), shape=SHAPES, parallelization=st.integers(1, 5), look_at_data=st.booleans())
def test_the_bound_is_never_below_the_value(
    seed: int, shape: dict[str, int], parallelization: int, look_at_data: bool
) -> None:
    X_bar, W_bar, coefficients = instance(seed, **shape)
    blocks = row_blocks(len(X_bar), parallelization)
    headroom = Headroom(X_bar, blocks, coefficients, P / 2)
    whole, of_blocks = headroom.bounds(W_bar, look_at_data=look_at_data)
    # The bounds themselves are computed in float64.
    everything = [slice(0, len(X_bar))]
    assert of_blocks >= largest_value(X_bar, blocks, W_bar, coefficients) * (1 - 1e-12)
    assert whole >= largest_value(X_bar, everything, W_bar, coefficients) * (1 - 1e-12)
    if headroom.excess(W_bar) < 0:
        assert largest_value(X_bar, everything, W_bar, coefficients) < P / 2


@pytest.mark.parametrize(("rows", "columns", "value"), [(524_288, 2, 9), (700_000, 2, 13), (100_000, 9, 1001)])
def test_the_bound_is_not_below_the_value_for_many_rows_and_few_columns(rows: int, columns: int, value: int) -> None:
    """Norms that are summed in float32 must not lose more than the bound allows for."""
    X_bar = np.full((rows, columns), value, np.float32)
    W_bar = np.ones((1, columns, 1), np.int64)
    headroom = Headroom(X_bar, [slice(0, rows)], [0, 1], P / 2)
    exact = rows * value * value * columns
    assert min(headroom.bounds(W_bar, look_at_data=False)) >= exact
    assert min(headroom.bounds(W_bar, look_at_data=True)) >= exact


def test_an_overflow_by_one_millionth_is_found_in_many_rows() -> None:
    """The consequence of the test above: 2^31 - 1 is passed by 509850 rows of (9, 9) and weights (13, 13)."""
    X_bar = np.full((509_850, 2), 9, np.float32)
    W_bar = np.full((1, 2, 1), 13, np.int64)
    assert 509_850 * 81 * 26 > (2**31 - 1) / 2
    with pytest.raises(HeadroomError):
        Headroom(X_bar, [slice(0, 509_850)], [0, 1], (2**31 - 1) / 2).check(W_bar, 0)


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_with_the_data_is_tighter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X_bar = rng.integers(-4, 5, (50, 20)).astype(np.float32)
    W_bar = rng.integers(-50, 51, (1, 20, 2))
    headroom = Headroom(X_bar, row_blocks(50, 3), [400, 5], P / 2)
    loose, tight = (headroom.bounds(W_bar, look_at_data=look)[1] for look in (False, True))
    exact = largest_value(X_bar, row_blocks(50, 3), W_bar, [400, 5])
    assert exact <= tight < loose


# -- check --------------------------------------------------------------------------------------------------------

CANCELLING = np.array([[3, -3], [3, -3], [3, 3], [1, 0]], np.float32)


def weights(*values: int) -> np.ndarray:
    return np.array(values, np.int64).reshape(1, -1, 1)


def test_small_values_pass_with_the_cheap_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the exact value must not be needed")

    monkeypatch.setattr("fedmpi.codedml.headroom.exact_gradient", never)
    headroom = Headroom(CANCELLING, [slice(0, 4)], [10, 1], P / 2)
    headroom.check(weights(3, 5), 0)
    assert headroom.largest == headroom.bounds(weights(3, 5), look_at_data=False)[1]
    assert headroom.bits == pytest.approx(math.log2(P / 2 / headroom.largest))


def test_where_the_bound_fails_but_the_value_fits_the_value_decides() -> None:
    """Where many terms cancel in the sum: no norm can see that."""
    rng = np.random.default_rng(0)
    X_bar = rng.integers(-4, 5, (2000, 6)).astype(np.float32)
    w = weights(*rng.integers(-60, 61, 6))
    blocks = row_blocks(2000, 2)
    exact = largest_value(X_bar, blocks, w, [900, 3])
    headroom = Headroom(X_bar, blocks, [900, 3], exact + 1.5)  # of the smallest odd p that is enough
    assert headroom.bounds(w, look_at_data=True)[1] > exact + 2
    headroom.check(w, 4)
    assert headroom.largest == exact
    assert headroom.bits == pytest.approx(math.log2((exact + 1.5) / exact))
    headroom.check(w * 0, 5)
    assert headroom.largest == exact, "the largest so far is kept"
    with pytest.raises(HeadroomError):
        Headroom(X_bar, blocks, [900, 3], exact - 0.5).check(w, 4)


def test_a_real_overflow_is_an_error_with_the_numbers_and_what_to_change() -> None:
    X_bar = np.full((100, 3), 4, np.float32)
    headroom = Headroom(X_bar, row_blocks(100, 2), [0, 1], 10007 / 2)
    value = 50 * 4 * 4 * 21
    with pytest.raises(HeadroomError) as error:
        headroom.check(weights(6, 7, 8), 17, foreseen=True)
    text = str(error.value)
    assert text.startswith(f"decoded values must be below p/2 = {10007 / 2:.0f}, got {value} in iteration 17 (1.7 bits")
    assert text.endswith(
        ": take --primes 2, or leave out --weight-bits, --paper and --prime, and bits and field follow the data"
    )
    assert "\n" not in text
    assert error.value.exit_code == 2
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize(("w", "named"), [(2**20, "--primes 2"), (2**42, "--primes 3"), (2**62, "leave out")])
def test_only_primes_that_are_enough_are_named(w: int, named: str) -> None:
    X_bar = np.full((100, 3), 4, np.float32)
    with pytest.raises(HeadroomError, match=rf"too many\): (take )?{named}"):
        Headroom(X_bar, [slice(0, 100)], [0, 1], P / 2).check(weights(w, w, w), 0, foreseen=True)
    with pytest.raises(HeadroomError, match=r"too many\): leave out"):  # later weights may be larger
        Headroom(X_bar, [slice(0, 100)], [0, 1], P / 2).check(weights(w, w, w), 0)


def test_the_sum_over_all_rows_fits_or_only_those_of_blocks_do() -> None:
    X_bar = np.full((100, 2), 4, np.float32)
    of_a_block = 20 * 4 * 4 * 2
    for limit, runs in ((5 * of_a_block + 1, 1), (5 * of_a_block - 1, 2), (2 * of_a_block + 1, 3), (of_a_block + 1, 5)):
        assert Headroom(X_bar, row_blocks(100, 5), [0, 1], limit).check(weights(1, 1), 0) == runs


@pytest.mark.parametrize("w", [2**40, 2**61])
def test_values_too_large_to_be_computed_exactly_are_an_error(w: int) -> None:
    X_bar = np.full((100, 3), 4095, np.float32)
    with pytest.raises(HeadroomError, match=r"got \d+ in iteration 0 \([\d.]+ bits too many\)"):
        Headroom(X_bar, [slice(0, 100)], [1, 1, 1], P / 2).check(np.full((2, 3, 1), w, np.int64), 0)


@pytest.mark.filterwarnings("error")
def test_a_bound_that_is_infinite_is_an_error() -> None:
    X_bar = np.full((10, 3), 2**24 - 1, np.float32)
    coefficients = [1] * 21
    with pytest.raises(HeadroomError) as error:
        Headroom(X_bar, [slice(0, 10)], coefficients, P / 2).check(np.full((20, 3, 1), 2**61, np.int64), 0)
    assert "\n" not in str(error.value)


def test_blocks_count_each_for_itself() -> None:
    """Only what one block decodes to has to fit: raising K gives room."""
    X_bar = np.full((100, 2), 4, np.float32)
    p = 2 * 20 * 4 * 4 * 2 + 3
    Headroom(X_bar, row_blocks(100, 5), [0, 1], p / 2).check(weights(1, 1), 0)
    with pytest.raises(HeadroomError, match="got 800 in"):
        Headroom(X_bar, row_blocks(100, 4), [0, 1], p / 2).check(weights(1, 1), 0)


def test_the_constant_coefficient_counts_at_the_first_iteration() -> None:
    """All weights are 0 then, and s = c̄_0: a data set with too many rows is refused at once."""
    X_bar = np.full((1000, 2), 4, np.float32)
    exact = 1000 * 4 * 1024
    Headroom(X_bar, [slice(0, 1000)], [1024, 19], exact + 1.5).check(weights(0, 0), 0)
    with pytest.raises(HeadroomError, match=f"got {exact} in iteration 0"):
        Headroom(X_bar, [slice(0, 1000)], [1024, 19], exact - 0.5).check(weights(0, 0), 0)


def test_empty_blocks_and_zero_data_have_all_the_room() -> None:
    X_bar = np.zeros((3, 2), np.float32)
    headroom = Headroom(X_bar, row_blocks(3, 5), [7, 9], P / 2)
    headroom.check(weights(1000, 1000), 0)
    assert headroom.bits == pytest.approx(math.log2(P / 2))
