"""Rows as they stand in a file: text is the place of its value in a list; and what text can be no category."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError

MISSING = frozenset(("", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null", "?"))
"""Cells that stand for no value, in every kind of file."""
MAX_CATEGORIES = 200
"""A text column with more values holds names or sentences; it becomes categories only when it is asked for."""
BLOCK = 1 << 17  # cells that are worked on at once
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?")
DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})( .*)?|\d{1,2}:\d{2}(:\d{2})?.*"
)
ODD_NUMBER = re.compile(r"[$€£]?\s?[+-]?\d[\d.,'\s]*[%$€£]?")

Where = Callable[[int], str]
"""From a row of the data to where it stands in its file: " in line 7"."""


def is_number(cell: str) -> bool:
    """Tell whether a cell is a number as programs write it, infinite and NaN among them."""
    return NUMBER.fullmatch(cell) is not None


@dataclass(frozen=True, eq=False)
class Table:
    """Rows as they stand in a file, before any preparation.

    Attributes
    ----------
    X : ndarray or sparse matrix of shape (m, d)
        Numbers. In a column of text the place of the cell's value in `values`; NaN where there is none.
    names : tuple of str
        Of the columns.
    values : mapping
        Column of text → its distinct values.
    """

    X: Any
    names: tuple[str, ...]
    values: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def join(first: Table, second: Table, what: str) -> Table:
    """Bring `second` to the columns of `first`: by name, its text by value.

    Values that only `second` has come after those of `first`; the result's `values` hold for both.

    Raises
    ------
    UsageError
        If a column is missing, or holds text in one and numbers in the other.
    """
    if absent := [name for name in first.names if name not in second.names]:
        raise UsageError(f'{what} must have the columns of the training rows, got no "{absent[0]}"')
    places = [second.names.index(name) for name in first.names]
    X, values = second.X[:, places], dict(first.values)
    for column, place in enumerate(places):
        if column in values and place not in second.values and np.isnan(X[:, column]).all():
            continue  # there is no text, because there is nothing
        if (column in first.values) != (place in second.values):
            kinds = ("numbers", "text") if place in second.values else ("text", "numbers")
            raise UsageError(f'column "{first.names[column]}" of {what} must hold {kinds[0]}, got {kinds[1]}')
        if column in values:
            merged = {value: code for code, value in enumerate(values[column])}
            codes = [merged.setdefault(value, len(merged)) for value in second.values[place]]
            X[:, column] = recode(X[:, column], codes)
            values[column] = tuple(merged)
    return Table(X, first.names, values)


def recode(column: NDArray[Any], codes: Sequence[float]) -> NDArray[np.float64]:
    """Replace code k by ``codes[k]``; NaN stays."""
    table = np.append(np.asarray(codes, dtype=np.float64), np.nan)
    return table[np.where(np.isnan(column), len(codes), column).astype(np.intp)]


def check_values(name: str, values: Collection[str], where: Callable[[str], str], wanted: bool) -> None:
    """Refuse text that should not become categories without a word.

    Parameters
    ----------
    name : str
        Of the column and its file, for messages.
    values : collection of str
        The distinct values.
    where : callable
        From a value to the place where it stands first.
    wanted : bool
        Whether the column was named as one of categories: then all is.

    Raises
    ------
    UsageError
        For dates, numbers with thousands or units, numbers among text, and too many values.
    """
    if wanted:
        return
    number = ""
    for value in values:
        if DATE.fullmatch(value):
            raise UsageError(
                f'{name} must hold numbers or categories, got the date "{value}"{where(value)}: '
                "make a number of it, such as days since the first, or remove the column"
            )
        if not number and is_number(value):
            number = value
        elif ODD_NUMBER.fullmatch(value) and not is_number(value):
            raise UsageError(f'{name} must hold numbers without thousands and units, got "{value}"{where(value)}')
    other = next((value for value in values if not is_number(value)), "")
    if number and other:
        raise UsageError(
            f'{name} must hold only numbers or only text, got "{number}"{where(number)} and "{other}"{where(other)}: '
            "correct it, or name the column in categorical"
        )
    if len(values) > MAX_CATEGORIES:
        raise UsageError(
            f"{name} must have at most {MAX_CATEGORIES} values to become categories, got {len(values)}: "
            "remove the column, or name it in categorical"
        )


def labels_of(name: str, values: Sequence[str], where: Callable[[str], str]) -> NDArray[Any]:
    """Return the distinct labels of a column as numbers, or as text where that loses nothing of them.

    Whole numbers become int64, other numbers float64; text, whole numbers beyond int64 and such as "007" stay text.

    Parameters
    ----------
    name : str
        Of the column and its file, for messages.
    values : sequence of str
        The distinct labels, none of them missing.
    where : callable
        From a label to the place where it stands first.

    Raises
    ------
    UsageError
        For numbers among text, and for infinite numbers.
    """
    text = [value for value in values if not is_number(value)]
    if text and len(text) < len(values):
        number = next(value for value in values if is_number(value))
        raise UsageError(
            f'{name} must hold only numbers or only text, got "{number}"{where(number)} and "{text[0]}"{where(text[0])}'
        )
    digits = [value.lstrip("+-") for value in values]
    if text or any(len(value) > 1 and value[0] == "0" and value.isdecimal() for value in digits):
        return np.array(values)
    if all(WHOLE.fullmatch(value) for value in values):
        whole = [int(value.partition(".")[0]) for value in values]
        fits = all(-(2**63) <= value < 2**63 for value in whole)
        return np.array(whole, dtype=np.int64) if fits else np.array([str(value) for value in whole])
    numbers = np.array([float(value) for value in values])
    if not np.isfinite(numbers).all():
        odd = values[int(np.flatnonzero(~np.isfinite(numbers))[0])]
        raise UsageError(f'{name} must be finite, got "{odd}"{where(odd)}')
    return numbers


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Some rows at a time."""
    step = max(1, BLOCK // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
