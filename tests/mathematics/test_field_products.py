"""Products and element-wise arithmetic of PrimeField, compiled and numpy, against Python integers."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField

PRIMES = [2**25 - 39, 2**26 - 5, 2**31 - 1]
SMALL = [3, 101]  # without compiled kernels
# The longest sums that no reduction interrupts: two segments and a ragged rest must be crossed.
LONG = {2**25 - 39: 2 * 16384 + 13, 2**26 - 5: 2 * 4096 + 13, 2**31 - 1: 4099}


def fields(primes: list[int], numpy_only: list[int]) -> pytest.MarkDecorator:
    both = [PrimeField(p) for p in primes] + [PrimeField(p, compiled=False) for p in [*primes, *numpy_only]]
    return pytest.mark.parametrize("field", both, ids=lambda f: f"{f.p}-{'C' if f.compiled else 'numpy'}")


every_field = fields(PRIMES, SMALL)
compiled_primes = fields(PRIMES, [])


def elements(field: PrimeField, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random elements with 0, 1, p-2 and p-1 strewn in."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, field.p, shape, np.uint32)
    extremes = rng.choice(np.array([0, 1, field.p - 2, field.p - 1], np.uint32), shape)
    return np.where(rng.random(shape) < 0.25, extremes, values)


def full(field: PrimeField, shape: tuple[int, ...]) -> np.ndarray:
    """The worst case of every sum: p - 1 everywhere."""
    return np.full(shape, field.p - 1, np.uint32)


def assert_elements(field: PrimeField, result: np.ndarray, expected: np.ndarray) -> None:
    assert result.dtype == np.uint32
    assert field.contains(result)
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


def assert_product(field: PrimeField, X: np.ndarray, W: np.ndarray) -> None:
    assert_elements(field, field.product(X, W), oracles.product(X, W, field.p))


def assert_transposed(field: PrimeField, X: np.ndarray, S: np.ndarray) -> None:
    assert_elements(field, field.transposed_product(X, S), oracles.product(X.T, S, field.p))


def test_the_compiled_fields_are_compiled() -> None:
    assert all(PrimeField(p).compiled for p in PRIMES)
    assert not any(PrimeField(p, compiled=False).compiled for p in PRIMES)
    assert not any(PrimeField(p).compiled for p in SMALL)


# -- products -----------------------------------------------------------------------------------------------------


@every_field
@pytest.mark.parametrize("m", [0, 1, 7, 8, 9, 16, 23])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (15, 1), (16, 2), (33, 3)])
def test_products_are_exact_for_every_number_of_rows(field: PrimeField, m: int, d: int, k: int) -> None:
    seed = 100 * m + d
    assert_product(field, elements(field, (m, d), seed), elements(field, (d, k), seed + 1))
    assert_product(field, full(field, (m, d)), full(field, (d, k)))
    assert_transposed(field, elements(field, (m, d), seed), elements(field, (m, k), seed + 1))
    assert_transposed(field, full(field, (m, d)), full(field, (m, k)))


@every_field
def test_products_of_zeros_and_of_units(field: PrimeField) -> None:
    X, unit = elements(field, (9, 5)), np.eye(5, dtype=np.uint32)
    np.testing.assert_array_equal(field.product(X, unit), X)
    np.testing.assert_array_equal(field.transposed_product(X, np.eye(9, dtype=np.uint32)), X.T)
    assert not field.product(X, np.zeros((5, 2), np.uint32)).any()
    assert not field.transposed_product(X, np.zeros((9, 2), np.uint32)).any()


@compiled_primes
@pytest.mark.parametrize("ragged", [0, 5])
def test_products_stay_exact_when_a_sum_outgrows_64_bits(field: PrimeField, ragged: int) -> None:
    n = LONG[field.p] // 8 * 8 + ragged
    assert_product(field, full(field, (9, n)), full(field, (n, 1)))
    assert_product(field, elements(field, (3, n), 1), elements(field, (n, 2), 2))
    assert_transposed(field, full(field, (n, 2)), full(field, (n, 2)))
    assert_transposed(field, elements(field, (n, 3), 1), elements(field, (n, 1), 2))


@fields([2**25 - 39, 2**26 - 5], [])
def test_products_are_exact_just_around_the_number_of_terms_that_fit(field: PrimeField) -> None:
    limit = (2**64 - 1) // (field.p - 1) ** 2
    for n in range(limit - 9, limit + 10):
        row, column = full(field, (1, n)), full(field, (n, 1))
        assert field.product(row, column)[0, 0] == n % field.p  # (-1)·(-1) per term
        assert field.transposed_product(column, column)[0, 0] == n % field.p


@every_field
def test_products_keep_rows_columns_and_outputs_apart(field: PrimeField) -> None:
    X = np.array([[1, 0, 0], [0, 2, 0]], np.uint32)
    W = np.array([[1, 2], [1, 0], [2, 2]], np.uint32)
    np.testing.assert_array_equal(field.product(X, W), np.array([[1, 2], [2, 0]]) % field.p)
    S = np.array([[1, 2], [2, 1]], np.uint32)
    np.testing.assert_array_equal(field.transposed_product(X, S), np.array([[1, 2], [4, 2], [0, 0]]) % field.p)


@every_field
def test_products_take_non_contiguous_arrays(field: PrimeField) -> None:
    X = elements(field, (40, 30), 10)[::3, ::-2]
    m, d = X.shape
    W, S = elements(field, (4, 2 * d), 11).T[::2], elements(field, (4, 2 * m), 12).T[1::2]
    for x in (X, np.asfortranarray(X)):
        assert_product(field, x, W)
        assert_transposed(field, x, S)


@every_field
def test_products_leave_their_inputs_alone(field: PrimeField) -> None:
    X, W, S = elements(field, (11, 6)), elements(field, (6, 2), 1), elements(field, (11, 2), 2)
    copies = [a.copy() for a in (X, W, S)]
    field.product(X, W), field.transposed_product(X, S)
    for now, before in zip((X, W, S), copies, strict=True):
        np.testing.assert_array_equal(now, before)


@every_field
def test_products_refuse_shapes_that_do_not_fit(field: PrimeField) -> None:
    X = elements(field, (4, 3))
    for rows in (2, 4):
        with pytest.raises(ValueError, match="product: shapes"):
            field.product(X, elements(field, (rows, 1)))
    for rows in (3, 5):
        with pytest.raises(ValueError, match="transposed_product: shapes"):
            field.transposed_product(X, elements(field, (rows, 1)))


@every_field
@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
@pytest.mark.parametrize("name", ["product", "transposed_product"])
def test_products_never_misread_another_dtype(field: PrimeField, name: str, dtype: Any, argument: int) -> None:
    """As for `gradient`: refused or right, but never the memory of another type."""
    X = elements(field, (9, 5))
    arguments = [X, elements(field, (5 if name == "product" else 9, 2), 1)]
    expected = oracles.product(X if name == "product" else X.T, arguments[1], field.p)
    arguments[argument] = arguments[argument].astype(dtype)
    try:
        result = getattr(field, name)(*arguments)
    except (TypeError, ValueError):
        return
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("p", PRIMES)
def test_both_twins_give_the_same_on_a_larger_problem(p: int) -> None:
    fast, slow = PrimeField(p), PrimeField(p, compiled=False)
    X, W, S = elements(fast, (1003, 697)), elements(fast, (697, 3), 1), elements(fast, (1003, 3), 2)
    np.testing.assert_array_equal(fast.product(X, W), slow.product(X, W))
    np.testing.assert_array_equal(fast.transposed_product(X, S), slow.transposed_product(X, S))


@every_field
def test_a_product_and_a_transposed_product_are_a_gradient(field: PrimeField) -> None:
    """What the baselines compute in two steps is what the coded worker computes in one."""
    X, w, c = elements(field, (21, 6)), elements(field, (6, 1), 1), elements(field, (2,), 2)
    s = field.add(field.multiply(c[1:], field.product(X, w)), c[:1])
    np.testing.assert_array_equal(field.transposed_product(X, s), oracles.gradient(X, w[:, None], c.tolist(), field.p))


# -- element by element -------------------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "multiply": operator.mul,
    "add": operator.add,
    "subtract": operator.sub,
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


def assert_operation(field: PrimeField, name: str, a: np.ndarray, b: np.ndarray) -> None:
    expected = np.asarray(OPERATIONS[name](a.astype(object), b.astype(object)) % field.p)
    assert_elements(field, getattr(field, name)(a, b), expected)


@every_field
@every_operation
def test_operations_are_exact_on_every_pair_of_extremes(field: PrimeField, name: str) -> None:
    p = field.p
    extremes = np.unique(np.array([0, 1, 2, p // 2, p // 2 + 1, p - 2, p - 1], np.int64) % p).astype(np.uint32)
    a, b = (grid.ravel() for grid in np.meshgrid(extremes, extremes))
    assert len(a) >= 9
    assert_operation(field, name, a, b)
    assert_operation(field, name, full(field, (5,)), full(field, (5,)))


@every_field
@every_operation
@pytest.mark.parametrize(
    ("a", "b"),
    [((0,), (0,)), ((1,), (1,)), ((1000,), (1000,)), ((7, 3), (7, 3)), ((1,), (7, 3)), ((7, 3), (1,)), ((7, 1), (3,))],
)
def test_operations_are_exact_and_broadcast(
    field: PrimeField, name: str, a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    assert_operation(field, name, elements(field, a, 1), elements(field, b, 2))


@every_field
@every_operation
def test_operations_take_non_contiguous_arrays_and_leave_them_alone(field: PrimeField, name: str) -> None:
    a, b = elements(field, (8, 12), 1)[::2, ::-3], elements(field, (4, 4), 2).T
    copies = a.copy(), b.copy()
    assert_operation(field, name, a, b)
    np.testing.assert_array_equal(a, copies[0])
    np.testing.assert_array_equal(b, copies[1])
    for array in (a, b):
        array.flags.writeable = False  # as what a channel received
    assert_operation(field, name, a, b)


@every_field
def test_adding_what_was_subtracted_gives_back_the_first(field: PrimeField) -> None:
    a, b = elements(field, (500,), 1), elements(field, (500,), 2)
    np.testing.assert_array_equal(field.add(field.subtract(a, b), b), a)
    assert not field.subtract(a, a).any()
