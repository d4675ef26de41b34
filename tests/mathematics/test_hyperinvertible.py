"""Hyper-invertible matrices: every square submatrix is invertible, checked one by one with Python integers."""

from itertools import combinations

import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField
from fedmpi.core.hyperinvertible import hyperinvertible
from fedmpi.errors import UsageError

PRIMES = [11, 13, 101, 2**25 - 39, 2**31 - 1]


def assert_hyperinvertible(matrix: np.ndarray, p: int) -> None:
    rows, columns = matrix.shape
    for size in range(1, min(rows, columns) + 1):
        for chosen in combinations(range(rows), size):
            for kept in combinations(range(columns), size):
                minor = matrix[np.ix_(chosen, kept)]
                assert oracles.rank(minor, p) == size, f"rows {chosen} of columns {kept} are singular"


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (3, 5), (4, 5), (5, 5), (6, 4), (4, 7)])
def test_every_square_submatrix_is_invertible(p: int, rows: int, columns: int) -> None:
    """11 elements are just enough for 4 x 7."""
    matrix = hyperinvertible(PrimeField(p), rows, columns)
    assert matrix.shape == (rows, columns)
    assert matrix.dtype == np.uint32
    assert int(matrix.max()) < p
    assert_hyperinvertible(matrix, p)


@pytest.mark.parametrize(("parties", "threshold"), [(3, 1), (5, 2), (7, 3), (8, 3), (20, 9), (21, 10)])
def test_whatever_t_dealers_know_the_others_decide_every_output(parties: int, threshold: int) -> None:
    """What BH08 rests on: with the columns of any T dealers gone, the rest is square and invertible."""
    p = 2**25 - 39
    matrix = hyperinvertible(PrimeField(p), parties - threshold, parties)
    every = list(combinations(range(parties), threshold))
    some = np.random.default_rng(0).permutation(len(every))[:60]
    for index in some:
        honest = [column for column in range(parties) if column not in every[index]]
        assert oracles.rank(matrix[:, honest], p) == parties - threshold, f"dealers {every[index]} decide an output"


@pytest.mark.parametrize("p", [101, 2**25 - 39])
def test_it_continues_polynomials_to_further_points(p: int) -> None:
    rows, columns = 4, 7
    values = oracles.uniform(p, 1)((columns,))
    expected = oracles.interpolate(range(1, columns + 1), values.tolist(), range(8, 12), p)
    matrix = hyperinvertible(PrimeField(p), rows, columns)
    assert oracles.product(matrix, values, p).tolist() == expected


def spoilt(change: str) -> np.ndarray:
    """Matrices that mix, and of which every row or every pair of rows looks well."""
    matrix = hyperinvertible(PrimeField(101), 3, 5).astype(np.int64)
    if change == "a zero":
        matrix[1, 3] = 0
    elif change == "equal rows":
        matrix[2] = matrix[0]
    elif change == "one row is a sum of others":
        matrix[2] = (3 * matrix[0] + 5 * matrix[1]) % 101
    elif change == "proportional columns":
        matrix[:, 4] = 7 * matrix[:, 1] % 101
    else:  # only 3 x 3 minors vanish
        matrix[:, 4] = (matrix[:, 0] + matrix[:, 1]) % 101
    return matrix


@pytest.mark.parametrize(
    "change", ["a zero", "equal rows", "one row is a sum of others", "proportional columns", "dependent columns"]
)
def test_the_check_sees_every_mutation(change: str) -> None:
    with pytest.raises(AssertionError):
        assert_hyperinvertible(spoilt(change), 101)


@pytest.mark.parametrize("p", [11, 13, 2**25 - 39])
def test_a_vandermonde_matrix_with_the_point_0_would_not_do(p: int) -> None:
    """All its minors of full height are invertible, but it has entries 0."""
    vandermonde = np.array([[pow(x, k, p) for x in range(5)] for k in range(3)])
    with pytest.raises(AssertionError):
        assert_hyperinvertible(vandermonde, p)


@pytest.mark.parametrize(("rows", "columns"), [(4, 8), (5, 7), (3, 10)])
def test_a_field_with_too_few_points_is_refused(rows: int, columns: int) -> None:
    """F_11 has 11 points: a twelfth is one of the first again, and its row would hand out a dealer's own value."""
    with pytest.raises(UsageError, match="11"):
        hyperinvertible(PrimeField(11), rows, columns)
