"""Fixed-point quantization: bounds, ties, unbiasedness."""

from fractions import Fraction

import numpy as np
import pytest

from fedmpi.core.quantize import dequantize, quantize, quantize_stochastic


@pytest.mark.parametrize("bits", [0, 1, 2, 7, 10, 20])
def test_quantization_moves_no_value_by_more_than_half_a_step(bits):
    x = np.random.default_rng(1).uniform(-100, 100, 10_000).astype(np.float32).astype(np.float64)
    integers = quantize(x, bits)
    np.testing.assert_array_equal(integers, np.round(integers))
    assert np.abs(x - dequantize(integers.astype(np.int64), bits)).max() <= 2.0 ** -(bits + 1)


@pytest.mark.parametrize("bits", [0, 2, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantization_is_equation_3_with_exact_fractions(bits, dtype):
    x = np.random.default_rng(2).uniform(-20, 20, 500).astype(dtype)
    expected = [(Fraction(float(v)) * 2**bits + Fraction(1, 2)).__floor__() for v in x]
    assert quantize(x, bits).tolist() == expected


def test_half_rounds_up_for_negatives_too():
    assert quantize(np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]), 0).tolist() == [-2, -1, 0, 1, 2, 3]
    assert quantize(np.array([-0.625, -0.375, -0.125, 0.125, 0.375]), 2).tolist() == [-2, -1, 0, 1, 2]
    assert quantize(np.array([-0.75, -0.51, 0.49, 0.51]), 0).tolist() == [-1, -1, 0, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_and_shape_stay_and_the_input_is_left_alone(dtype):
    x = np.array([[0.3, -0.3], [1.7, 2.2]], dtype)
    before = x.copy()
    result = quantize(x, 4)
    assert result.dtype == dtype
    assert result.tolist() == [[5, -5], [27, 35]]
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 2**23), (np.float64, 2**52)])
def test_integers_below_the_documented_limit_are_exact(dtype, limit):
    values = [1, 3, limit // 4 + 1, limit // 2 - 1, limit // 2 + 1, limit // 2 + 3, limit - 1]
    for sign in (1, -1):
        x = np.array([sign * v for v in values], dtype)
        assert quantize(x, 0).astype(np.int64).tolist() == [sign * v for v in values]
        assert quantize(x / dtype(4), 2).astype(np.int64).tolist() == [sign * v for v in values]


@pytest.mark.parametrize("bits", [0, 3, 12])
def test_dequantize_inverts_on_the_grid(bits):
    integers = np.array([-(2**40), -5, -1, 0, 1, 7, 2**40])
    values = dequantize(integers, bits)
    assert values.tolist() == [float(Fraction(int(v), 2**bits)) for v in integers]
    np.testing.assert_array_equal(quantize(values, bits), integers)


# -- stochastic rounding ------------------------------------------------------------------------------------


def test_stochastic_rounding_goes_up_exactly_when_the_noise_is_below_the_fraction():
    x, noise = (
        np.array([0.25, 0.25, 0.25, -0.25, -0.25, 3.0, -3.0]),
        np.array([0, 0.2499, 0.25, 0.7499, 0.75, 0, 0]),
    )
    assert quantize_stochastic(x, 0, noise).tolist() == [1, 1, 0, 0, -1, 3, -3]
    assert quantize_stochastic(x / 8, 3, noise).tolist() == [1, 1, 0, 0, -1, 3, -3]


def test_stochastic_rounding_is_within_one_step_and_gives_integers():
    rng = np.random.default_rng(3)
    x = rng.uniform(-10, 10, 5000)
    result = quantize_stochastic(x, 6, rng.random(5000))
    assert result.dtype == np.int64
    assert np.abs(x - dequantize(result, 6)).max() < 2.0**-6


@pytest.mark.parametrize("value", [-1.9, -1.0, -0.501, -0.02, 0.0, 0.1, 0.37, 0.5, 0.99, 12.34])
def test_stochastic_rounding_is_unbiased_with_the_variance_of_the_fraction(value):
    bits, n = 3, 200_000
    result = quantize_stochastic(np.full(n, value), bits, np.random.default_rng(4).random(n))
    fraction = value * 2**bits - np.floor(value * 2**bits)
    deviation = np.sqrt(fraction * (1 - fraction) / n)
    # 6 deviations: a false alarm in 10^9; rounding to nearest or down is off by hundreds
    assert abs(result.mean() - value * 2**bits) <= 6 * deviation
    assert result.var() == pytest.approx(fraction * (1 - fraction), abs=6 / np.sqrt(n))
    assert dequantize(result, bits).var() <= 2.0 ** (-2 * bits) / 4 + 6 / np.sqrt(n) * 2.0 ** (-2 * bits)


def test_a_leading_axis_of_noise_gives_independent_quantizations():
    rng = np.random.default_rng(5)
    x = np.full(40_000, 0.3)
    first, second = quantize_stochastic(x, 0, rng.random((2, 40_000)))
    # P(both up) = 0.3² where independent, 0.3 where the noise is shared
    assert abs((first * second).mean() - 0.09) < 6 * np.sqrt(0.09 * 0.91 / 40_000)
