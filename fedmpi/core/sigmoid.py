"""Least-squares polynomials for the sigmoid [So et al. 2021, section III-C]."""

import math
from itertools import pairwise

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


_UNIFORM_PART = 0.3
"""Of the weight of a fit to outputs, for points that are spread over the whole interval."""


def fitted_polynomial(degree: int, z: NDArray[np.float64], reach: float, points: int = 1001) -> NDArray[np.float64]:
    """Coefficients c_0 = 1/2, 0, …, of an odd polynomial that is close to the sigmoid where the outputs z are.

    Least squares, with part of the weight on an even grid over [-reach, reach], so that it does not go astray where
    outputs are few.

    Parameters
    ----------
    degree : int
    z : array of any shape, with |z| ≤ reach
    reach : float

    Returns
    -------
    array of float64, shape (degree + 1,)
    """
    powers = np.arange(1, degree + 1, 2)
    gram, right = np.zeros((len(powers), len(powers))), np.zeros(len(powers))
    for values, part in ((z.reshape(-1), 1 - _UNIFORM_PART), (np.linspace(-reach, reach, points), _UNIFORM_PART)):
        terms = [(values / reach) ** int(n) for n in powers]
        target, weight = sigmoid(values) - 0.5, part / max(len(values), 1)
        # Sums, not products of the BLAS, whose order depends on the number of threads.
        right += weight * np.array([(term * target).sum() for term in terms])
        gram += weight * np.array([[(one * other).sum() for other in terms] for one in terms])
    coefficients = np.zeros(degree + 1)
    coefficients[0] = 0.5
    coefficients[1::2] = np.linalg.solve(gram, right) / reach**powers
    return coefficients


def odd_factors(coefficients: NDArray[np.float64]) -> tuple[float, tuple[float, ...]]:
    """The a and (v_1, v_2, …) with c_1 z + c_3 z³ + c_5 z⁵ + … = a z (1 - (v_1 z)² (1 - (v_2 z)² (1 - …))).

    Parameters
    ----------
    coefficients : array of float64, shape (r + 1,)
        Of a fit on a symmetric interval: even ones beyond c_0 vanish, odd ones alternate.

    Raises
    ------
    UsageError
        If they do not.
    """
    odd = coefficients[1::2]
    if coefficients[2::2].any() or not (odd[:-1] * odd[1:] < 0).all() or not odd[0] > 0:
        raise UsageError(f"--fit-range must give an odd polynomial that bends back, got coefficients {coefficients}")
    ratios = [math.sqrt(-after / before) for before, after in pairwise(odd)]
    # The last digits of a fit depend on the machine, and the weights must not.
    return float(f"{odd[0]:.9g}"), tuple(float(f"{ratio:.9g}") for ratio in ratios)
