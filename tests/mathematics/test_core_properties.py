"""Properties of the core that hold for every input hypothesis can think of."""

from fractions import Fraction

import numpy as np
import oracles
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmpi.core.field import PrimeField, factorize, prime_below
from fedmpi.core.lagrange import LagrangeCode
from fedmpi.core.quantize import dequantize, quantize, quantize_stochastic
from fedmpi.core.shamir import Shamir
from fedmpi.core.sigmoid import quantize_polynomial
from fedmpi.errors import UsageError

# The same examples in every run, and no database in the tree.
steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)

FIELDS = {
    (p, compiled): PrimeField(p, compiled=compiled)
    for p in (101, 2**25 - 39, 2**26 - 5, 2**29 - 3, 2**31 - 1)
    for compiled in (True, False)
}
fields = st.sampled_from(list(FIELDS.values()))
seeds = st.integers(0, 2**32 - 1)


def arrays(field, shape):
    """Elements with many at the borders of the field: these overflow first."""
    borders = st.sampled_from([0, 1, field.p - 2, field.p - 1])
    return hnp.arrays(np.uint32, shape, elements=st.one_of(borders, st.integers(0, field.p - 1)))


@steady
@given(st.data(), fields, st.integers(1, 4), st.integers(1, 40), st.integers(0, 5))
def test_matmul_is_exact(data, field, n, inner, columns):
    A, B = data.draw(arrays(field, (n, inner))), data.draw(arrays(field, (inner, columns)))
    np.testing.assert_array_equal(field.matmul(A, B), oracles.product(A, B, field.p))


@steady
@given(st.data(), fields, st.integers(0, 19), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
def test_gradient_is_exact(data, field, m, d, degree, outputs):
    X, W, c = (data.draw(arrays(field, s)) for s in [(m, d), (d, degree, outputs), (degree + 1,)])
    np.testing.assert_array_equal(field.gradient(X, W, c), oracles.gradient(X, W, c.tolist(), field.p))


@steady
@given(fields, st.lists(st.integers(-(2**200), 2**200), min_size=1))
def test_array_reduces_any_integers_as_python_does(field, values):
    values = [*values, 2**65]  # one that makes numpy keep Python integers
    result = field.array(values)
    assert field.contains(result)
    assert result.tolist() == [v % field.p for v in values]


@steady
@given(st.data(), fields)
def test_signed_integers_round_trip_and_keep_sums_and_products(data, field):
    half = field.p // 2
    values = data.draw(st.lists(st.integers(-half, half), min_size=2, max_size=20))
    mapped = field.from_signed(np.array(values))
    assert field.contains(mapped)
    assert field.to_signed(mapped).tolist() == values
    total = sum(values)
    assume(abs(total) <= half)
    ones = np.ones((1, len(values)), np.uint32)
    assert field.to_signed(field.matmul(ones, mapped[:, None]))[0, 0] == total


@steady
@given(fields, st.integers())
def test_inverse_times_value_is_one(field, value):
    assume(value % field.p)
    inverse = field.inverse(value)
    assert 0 < inverse < field.p
    assert inverse * value % field.p == 1


@steady
@given(st.integers(2, 10**7))
def test_factorize_gives_rising_primes_whose_product_is_the_number(n):
    factors = factorize(n)
    assert np.prod(factors, dtype=object) == n
    assert factors == sorted(factors)
    assert all(q > 1 and all(q % k for k in range(2, int(q**0.5) + 1)) for q in set(factors))


@steady
@given(st.integers(4, 2**31 - 1))
def test_every_composite_modulus_is_refused_with_a_prime_below_that_works(p):
    assume(factorize(p) != [p])
    with pytest.raises(UsageError) as refused:
        PrimeField(p)
    nearest = int(str(refused.value).split()[-1])
    assert nearest == prime_below(p) < p
    assert PrimeField(nearest).p == nearest


@steady
@given(st.data(), fields, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), seeds)
def test_decoding_any_large_enough_subset_undoes_encoding(data, field, K, T, degree, slack, seed):
    workers = degree * (K + T - 1) + 1 + slack
    code = LagrangeCode(field, K, T, workers, degree)
    blocks = data.draw(arrays(field, (K, 2)))
    shares = code.encode(blocks, oracles.uniform(field.p, seed))
    powers = np.array([[pow(v, degree, field.p) for v in share] for share in shares.tolist()], np.uint32)
    fastest = data.draw(st.permutations(range(workers)))[: code.recovery_threshold]
    decoded = code.decode({i: powers[i] for i in fastest})
    assert decoded.tolist() == [[pow(v, degree, field.p) for v in block] for block in blocks.tolist()]


@steady
@given(st.data(), fields, st.integers(1, 6), st.integers(1, 4), seeds)
def test_encode_repeated_is_encode_of_repeated_blocks(data, field, K, T, seed):
    code = LagrangeCode(field, K, T, K + T, 1)
    block = data.draw(arrays(field, (3,)))
    repeated = code.encode_repeated(block, oracles.uniform(field.p, seed))
    np.testing.assert_array_equal(repeated, code.encode([block] * K, oracles.uniform(field.p, seed)))


@steady
@given(st.data(), fields, st.integers(0, 6), st.integers(1, 6), seeds)
def test_any_large_enough_subset_reconstructs_shared_secrets_and_their_products(data, field, T, extra, seed):
    sharing = Shamir(field, 2 * T + extra, T)
    a, b = data.draw(arrays(field, (2,))), data.draw(arrays(field, (2,)))
    random = oracles.uniform(field.p, seed)
    shares_a, shares_b = sharing.share(a, random), sharing.share(b, random)
    order = data.draw(st.permutations(range(sharing.parties)))
    np.testing.assert_array_equal(sharing.reconstruct({i: shares_a[i] for i in order[: T + 1]}), a)
    products = (shares_a.astype(object) * shares_b % field.p).astype(np.uint32)
    chosen = {i: products[i] for i in order[: 2 * T + 1]}
    np.testing.assert_array_equal(sharing.reconstruct(chosen, 2 * T), a.astype(object) * b % field.p)


reals = st.floats(-1000, 1000, width=32)  # 2^bits·x + 1/2 is then exact in float64 up to 20 bits


@steady
@given(hnp.arrays(np.float64, st.integers(1, 20), elements=reals.filter(lambda x: x == 0 or abs(x) > 2**-20)))
def test_quantization_is_within_half_a_step_and_the_upper_end_is_open(x):
    for bits in (0, 1, 5, 12):
        back = dequantize(quantize(x, bits).astype(np.int64), bits)
        half = 2.0 ** -(bits + 1)
        assert (back - x <= half).all()
        assert (x - back < half).all()  # a half goes up: never down by a half


@steady
@given(hnp.arrays(np.float64, 20, elements=st.floats(-1000, 1000)), st.integers(0, 20), seeds)
def test_stochastic_rounding_takes_one_of_the_two_neighbours(x, bits, seed):
    result = quantize_stochastic(x, bits, np.random.default_rng(seed).random(20))
    scaled = x * 2.0**bits
    assert ((result == np.floor(scaled)) | (result == np.ceil(scaled))).all()


powers_of_two = st.integers(-40, 1).map(lambda e: 2.0**e)
borders = powers_of_two | powers_of_two.map(lambda x: float(np.nextafter(x, 0)))
coefficients = st.floats(-2, 2).filter(lambda c: abs(c) > 1e-12) | borders | borders.map(lambda x: -x)


@steady
@given(st.lists(coefficients, min_size=2, max_size=5), st.integers(0, 40), st.integers(0, 30))
def test_the_bits_that_a_refused_polynomial_names_are_the_fewest_that_do(c, argument_bits, excess):
    c = np.array(c)
    with pytest.raises(UsageError) as refused:
        quantize_polynomial(c, -10, argument_bits)
    needed = int(str(refused.value).split("at least ")[1].split()[0])
    integers = quantize_polynomial(c, needed + excess, argument_bits)
    for i, (real, integer) in enumerate(zip(c, integers, strict=True)):
        scale = Fraction(2) ** (needed + excess + (len(c) - 1 - i) * argument_bits)
        assert abs(integer - Fraction(float(real)) * scale) <= Fraction(1, 2)
    assert integers[-1] != 0
    with pytest.raises(UsageError):
        quantize_polynomial(c, needed - 1, argument_bits)
