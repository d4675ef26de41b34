"""PrimeField and its kernels, compiled and numpy, against Python integers and galois."""

import galois
import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField, factorize, kernels_are_compiled, prime_below
from fedmpi.errors import UsageError

PRIMES = [2**25 - 39, 2**26 - 5, 2**31 - 1]
# Other shapes that the compiled kernels admit: a large c, so that two folds stop sufficing at 32 products;
# the smallest number of unfolded products; folded products with a large c; more than 2^24 unfolded products.
ODD_SHAPES = [prime_below(2**25 - 1000), 2**29 - 3, 2**30 - 35, 2**20 - 3, 2**17 - 1]
# The longest sums that no reduction interrupts: two segments and a ragged rest must be crossed.
LONG = {2**25 - 39: 2 * 16384 + 13, 2**26 - 5: 2 * 4096 + 13, 2**31 - 1: 4099}


def fields(primes, numpy_only=()):
    compiled = [PrimeField(p) for p in primes]
    twins = [PrimeField(p, compiled=False) for p in [*primes, *numpy_only]]
    return pytest.mark.parametrize("field", compiled + twins, ids=lambda f: f"{f.p}-{'C' if f.compiled else 'numpy'}")


every_field = fields(PRIMES, numpy_only=[101, 251])


def elements(field, shape, seed=0):
    """Random elements with 0, 1, p-1 and p-2 strewn in."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, field.p, shape, np.uint32)
    extremes = rng.choice(np.array([0, 1, field.p - 2, field.p - 1], np.uint32), shape)
    return np.where(rng.random(shape) < 0.25, extremes, values)


def full(field, shape):
    """The worst case of every sum: p - 1 everywhere."""
    return np.full(shape, field.p - 1, np.uint32)


def assert_gradient(field, X, W, coefficients):
    result = field.gradient(X, W, coefficients)
    assert result.shape == (X.shape[1], W.shape[2])
    assert field.contains(result)
    np.testing.assert_array_equal(result, oracles.gradient(X, W, coefficients, field.p))


def assert_matmul(field, matrix, rows):
    result = field.matmul(matrix, rows)
    stack = np.stack([np.asarray(row) for row in rows])
    expected = oracles.product(matrix, stack.reshape(len(stack), -1), field.p)
    assert result.shape == (len(matrix), *stack.shape[1:])
    assert field.contains(result)
    np.testing.assert_array_equal(result.reshape(expected.shape), expected)


# -- the modulus --------------------------------------------------------------------------------------------


def test_the_c_kernels_are_built_so_that_these_tests_run_them():
    assert kernels_are_compiled()
    assert all(PrimeField(p).compiled for p in PRIMES + ODD_SHAPES)
    assert not any(PrimeField(p, compiled=False).compiled for p in PRIMES)


@pytest.mark.parametrize("p", [101, 251, 65521, prime_below(2**31 - 2**20)])
def test_primes_that_folding_does_not_reduce_fall_back_to_numpy(p):
    field = PrimeField(p)
    assert not field.compiled
    assert_gradient(field, elements(field, (9, 5)), elements(field, (5, 2, 1)), elements(field, 3))


def test_the_papers_modulus_is_refused_with_its_factors_and_the_nearest_prime_below():
    with pytest.raises(UsageError, match=r"33554395 = 5·7·277·3461; nearest below: 33554393$"):
        PrimeField(2**25 - 37)


@pytest.mark.parametrize(
    ("p", "message"), [(9, "9 = 3·3; nearest below: 7"), (2**31 - 3, "2147483645 = 5·19·22605091;")]
)
def test_composite_moduli_are_refused_with_repeated_factors(p, message):
    with pytest.raises(UsageError, match=message):
        PrimeField(p)


@pytest.mark.parametrize("p", [-7, 0, 1, 2, 2**31, 2**31 + 11, 2**61 - 1])
def test_moduli_out_of_range_are_refused_with_the_value(p):
    with pytest.raises(UsageError, match=f"below 2\\^31, got {p}$"):
        PrimeField(p)


def test_factorize_and_prime_below_agree_with_galois():
    for n in [2, 3, 4, 97, 2**10, 2**25 - 37, 46337**2, 2**31 - 1, 2**31 - 2]:
        primes, powers = galois.factors(n)
        assert factorize(n) == [q for q, e in zip(primes, powers, strict=True) for _ in range(e)]
    for n in [3, 4, 100, 2**25, 2**25 - 39, 2**26, 2**31]:
        assert prime_below(n) == galois.prev_prime(n - 1)


# -- elements -----------------------------------------------------------------------------------------------


@every_field
def test_signed_integers_round_trip_over_the_whole_range(field):
    half = field.p // 2
    signed = np.unique(np.concatenate([np.linspace(-half, half, 999).astype(np.int64), [-half, -1, 0, 1, half]]))
    mapped = field.from_signed(signed)
    assert field.contains(mapped)
    np.testing.assert_array_equal(mapped, [int(v) % field.p for v in signed])
    np.testing.assert_array_equal(field.to_signed(mapped), signed)
    assert field.to_signed(mapped).dtype == np.int64


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.float32, np.float64])
def test_from_signed_takes_integers_of_any_dtype_and_leaves_them_alone(dtype):
    field, values = PrimeField(), np.array([[-100, -1, 0], [1, 7, 127]], dtype)
    before = values.copy()
    np.testing.assert_array_equal(field.from_signed(values), [[field.p - 100, field.p - 1, 0], [1, 7, 127]])
    np.testing.assert_array_equal(values, before)


def test_to_signed_leaves_its_argument_alone():
    field = PrimeField()
    values = full(field, 3)
    field.to_signed(values)
    np.testing.assert_array_equal(values, full(field, 3))


@every_field
def test_contains_admits_exactly_the_canonical_uint32(field):
    assert field.contains(np.array([0, field.p - 1], np.uint32))
    assert field.contains(np.array([], np.uint32))
    assert not field.contains(np.array([0, field.p], np.uint32))
    assert not field.contains(np.array([2**32 - 1], np.uint32))
    assert not field.contains(np.array([0, 1], np.int64))


@every_field
def test_inverse_is_galoiss(field):
    GF = oracles.galois_field(field.p)
    for value in [1, 2, 5, 7, field.p // 2, field.p - 2, field.p - 1]:
        assert field.inverse(value) == int(GF(1) / GF(value))
    assert field.inverse(-1) == field.p - 1
    assert field.inverse(field.p + 2) == field.inverse(2)


@every_field
def test_zero_has_no_inverse(field):
    for zero in (0, field.p, -3 * field.p):
        with pytest.raises(ZeroDivisionError, match=f"modulo {field.p}"):
            field.inverse(zero)


@every_field
def test_array_reduces_integers_of_any_size_and_sign(field):
    values = [2**100, -(2**90), 2**64 - 1, -1, 0, field.p, 5 * field.p - 1]
    result = field.array(values)
    assert field.contains(result)
    np.testing.assert_array_equal(result, [v % field.p for v in values])
    np.testing.assert_array_equal(field.array(np.array([2**64 - 1], np.uint64)), [(2**64 - 1) % field.p])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_array_reduces_integers_of_every_dtype(dtype):
    field = PrimeField()
    values = np.array([np.iinfo(dtype).min, 0, 1, np.iinfo(dtype).max], dtype)
    np.testing.assert_array_equal(field.array(values), [int(v) % field.p for v in values])


def test_array_refuses_floating_point():
    with pytest.raises(TypeError, match="must be integers"):
        PrimeField().array([1.0, 2.0])


# -- matmul -------------------------------------------------------------------------------------------------


@every_field
@pytest.mark.parametrize("inner", range(1, 21))
def test_matmul_is_exact_for_every_number_of_rows(field, inner):
    assert_matmul(field, elements(field, (3, inner), inner), elements(field, (inner, 11), inner + 50))
    assert_matmul(field, full(field, (2, inner)), full(field, (inner, 3)))


@every_field
@pytest.mark.parametrize("columns", [1, 7, 511, 512, 513, 1500])
def test_matmul_is_exact_for_columns_that_fill_no_whole_tile(field, columns):
    assert_matmul(field, elements(field, (4, 9), 1), elements(field, (9, columns), 2))


@every_field
def test_matmul_agrees_with_galois(field):
    GF = oracles.galois_field(field.p)
    A, B = elements(field, (5, 17), 3), elements(field, (17, 530), 4)
    np.testing.assert_array_equal(field.matmul(A, B), np.asarray(GF(A.astype(int)) @ GF(B.astype(int))))


@fields(PRIMES)
def test_matmul_stays_exact_when_the_sum_outgrows_64_bits(field):
    inner = LONG[field.p]
    assert inner * (field.p - 1) ** 2 > 2**65
    assert_matmul(field, full(field, (2, inner)), full(field, (inner, 3)))
    assert_matmul(field, elements(field, (2, inner), 5), elements(field, (inner, 3), 6))


@fields(ODD_SHAPES)
@pytest.mark.parametrize("inner", [1, 8, 31, 32, 33, 40, 63, 64, 65, 72, 200])
def test_matmul_is_exact_around_the_limits_of_other_primes(field, inner):
    assert_matmul(field, full(field, (2, inner)), full(field, (inner, 5)))
    assert_matmul(field, elements(field, (2, inner), 7), elements(field, (inner, 515), 8))


@fields([prime_below(2**25 - 1000)])
def test_matmul_is_exact_for_many_products_of_a_prime_with_a_large_c(field):
    rng = np.random.default_rng(9)
    for inner in range(24, 48):
        matrix = field.p - 1 - rng.integers(0, 64, (4, inner), np.uint32)
        assert_matmul(field, matrix, field.p - 1 - rng.integers(0, 64, (inner, 512), np.uint32))


@every_field
def test_matmul_takes_non_contiguous_inputs(field):
    big = elements(field, (30, 40, 6), 10)
    assert_matmul(field, big[::2, 3, :5], big[5:10, ::3, ::-1])
    assert_matmul(field, elements(field, (9, 4), 11).T, list(elements(field, (21, 9), 12).T))
    assert_matmul(field, big[0, :3, :4], [big[1], big[7].copy(), np.asfortranarray(big[9]), big[29, ::-1]])


@every_field
def test_matmul_writes_where_it_is_told(field):
    matrix, rows = elements(field, (4, 3), 13), elements(field, (3, 2, 5), 14)
    apart = np.zeros((4, 3, 2, 5), np.uint32)
    assert field.matmul(matrix, rows, apart[:, 1]).base is apart
    np.testing.assert_array_equal(apart[:, 1], field.matmul(matrix, rows))
    assert not apart[:, ::2].any()
    single = np.zeros((4, 2), np.uint32)[:, 1]
    np.testing.assert_array_equal(field.matmul(matrix, rows[:, 0, 0], single), apart[:, 1, 0, 0])
    for wrong in (np.zeros((4, 2, 4), np.uint32), np.zeros((4, 2, 5)), np.zeros((4, 2, 10), np.uint32)[:, :, ::2]):
        with pytest.raises(ValueError, match="matmul: out must have rows of uint32 in one piece"):
            field.matmul(matrix, rows, wrong)


@every_field
def test_matmul_keeps_the_shape_of_the_rows_and_the_inputs(field):
    matrix, rows = elements(field, (4, 3), 13), [elements(field, (2, 3, 5), seed) for seed in range(3)]
    copies = matrix.copy(), [row.copy() for row in rows]
    assert field.matmul(matrix, rows).shape == (4, 2, 3, 5)
    np.testing.assert_array_equal(matrix, copies[0])
    np.testing.assert_array_equal(rows, copies[1])


@every_field
def test_matmul_of_nothing_is_nothing(field):
    assert field.matmul(elements(field, (4, 3)), np.empty((3, 0), np.uint32)).shape == (4, 0)
    assert field.matmul(np.empty((0, 3), np.uint32), elements(field, (3, 2))).shape == (0, 2)


@every_field
def test_matmul_recombines_single_elements(field):
    assert_matmul(field, elements(field, (4, 3), 14), elements(field, 3, 15))


@every_field
def test_matmul_refuses_what_does_not_fit(field):
    matrix, rows = elements(field, (2, 3)), elements(field, (3, 5))
    for wrong_matrix, wrong_rows in [
        (matrix[:, :2], rows),
        (matrix[0], rows),
        (matrix[:, :0], []),
        (matrix, [rows[0], rows[1], rows[2, :4]]),
        (matrix, [rows[0], rows[1], rows[2].astype(np.int64)]),
    ]:
        with pytest.raises(ValueError, match="matmul: "):
            field.matmul(wrong_matrix, wrong_rows)


# -- gradient -----------------------------------------------------------------------------------------------


@every_field
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("m", [0, 1, 7, 8, 9, 16, 23])
def test_gradient_is_exact_for_every_degree_and_number_of_rows(field, m, degree):
    for d, outputs in [(1, 1), (6, 1), (5, 3)]:
        seed = 100 * m + 10 * d + degree
        assert_gradient(
            field,
            elements(field, (m, d), seed),
            elements(field, (d, degree, outputs), seed + 1),
            elements(field, degree + 1, seed + 2),
        )
        assert_gradient(field, full(field, (m, d)), full(field, (d, degree, outputs)), full(field, degree + 1))


@fields(ODD_SHAPES)
def test_gradient_is_exact_for_other_primes(field):
    for m, d in [(200, 3), (9, 200)]:
        assert_gradient(field, full(field, (m, d)), full(field, (d, 2, 1)), full(field, 3))
        assert_gradient(field, elements(field, (m, d)), elements(field, (d, 3, 2), 1), elements(field, 4, 2))


@fields(PRIMES)
@pytest.mark.parametrize("degree", [1, 2])
def test_gradient_stays_exact_when_a_row_outgrows_64_bits(field, degree):
    d = LONG[field.p]
    assert_gradient(field, full(field, (9, d)), full(field, (d, degree, 1)), full(field, degree + 1))
    assert_gradient(field, elements(field, (9, d), 1), elements(field, (d, 1, 1), 2), elements(field, 2, 3))


@fields(PRIMES)
@pytest.mark.parametrize("ragged", [0, 5])
def test_gradient_stays_exact_when_a_column_outgrows_64_bits(field, ragged):
    m = LONG[field.p] // 8 * 8 + ragged
    constant = np.array([field.p - 1, 0], np.uint32)  # s = p - 1 for every row: no sum can be larger
    assert_gradient(field, full(field, (m, 2)), full(field, (2, 1, 2)), constant)
    assert_gradient(field, elements(field, (m, 2), 4), elements(field, (2, 1, 1), 5), elements(field, 2, 6))


@fields([2**25 - 39, 2**26 - 5])
def test_gradient_is_exact_just_around_the_number_of_rows_that_fit(field):
    limit = LONG[field.p] // 2 // 8 * 8
    assert limit * (field.p - 1) ** 2 < 2**64 < (limit + 8) * (field.p - 1) ** 2
    constant = np.array([field.p - 1, 0], np.uint32)
    for m in (limit - 8, limit - 1, limit, limit + 1, limit + 8):
        result = field.gradient(full(field, (m, 1)), full(field, (1, 1, 1)), constant)
        assert result[0, 0] == m % field.p  # (-1)·(-1) per row


@every_field
def test_gradient_agrees_with_galois(field):
    GF = oracles.galois_field(field.p)
    X, W, c = elements(field, (19, 7), 7), elements(field, (7, 2, 3), 8), elements(field, 3, 9)
    x, z1, z2 = (GF(a.astype(int)) for a in (X, W[:, 0], W[:, 1]))
    z1, z2 = x @ z1, x @ z2
    s = GF(int(c[0])) + GF(int(c[1])) * z1 + GF(int(c[2])) * z1 * z2
    np.testing.assert_array_equal(field.gradient(X, W, c), np.asarray(x.T @ s))


@every_field
def test_gradient_uses_each_quantization_once_and_in_order(field):
    # s = z_1 z_2 of one row (1, 0) is w_1[0]·w_2[0]; swapping outputs or quantizations would show
    X = np.array([[1, 0]], np.uint32)
    W = np.array([[[2, 3], [5, 7]], [[11, 13], [17, 19]]], np.uint32)  # (d, r, C)
    np.testing.assert_array_equal(field.gradient(X, W, np.array([0, 1, 0], np.uint32)), [[2, 3], [0, 0]])
    np.testing.assert_array_equal(field.gradient(X, W, np.array([0, 0, 1], np.uint32)), [[10, 21], [0, 0]])


@every_field
def test_gradient_takes_non_contiguous_arrays(field):
    X, W = elements(field, (40, 30), 10)[::3, ::-2], elements(field, (3, 2, 15), 11).transpose(2, 1, 0)
    assert_gradient(field, X, W, elements(field, 3, 12))
    assert_gradient(field, np.asfortranarray(X), W, elements(field, 3, 12))


@every_field
def test_gradient_takes_non_contiguous_coefficients(field):
    # Long coefficients: memory that was freed too early is then sure to be overwritten.
    coefficients = elements(field, 602, 13)[::2]
    assert_gradient(field, elements(field, (3, 2), 14), elements(field, (2, 300, 1), 15), coefficients)


@every_field
@pytest.mark.parametrize("argument", ["X", "W", "coefficients"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_gradient_never_misreads_another_dtype(field, argument, dtype):
    arguments = {
        "X": elements(field, (9, 3)),
        "W": elements(field, (3, 2, 1)),
        "coefficients": elements(field, 3),
    }
    expected = oracles.gradient(*arguments.values(), field.p)
    arguments[argument] = arguments[argument].astype(dtype)
    try:
        result = field.gradient(**arguments)
    except (TypeError, ValueError):
        return
    np.testing.assert_array_equal(result, expected)


@every_field
def test_gradient_leaves_its_inputs_alone(field):
    arguments = elements(field, (11, 3)), elements(field, (3, 2, 2), 1), elements(field, 3, 2)
    copies = [a.copy() for a in arguments]
    field.gradient(*arguments)
    for now, before in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(now, before)


@every_field
def test_gradient_refuses_shapes_that_do_not_fit(field):
    X, W, c = elements(field, (4, 3)), elements(field, (3, 2, 1)), elements(field, 3)
    for wrong in [(X[:, :2], W, c), (X, W[:2], c), (X, W[:, :1], c), (X, W, c[:2]), (X, W, c.reshape(1, 3))]:
        with pytest.raises(ValueError, match="gradient: shapes"):
            field.gradient(*wrong)


# -- the two halves of the gradient, and elementwise arithmetic ----------------------------------------------


def assert_products(field, X, W, S):
    for result, expected in [
        (field.product(X, W), oracles.product(X, W, field.p)),
        (field.transposed_product(X, S), oracles.product(X.T, S, field.p)),
    ]:
        assert field.contains(result)
        np.testing.assert_array_equal(result, expected)


@every_field
@pytest.mark.parametrize("m", [0, 1, 7, 8, 9, 23])
def test_products_with_a_matrix_and_its_transpose_are_exact(field, m):
    for d, k in [(1, 1), (6, 1), (5, 3)]:
        assert_products(field, full(field, (m, d)), full(field, (d, k)), full(field, (m, k)))
        assert_products(field, elements(field, (m, d), m), elements(field, (d, k), 1), elements(field, (m, k), 2))


@fields(PRIMES)
def test_products_stay_exact_when_rows_and_columns_outgrow_64_bits(field):
    n = LONG[field.p]
    assert_products(field, full(field, (9, n)), full(field, (n, 2)), full(field, (9, 1)))
    assert_products(field, full(field, (n, 2)), full(field, (2, 1)), full(field, (n, 2)))


@fields(ODD_SHAPES)
def test_products_are_exact_for_other_primes(field):
    assert_products(field, full(field, (203, 90)), full(field, (90, 2)), full(field, (203, 2)))


@every_field
def test_products_take_non_contiguous_arrays(field):
    big = elements(field, (40, 30, 3), 3)
    assert_products(field, big[::3, ::-2, 1], big[:15, 3, :2], big[14:28, ::11, 0])
    assert_products(field, big[:15, :5, 0].T, big[:15, 2, 1:], big[:5, :2, 2][:, ::-1])


@every_field
def test_products_refuse_shapes_that_do_not_fit(field):
    with pytest.raises(ValueError, match=r"^product: shapes"):
        field.product(elements(field, (4, 3)), elements(field, (4, 1)))
    with pytest.raises(ValueError, match=r"^transposed_product: shapes"):
        field.transposed_product(elements(field, (4, 3)), elements(field, (3, 1)))


@every_field
def test_elementwise_arithmetic_is_that_of_python_integers_and_broadcasts(field):
    borders = np.array([0, 1, 2, field.p // 2, field.p // 2 + 1, field.p - 2, field.p - 1], np.uint32)
    a, b = np.concatenate([borders, elements(field, 50)])[:, None], np.concatenate([borders, elements(field, 50, 1)])
    before = a.copy(), b.copy()
    for method, operation in [
        (field.add, lambda x, y: x + y),
        (field.subtract, lambda x, y: x - y),
        (field.multiply, lambda x, y: x * y),
    ]:
        result = method(a, b)
        assert field.contains(result)
        np.testing.assert_array_equal(result, operation(a.astype(object), b.astype(object)) % field.p)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


@pytest.mark.parametrize("p", PRIMES)
def test_both_kernels_give_the_same_on_a_larger_problem(p):
    fast, slow = PrimeField(p), PrimeField(p, compiled=False)
    X, W, c = elements(fast, (1003, 97)), elements(fast, (97, 3, 2), 1), elements(fast, 4, 2)
    np.testing.assert_array_equal(fast.gradient(X, W, c), slow.gradient(X, W, c))
    A, B = elements(fast, (50, 17), 3), elements(fast, (17, 3001), 4)
    np.testing.assert_array_equal(fast.matmul(A, B), slow.matmul(A, B))
