"""The least-squares polynomial of the sigmoid and its quantization."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
import scipy.special

from fedmpi.core.sigmoid import quantize_polynomial, sigmoid, sigmoid_polynomial
from fedmpi.errors import UsageError


def evaluate(integers, z_integers):
    return [sum(c * z**i for i, c in enumerate(integers)) for z in z_integers]


def test_the_sigmoid_is_scipys_and_never_overflows():
    z = np.concatenate([np.linspace(-40, 40, 1001), [-1e308, -800, 800, 1e308]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = sigmoid(z)
    np.testing.assert_allclose(values, scipy.special.expit(z), rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("low", "high"), [(-5, 5), (-10, 10), (-2, 7), (0, 3)])
def test_the_fit_is_the_least_squares_fit_of_numpy_and_scipy(degree, low, high):
    result = sigmoid_polynomial(degree, low, high)
    z = np.linspace(low, high, 10_001)
    target = scipy.special.expit(z)
    assert result.shape == (degree + 1,)
    np.testing.assert_allclose(result, np.polyfit(z, target, degree)[::-1], atol=1e-9)
    np.testing.assert_allclose(result, scipy.linalg.lstsq(np.vander(z, degree + 1, True), target)[0], atol=1e-9)


def test_the_number_of_points_is_that_of_the_fit():
    z = np.linspace(-1, 2, 5)
    expected = np.polyfit(z, scipy.special.expit(z), 3)[::-1]
    np.testing.assert_allclose(sigmoid_polynomial(3, -1, 2, points=5), expected, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 5, 10, 50])
def test_on_a_symmetric_range_even_coefficients_vanish_and_degree_2_is_degree_1(limit):
    assert sigmoid_polynomial(2, -limit, limit)[2] == 0.0
    assert sigmoid_polynomial(4, -limit, limit)[[2, 4]].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(sigmoid_polynomial(2, -limit, limit)[:2], sigmoid_polynomial(1, -limit, limit))
    assert sigmoid_polynomial(1, -limit, limit)[0] == pytest.approx(0.5, abs=1e-12)


def test_degree_3_and_an_asymmetric_range_keep_their_coefficients():
    assert sigmoid_polynomial(3)[3] < -1e-3
    assert abs(sigmoid_polynomial(2, -2, 7)[2]) > 1e-3


@pytest.mark.parametrize(("degree", "limit"), [(3, 1000), (5, 300), (7, 100)])
def test_small_true_coefficients_on_a_wide_range_are_kept(degree, limit):
    z = np.linspace(-1, 1, 10_001)
    leading = np.polyfit(z, scipy.special.expit(limit * z), degree)[0] / float(limit) ** degree
    assert sigmoid_polynomial(degree, -limit, limit)[degree] == pytest.approx(leading, rel=1e-3, abs=0)


@pytest.mark.parametrize("degree", [0, -1])
def test_a_degree_below_1_is_refused_with_the_value(degree):
    with pytest.raises(UsageError, match=f"must be at least 1, got {degree}$"):
        sigmoid_polynomial(degree)


@pytest.mark.parametrize(("low", "high"), [(5, -5), (1, 1), (float("nan"), 1)])
def test_a_range_that_does_not_rise_is_refused(low, high):
    with pytest.raises(UsageError, match="range must rise, got"):
        sigmoid_polynomial(1, low, high)


# -- quantization -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize(("coefficient_bits", "argument_bits"), [(8, 0), (12, 6), (20, 24)])
def test_every_term_is_within_half_a_unit_of_the_common_scale(degree, coefficient_bits, argument_bits):
    c = sigmoid_polynomial(degree, -4, 5)
    integers = quantize_polynomial(c, coefficient_bits, argument_bits)
    assert len(integers) == degree + 1
    for i, (real, integer) in enumerate(zip(c, integers, strict=True)):
        exact = Fraction(float(real)) * 2 ** (coefficient_bits + (degree - i) * argument_bits)
        assert isinstance(integer, int)
        assert abs(integer - exact) <= Fraction(1, 2)


def test_the_quantized_polynomial_of_quantized_arguments_has_the_scale_of_the_erratum():
    coefficient_bits, argument_bits, degree = 16, 9, 3
    c = sigmoid_polynomial(degree)
    integers = quantize_polynomial(c, coefficient_bits, argument_bits)
    z = np.arange(-5 * 2**argument_bits, 5 * 2**argument_bits, 100)
    scale = 2.0 ** (degree * argument_bits + coefficient_bits)
    values = np.array(evaluate(integers, z.tolist()), float) / scale
    expected = np.polynomial.polynomial.polyval(z / 2.0**argument_bits, c)
    np.testing.assert_allclose(values, expected, atol=2.0**-coefficient_bits * 5**degree)


def test_scales_beyond_64_bits_are_exact():
    third = 1 / 3
    assert quantize_polynomial(np.array([third, 1.0]), 30, 40) == [round(Fraction(third) * 2**70), 2**30]


VANISHING = [
    (np.array([0.5, 0.13]), 6),
    (sigmoid_polynomial(1), 9),
    (sigmoid_polynomial(2), 9),  # c_2 = 0: the leading coefficient that is not 0 has degree 1
    (sigmoid_polynomial(3), 9),
    (sigmoid_polynomial(3, -10, 10), 13),
    (sigmoid_polynomial(2, -2, 7), 13),
    (np.array([0.5, 2.0**-10]), 3),
    (np.array([0.5, 2.0**-10, 0.0]), 3),
    (np.array([0.5, np.nextafter(2.0**-10, 1)]), 3),
    (np.array([0.5, -np.nextafter(2.0**-10, 0)]), 3),
    (np.array([0.5, 0.1, 1.0]), 7),
]


@pytest.mark.parametrize(("coefficients", "argument_bits"), VANISHING)
def test_a_vanishing_leading_coefficient_is_refused_with_the_bits_that_it_needs(coefficients, argument_bits):
    leading = int(np.flatnonzero(coefficients)[-1])
    with pytest.raises(UsageError, match=f"coefficient of degree {leading} ") as refused:
        quantize_polynomial(coefficients, -40, argument_bits)
    assert str(refused.value).endswith("got -40")
    needed = int(str(refused.value).split("at least ")[1].split()[0])
    assert quantize_polynomial(coefficients, needed, argument_bits)[leading] != 0
    with pytest.raises(UsageError, match=f"at least {needed} .*got {needed - 1}$"):
        quantize_polynomial(coefficients, needed - 1, argument_bits)


def test_a_lower_coefficient_may_round_to_zero():
    assert quantize_polynomial(np.array([1e-9, 1.0]), 4, 4) == [0, 16]
