"""Independent oracles for the tests: Python integers and galois, never fedmpi itself, but for the audit's χ² tests."""

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import galois
import numpy as np

from fedmpi.audit.statistics import ALARM, p_value_same, p_value_uniform

# -- algebra ------------------------------------------------------------------------------------------------


def product(A, B, p: int) -> np.ndarray:
    """A B mod p with Python integers."""
    return (np.asarray(A).astype(object) @ np.asarray(B).astype(object)) % p


def gradient(X, W, coefficients: Sequence[int], p: int) -> np.ndarray:
    """Xᵀ s(X W) mod p with Python integers; X (m, d), W (d, r, C) → (d, C), as in eqs. (15) and (18)."""
    X, W = np.asarray(X).astype(object), np.asarray(W).astype(object)
    columns = []
    for output in range(W.shape[2]):
        z = X @ W[:, :, output]
        s = [sum(int(c) * prod(row[:i]) for i, c in enumerate(coefficients)) for row in z.tolist()]
        columns.append([sum(s[k] * X[k, j] for k in range(len(X))) % p for j in range(X.shape[1])])
    return np.array(columns, object).T


@cache
def galois_field(p: int) -> type[galois.FieldArray]:
    """GF(p) of galois, in Python integers: compiling for a field takes longer than these tests."""
    return galois.GF(p, verify=False, compile="python-calculate")


def interpolate(points: Sequence[int], values: Sequence[int], at: Sequence[int], p: int) -> list[int]:
    """Values at `at` of the polynomial through (points, values), by galois."""
    GF = galois_field(p)
    return [int(v) for v in galois.lagrange_poly(GF(list(points)), GF(list(values)))(GF(list(at)))]


def rank(matrix, p: int) -> int:
    """The rank over F_p, by elimination with Python integers."""
    rows, found = [[int(v) % p for v in row] for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        scale = pow(rows[found][column], -1, p)
        for i in range(found + 1, len(rows)):
            factor = rows[i][column] * scale % p
            rows[i] = [(a - factor * b) % p for a, b in zip(rows[i], rows[found], strict=True)]
        found += 1
    return found


def solve(matrix, rhs, p: int) -> np.ndarray:
    """The solution of matrix·x = rhs over F_p for a square matrix, checked to be invertible; by galois."""
    GF = galois_field(p)
    assert rank(matrix, p) == len(matrix), "there is no unique solution: the matrix is singular"
    return np.linalg.solve(GF(np.asarray(matrix).astype(int)), GF(np.asarray(rhs).astype(int)))


# -- test streams -------------------------------------------------------------------------------------------


def uniform(p: int, seed: int) -> Callable[[tuple[int, ...]], np.ndarray]:
    """A repeatable source of uniform elements of F_p that is not fedmpi's."""
    rng = np.random.default_rng(seed)
    return lambda shape: rng.integers(0, p, shape, np.uint32)


# -- privacy ------------------------------------------------------------------------------------------------
# `encode` turns data (k, n) and a source of t masks for each of the n columns into shares (N, n). The checks
# look at what it does, not at its matrices, so that masks which are not used as they should be show too.

Uniform = Callable[[tuple[int, ...]], np.ndarray]
Encode = Callable[[np.ndarray, Uniform], np.ndarray]
Subsets = Sequence[Sequence[int]]


def _given(masks: Any) -> Uniform:
    return lambda shape: np.array(masks).astype(np.uint32).reshape(shape)


def response_to_masks(encode: Encode, k: int, t: int) -> np.ndarray:
    """What each worker receives (N, t) when the data are 0 and one mask after another is 1."""
    return encode(np.zeros((k, t), np.uint32), _given(np.eye(t)))


def assert_every_minor_is_invertible(encode: Encode, k: int, t: int, p: int, subsets: Subsets) -> None:
    """The masks reach these t workers by an invertible t×t matrix: their view is uniform, whatever the data."""
    response = response_to_masks(encode, k, t)
    for subset in subsets:
        assert rank(response[list(subset)], p) == len(subset), f"workers {subset} can cancel their masks"


def assert_other_data_explain_the_view(encode: Encode, k: int, t: int, p: int, subsets: Subsets) -> None:
    """For any other data there are masks under which t workers receive exactly what they received."""
    data, other = uniform(p, 1)((2, k, 3))
    views, response = encode(data, uniform(p, 2)), response_to_masks(encode, k, t)
    unmasked = encode(other, _given(np.zeros((t, 3))))
    for subset in map(list, subsets):
        missing = (views[subset].astype(np.int64) - unmasked[subset]) % p
        masks = solve(response[subset], missing, p)
        np.testing.assert_array_equal(encode(other, _given(masks))[subset], views[subset])


def assert_views_are_uniform(encode: Encode, data: np.ndarray, p: int, subsets: Subsets, random: Uniform) -> None:
    """The joint view of each subset of workers is uniform; every column of `data` is one sample."""
    shares = encode(data, random)
    for subset in subsets:
        assert p_value_uniform(shares[list(subset)], p, p) > ALARM, f"the view of workers {subset} is not uniform"


def assert_views_tell_no_data_apart(
    encode: Encode, data: np.ndarray, other: np.ndarray, p: int, subsets: Subsets, random: Uniform
) -> None:
    """The joint views of each subset of workers have one distribution for two data sets."""
    shares, others = encode(data, random), encode(other, random)
    for subset in map(list, subsets):
        assert p_value_same(shares[subset], others[subset], p, p) > ALARM, f"workers {subset} tell the data apart"


def assert_masks_are_fresh(encode: Encode, again: Encode, data: np.ndarray, p: int, random: Uniform) -> None:
    """What a worker receives in two encodings in a row is jointly uniform."""
    for first, second in zip(encode(data, random), again(data, random), strict=True):
        assert p_value_uniform([first, second], p, p) > ALARM, "two encodings share their masks"
