"""Wrong values among those of one polynomial: whether there are any, and where [Reed and Solomon 1960].

Values of polynomials of degree ≤ d at n nodes differ in at least n - d of them. So e wrong ones are noticed if
n ≥ d + 1 + e, and found if n ≥ d + 1 + 2e; no method can do better.
"""

from collections.abc import Sequence

import numpy as np

from fedmpi.core.field import FieldArray, PrimeField
from fedmpi.core.lagrange import Uniform, barycentric_weights, lagrange_basis
from fedmpi.errors import DecodingError


def correctable(arrays: int, degree: int, errors: int) -> int:
    """How many wrong arrays can be corrected, if up to `errors` of n may be wrong and none may pass unnoticed.

    n - d - 1 arrays more than needed correct c and notice e ≥ c errors if c + e ≤ n - d - 1 [Roth 2006, section 1.5].
    Whoever corrects more may take e colluding liars for the truth.

    Returns
    -------
    int
        `errors` itself where n ≥ d + 1 + 2·errors, fewer below, and 0 where n ≤ d + 1 + errors.
    """
    return max(0, min(errors, arrays - degree - 1 - errors))


def parity_checks(field: PrimeField, nodes: Sequence[int], degree: int) -> FieldArray:
    """The matrix H with H v = 0 if and only if the values v at the nodes are those of a polynomial of this degree.

    Returns
    -------
    FieldArray, shape (n - degree - 1, n)
        H_ki = u_i x_i^k with u_i = 1 / Π_{j≠i} (x_i - x_j), of a dual code [Roth 2006, section 5.1].

    Raises
    ------
    ValueError
        If there are fewer than degree + 1 nodes, or two are equal.
    """
    n = len(nodes)
    if not 0 <= degree < n:
        raise ValueError(f"the degree must have 0 ≤ degree < n, got degree={degree}, n={n}")
    checks = np.empty((n - degree - 1, n), np.uint32)
    row, x = barycentric_weights(field, nodes), field.array(np.array(nodes, object))
    for k in range(len(checks)):
        checks[k] = row
        row = field.multiply(row, x)
    return checks


def consistent(field: PrimeField, nodes: Sequence[int], values: Sequence[FieldArray], degree: int) -> bool:
    """Whether the arrays are, in every coordinate, the values of a polynomial of this degree at the nodes.

    Exact: degree + 1 arrays determine the polynomials, and so the others.

    Parameters
    ----------
    nodes : sequence of int
        n > degree different points.
    values : sequence of n arrays of one shape

    Raises
    ------
    ValueError
        If there are fewer than degree + 1 nodes, or not as many arrays.
    """
    if not 0 <= degree < len(nodes) == len(values):
        raise ValueError(f"arrays must be one for each of n > {degree} nodes, got {len(values)} and n={len(nodes)}")
    needed = degree + 1
    determined = field.matmul(lagrange_basis(field, nodes[:needed], nodes[needed:]), values[:needed])
    return all(np.array_equal(one, other) for one, other in zip(determined, values[needed:], strict=True))


def locate_errors(
    field: PrimeField,
    nodes: Sequence[int],
    values: Sequence[FieldArray],
    degree: int,
    max_errors: int,
    uniform: Uniform,
    combinations: int = 3,
) -> set[int]:
    """Which arrays are wrong in any coordinate, where at most `max_errors` are.

    A few random combinations of the coordinates are decoded: an array that is wrong anywhere is wrong in a
    combination, but for a chance of 1/p. Then the arrays that are left are checked in every coordinate.

    Parameters
    ----------
    nodes : sequence of int
        n different points.
    values : sequence of n arrays of one shape
        In each coordinate the values of a polynomial at the nodes, up to errors.
    degree : int
        Of the polynomials.
    max_errors : int
    uniform : callable
        Gives the coefficients of the combinations, secret to whoever made the arrays.
    combinations : int, optional

    Returns
    -------
    set of int
        Positions in `nodes`. All others are right, and these are wrong, if no more than `max_errors` are.

    Raises
    ------
    ValueError
        Unless n ≥ degree + 1 + 2·max_errors.
    DecodingError
        If more than `max_errors` arrays are wrong. With a chance of p^-combinations for each wrong array also if not.

    Notes
    -----
    More than `max_errors` wrong arrays go unnoticed only if they collude: n - max_errors arrays must agree on a
    wrong polynomial. That takes n - degree - max_errors wrong ones, and then right arrays are returned as wrong.
    """
    n = len(nodes)
    if not 0 <= max_errors <= (n - degree - 1) / 2:
        raise ValueError(f"arrays must be n ≥ {degree} + 1 + 2·{max_errors} to locate errors, got n={n}")
    coordinates = np.stack([array.reshape(-1) for array in values])
    combined = field.product(coordinates, uniform((coordinates.shape[1], combinations)))
    syndromes = field.matmul(parity_checks(field, nodes, degree), combined)
    wrong: set[int] = set()
    for syndrome in syndromes.T.tolist():
        wrong |= errors_of(field, nodes, syndrome)
    right = [i for i in range(n) if i not in wrong]
    if len(wrong) > max_errors or not consistent(field, [nodes[i] for i in right], [values[i] for i in right], degree):
        raise DecodingError(f"at most {max_errors} of {n} arrays must be wrong, got more")
    return wrong


def errors_of(field: PrimeField, nodes: Sequence[int], syndrome: Sequence[int]) -> set[int]:
    """Positions of the wrong values of one coordinate, from its parity checks: up to half as many as these are."""
    return _roots(field, _shortest_recurrence(field, syndrome), nodes)


def _shortest_recurrence(field: PrimeField, sequence: Sequence[int]) -> list[int]:
    """The shortest c with c_0 = 1 and Σ_i c_i s_{k-i} = 0 for all k ≥ len(c) - 1 [Berlekamp 1968; Massey 1969].

    A syndrome is s_k = Σ_i (u_i e_i) x_i^k over the positions of errors e_i ≠ 0, so its c has the roots x_i: see
    `_roots`.
    """
    p = field.p
    current, previous, shift, scale = [1], [1], 1, 1
    for k in range(len(sequence)):
        difference = sum(c * sequence[k - i] for i, c in enumerate(current)) % p
        if difference == 0:
            shift += 1
            continue
        factor = difference * field.inverse(scale)
        correction = [0] * shift + [factor * c for c in previous]
        length = len(current) - 1
        longer = 2 * length <= k
        padded = current + [0] * (k + 1 - 2 * length if longer else 0)
        correction += [0] * (len(padded) - len(correction))
        if longer:
            previous, shift, scale = current, 1, difference
        else:
            shift += 1
        current = [(a - b) % p for a, b in zip(padded, correction, strict=True)]
    return current


def _roots(field: PrimeField, recurrence: Sequence[int], nodes: Sequence[int]) -> set[int]:
    """Positions of the nodes that are roots of Σ_i c_i x^(L-i)."""
    roots = set()
    for i, node in enumerate(nodes):
        value = 0
        for coefficient in recurrence:
            value = (value * node + coefficient) % field.p
        if value == 0:
            roots.add(i)
    return roots
