"""What a preparation needs to know of rows that are apart: sums over them, as integers that add up exactly."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from fedmpi.core import exact
from fedmpi.data.preparation import Preparation
from fedmpi.data.table import Table
from fedmpi.errors import UsageError

Values = Mapping[int, tuple[str, ...]]


def moments(table: Table) -> list[int]:
    """The number of rows; then of each column of numbers how many there are, Σx and Σx², of text how often each value.

    Raises
    ------
    UsageError
        If a number is too large to be summed.
    """
    found = [table.X.shape[0]]
    for k, name in enumerate(table.names):
        x = table.X[:, k].astype(np.float64)
        x = x[~np.isnan(x)]
        if k in table.values:
            found += np.bincount(x.astype(np.intp), minlength=len(table.values[k])).tolist()
            continue
        if not (largest := np.abs(x).max(initial=0.0)) < exact.LARGEST:
            raise UsageError(f'column "{name}" must be below 2^64 in size, got {largest:g}: divide it by something')
        found += [len(x), exact.total(x), exact.total_squares(x)]
    return found


def numbers(columns: int, values: Values) -> int:
    """How many integers `moments` gives."""
    return 1 + 3 * (columns - len(values)) + sum(map(len, values.values()))


def preparation_of(
    sums: Sequence[int],
    names: Sequence[str],
    values: Values,
    *,
    impute: str | None = None,
    drop_constants: bool = True,
    classes: Sequence[str] = (),
) -> Preparation:
    """From the sums of the `moments` of all: the scale is "standard", as in `Preparation.from_moments`.

    Raises
    ------
    UsageError
        If the sums can't be those of any rows, or values are missing that nothing stands in for.
    """
    left = iter(sums)
    rows, d = next(left), len(names)
    counts, means, squares = np.zeros(d), np.zeros(d), np.zeros(d)
    known: dict[int, tuple[str, ...]] = {}
    fills: dict[int, str] = {}
    for k, name in enumerate(names):
        if k in values:
            often = {value: next(left) for value in values[k]}
            if min(often.values(), default=0) < 0 or sum(often.values()) > rows:
                raise UsageError(f'the sums of column "{name}" must be those of {rows} rows, got others')
            known[k] = tuple(sorted(value for value, count in often.items() if count))
            missing = rows - sum(often.values())
            if missing and impute is None:
                raise UsageError(f'column "{name}" must have no missing values, got {missing} in {rows} rows')
            if missing and known[k]:
                fills[k] = max(known[k], key=lambda value: often[value])
            continue
        count, first, second = next(left), next(left), next(left)
        counts[k] = count
        if not 0 <= count <= rows:
            raise UsageError(f'the sums of column "{name}" must be those of {rows} rows, got {count}')
        if count > 0:
            unit = 1 << exact.FRACTION_BITS
            mean = float(Fraction(first, count * unit))
            spread = Fraction(second - 2 * Fraction(mean) * first, unit) + count * Fraction(mean) ** 2
            if not math.isfinite(mean) or not abs(spread) < Fraction(2) ** 1000:
                raise UsageError(f'the sums of column "{name}" must be those of numbers, got others')
            means[k], squares[k] = mean, max(float(spread), 0.0)
    return Preparation.from_moments(
        names,
        rows,
        counts,
        np.zeros(d),
        squares,
        shift=means,
        values=known,
        fills=fills,
        impute=impute,
        drop_constants=drop_constants,
        classes=classes,
    )
