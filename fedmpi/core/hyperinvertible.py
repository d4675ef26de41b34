"""Hyper-invertible matrices [Beerliová-Trubíniová and Hirt 2008, section 3]."""

from fedmpi.core.field import FieldArray, PrimeField
from fedmpi.core.lagrange import lagrange_basis
from fedmpi.errors import UsageError


def hyperinvertible(field: PrimeField, rows: int, columns: int) -> FieldArray:
    """A matrix of which every square submatrix is invertible, shape (rows, columns).

    It maps the values of a polynomial of degree < columns at 1 … columns to its values at `rows` other points.
    Applied to n random values of which any T are known to an adversary, n - T outputs are uniform to it.

    Raises
    ------
    UsageError
        If p has too few points.
    """
    if rows + columns > field.p:
        raise UsageError(f"rows + columns must be at most p={field.p}, got {rows} + {columns}")
    nodes = range(1, columns + 1)
    return lagrange_basis(field, nodes, range(columns + 1, columns + 1 + rows))
