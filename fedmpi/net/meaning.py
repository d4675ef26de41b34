"""What the fields of messages may hold: each field has a rule, and a channel looks at it before anybody computes.

A field names its rule in its type: ``rows: Annotated[UInt64, between(1, ROWS)]``. Numbers and text have one by their
type; integers in arrays and bytes must say theirs (a test looks at all classes of messages). What can be judged only
by who sends it, and when, is judged by a function that the rule names.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedmpi.rules import is_line

COUNTABLE = 2**53
"""No counter, size or rank is beyond it: what is, was negative or wrapped."""

LARGEST = 2.0**40
"""What updates of a model stay within: larger numbers would overflow what honest ranks compute from their sum."""

ROWS = 2**32
"""Nobody has more rows, or columns."""

LARGEST_FLOAT = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Rule:
    """What a value must be."""

    text: str
    """Behind "must"; empty if the field may hold anything, as far as it is known here."""
    holds: Callable[[Any], bool]
    judge: str = ""
    """The function that knows more, as "module:name"."""
    reason: str = ""
    """Why nothing is checked."""


def between(low: float, high: float) -> Rule:
    """Numbers, or arrays of them, from `low` to `high`; not a number is none of them."""

    def holds(value: Any) -> bool:
        if isinstance(value, np.ndarray):
            return not value.size or bool(low <= value.min() and value.max() <= high)
        return bool(low <= value <= high)

    return Rule(f"be from {low:g} to {high:g}", holds)


def sized(count: int) -> Rule:
    """So many bytes."""
    return Rule(f"hold {count} bytes", lambda value: len(value) == count)


def judged(by: str, first: Rule | None = None) -> Rule:
    """Judged with what its receiver knows, by a function "module:name", which relies on the first rule."""
    return Rule("", lambda value: True, judge=by) if first is None else replace(first, judge=by)


def anything(reason: str) -> Rule:
    """Every value is as good as another."""
    return Rule("", lambda value: True, reason=reason)


def _distinct(value: Any) -> bool:
    return value.ndim == 1 and len(np.unique(value)) == len(value)


TRUTH = Rule("be true or false", lambda value: isinstance(value, bool))
NATURAL = between(0, COUNTABLE)
FINITE = Rule("be finite", between(-LARGEST_FLOAT, LARGEST_FLOAT).holds)
PART = between(0, LARGEST_FLOAT)
"""Finite, and not negative."""
POSITIVE = between(np.finfo(np.float64).tiny, LARGEST_FLOAT)
LIST = Rule("be a list", lambda value: bool(value.ndim == 1))
DISTINCT = Rule("be a list without anything twice", _distinct)
LINE = Rule("be one line that can be printed", is_line)
UNIFORM = anything("uniformly random to whoever receives it: a lie changes the sum, and nobody can see who told it")
SECRET = anything("a secret seed: any bytes will do")
SEALED = anything("sealed: opening it, with its place and round, is the check")

BY_TYPE: dict[Any, Rule] = {bool: TRUTH, int: NATURAL, float: FINITE, str: LINE, np.dtype("<f8"): FINITE}
"""Rules of fields that name none."""
