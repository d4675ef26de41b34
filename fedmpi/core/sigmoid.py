"""Least-squares polynomials for the sigmoid [So et al. 2021, section III-C]."""

import math

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError


def sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def sigmoid_polynomial(degree: int, low: float = -5.0, high: float = 5.0, points: int = 10_001) -> NDArray[np.float64]:
    """Coefficients c_0 … c_degree of the least-squares fit on [low, high] [So et al. 2021, eq. (13)].

    Raises
    ------
    UsageError
        Unless degree ≥ 1 and low < high, both finite.

    Notes
    -----
    On a symmetric range all even coefficients beyond c_0 = 1/2 vanish: degree 2 equals degree 1.
    """
    if degree < 1:
        raise UsageError(f"the degree of the polynomial must be at least 1, got {degree}")
    if not low < high:
        raise UsageError(f"the fit range must rise, got {low} {high}")
    if np.isinf([low, high]).any():
        raise UsageError(f"the fit range must be finite, got {low} {high}")
    z = np.linspace(low, high, points)
    fit = np.polynomial.Polynomial.fit(z, sigmoid(z), degree)
    coefficients = fit.convert().coef
    largest_terms = np.abs(coefficients) * max(abs(low), abs(high)) ** np.arange(degree + 1)
    return np.where(largest_terms < 1e-12, 0.0, coefficients)  # what vanishes but for rounding


def quantize_polynomial(coefficients: NDArray[np.float64], coefficient_bits: int, argument_bits: int) -> list[int]:
    """Integers c̄_i = round(c_i·2^(l_c + (r-i)(l_x+l_w))), so that every term has the scale r(l_x+l_w) + l_c.

    The paper's scale forgets that the coefficients are real too (see the errata in codedml/README.md).

    Parameters
    ----------
    coefficients : array of float64, shape (r + 1,)
    coefficient_bits : int
        l_c.
    argument_bits : int
        l_x + l_w, the scale of each argument z.

    Raises
    ------
    UsageError
        If the leading non-zero coefficient would become 0: the message names the bits that it needs.
    """
    degree = len(coefficients) - 1
    scales = [coefficient_bits + (degree - i) * argument_bits for i in range(degree + 1)]
    integers = [round(math.ldexp(float(c), s)) for c, s in zip(coefficients, scales, strict=True)]
    for i in range(degree, 0, -1):
        if coefficients[i] != 0:
            if integers[i] == 0:
                mantissa, exponent = math.frexp(abs(coefficients[i]))
                needed = coefficient_bits - scales[i] - exponent + (mantissa == 0.5)  # 1/2 itself rounds to 0
                raise UsageError(
                    f"--coefficient-bits must be at least {needed} for the coefficient of degree {i} "
                    f"({coefficients[i]:.3g}) not to vanish, got {coefficient_bits}"
                )
            break
    return integers
