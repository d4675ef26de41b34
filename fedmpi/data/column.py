"""One column of a table: what is done to it, found in its values, in sums over them, or taken from outside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError


@dataclass(frozen=True)
class Column:
    """What is done to one column: fill, cut, move, divide; or one column for each value of text.

    Attributes
    ----------
    name : str
    values : tuple of str
        Of a column of text, each of which becomes a column of 0 and 1; any other value is 0 in all of them.
    fill : float or str or None
        What stands in for missing values; None: there may be none.
    lower, upper : float
        Where numbers are cut off.
    mean, deviation : float
        What is subtracted, and what the rest is divided by.
    dropped : bool
        The column is the same in all rows, and left out.
    """

    name: str
    values: tuple[str, ...] = ()
    fill: float | str | None = None
    lower: float = -math.inf
    upper: float = math.inf
    mean: float = 0.0
    deviation: float = 1.0
    dropped: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether numbers are cut off."""
        return not self.dropped and (self.lower > -math.inf or self.upper < math.inf)


def column_of_text(name: str, values: Sequence[str], codes: NDArray[np.intp], missing: bool) -> Column:
    """From the codes of the values that there are, and whether some are missing."""
    counts = np.bincount(codes, minlength=len(values))
    found = {values[code]: int(count) for code, count in enumerate(counts) if count}
    ordered = tuple(sorted(found))
    # of equally frequent ones the first in the alphabet, whatever the order of the rows
    fill = max(ordered, key=lambda value: found[value]) if missing and found else None
    return Column(name, ordered, fill, dropped=len(ordered) < 2)


def column_of_numbers(
    name: str, known: NDArray[Any], rows: int, scale: str, impute: str | None, cut: float, sparse: bool
) -> Column:
    """From the values that there are in so many rows; see `Preparation.fit`."""
    if not len(known):
        return Column(name, fill=0.0, dropped=True)
    x = known.astype(np.float64)
    if not np.isfinite(x).all():
        raise UsageError(f'column "{name}" must be finite, got {x[~np.isfinite(x)][0]}')
    lower, upper = _fences(x, cut) if cut else (-math.inf, math.inf)
    np.clip(x, lower, upper, out=x)
    fill = _fill(x, impute)
    low, high = float(x.min()), float(x.max())
    mean, deviation = 0.0, 1.0
    same = bool(low == high and (len(known) == rows or fill == low))
    if scale == "maxabs":
        deviation = max(abs(low), abs(high), abs(fill or 0.0))
    elif scale == "standard" and not same:
        mean, spread = float(x.mean()), float(x.var()) * len(x)
        if fill is not None and len(x) < rows:  # the rows that are filled in count too
            whole = (mean * len(x) + fill * (rows - len(x))) / rows
            spread += len(x) * (mean - whole) ** 2 + (rows - len(x)) * (fill - whole) ** 2
            mean = whole
        deviation, mean = math.sqrt(spread / rows), 0.0 if sparse else mean
    return Column(name, (), fill, lower, upper, mean, deviation or 1.0, same)


def _fill(x: NDArray[np.float64], impute: str | None) -> float | None:
    if impute is None:
        return None
    if impute == "most_frequent":
        values, counts = np.unique(x, return_counts=True)
        return float(values[counts.argmax()])
    return float(np.median(x) if impute == "median" else x.mean())


def _fences(x: NDArray[np.float64], cut: float) -> tuple[float, float]:
    """Where outliers begin; infinite on a side without any."""
    low, middle, high = np.percentile(x, [5, 50, 95])
    lower, upper = middle - cut * (middle - low), middle + cut * (high - middle)
    # a column that is nearly always the same has no scale by which others could be called far
    return (
        float(lower) if low < middle and x.min() < lower else -math.inf,
        float(upper) if middle < high and x.max() > upper else math.inf,
    )


def column_of_moments(
    name: str, rows: int, count: float, total: float, square: float, origin: float, impute: bool
) -> Column:
    """From how many values there are, their sum and the sum of their squares, after `origin` was subtracted.

    Raises
    ------
    UsageError
        If no values have such sums, or some are missing and nothing may stand in for them.
    """
    if not 0 <= count <= rows or square < 0:
        raise UsageError(f'moments of column "{name}" must be of 0 to {rows} values, got {count:g}, {square:g}')
    if count < rows and not impute:
        raise UsageError(f'column "{name}" must have no missing values, got {rows - count:g} in {rows} rows')
    mean = total / count if count else 0.0
    spread = square - count * mean * mean  # of the values that are there; those filled in add nothing
    if spread < -1e-6 * square:
        raise UsageError(f'squares of column "{name}" must be those of values with this sum, got {square:g}')
    # what is left of the squares may be nothing but rounding
    same = not count or spread <= 8 * np.finfo(float).eps * square
    deviation = 1.0 if same else math.sqrt(spread / rows)
    return Column(
        name, fill=origin + mean if impute else None, mean=origin + mean, deviation=deviation, dropped=bool(same)
    )


def number_of(value: float | str | None) -> float:
    """Return a number, NaN for none."""
    return math.nan if value is None else float(value)


def texts(value: Any) -> tuple[str, ...]:
    """Check a list of text that came as JSON."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UsageError("names in a preparation must be a list of text, got something else")
    return tuple(value)


def column_of_json(given: dict[str, Any]) -> Column:
    """Check a column that came as JSON, from whomever.

    Raises
    ------
    UsageError
    """
    values = texts(given.pop("values", []))
    column = Column(**given | {"values": values})
    numbers = [column.lower, column.upper, column.mean, column.deviation, *(() if values else (column.fill or 0.0,))]
    right = (
        isinstance(column.name, str)
        and all(isinstance(x, int | float) and not isinstance(x, bool) and x == x for x in numbers)
        and all(math.isfinite(x) for x in (column.mean, column.deviation))
        and column.lower <= column.upper
        and column.deviation > 0
        and len(set(values)) == len(values)
        and (column.fill in (None, *values) if values else math.isfinite(number_of(column.fill or 0.0)))
        and isinstance(column.dropped, bool)
    )
    if not right:
        raise UsageError(f"a preparation's column must have a name and finite numbers that fit, got {given}")
    return column
