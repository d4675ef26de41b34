"""χ² tests on what was seen: is it uniform, and does it tell one data set from another?"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from fedmpi.errors import UsageError

ALARM = 1e-6
"""A test fails below this p-value; with fixed streams it fails always or never."""

LEAST_EXPECTED = 10
"""Samples that each cell of a χ² test must expect."""


def cells(samples: ArrayLike, p: int, buckets: int) -> NDArray[np.int64]:
    """Counts of the joint values of the rows of `samples` (t, n), each in one of `buckets` ranges of [0, p)."""
    rows = np.asarray(samples)
    index = np.zeros(rows.shape[1], np.int64)
    for row in rows.astype(np.int64):
        index = index * buckets + row * buckets // p
    return np.bincount(index, minlength=buckets ** len(rows))


def p_value_uniform(samples: ArrayLike, p: int, buckets: int) -> float:
    """χ² p-value of the hypothesis that the columns of `samples` (t, n) are uniform in [0, p)^t.

    Raises
    ------
    UsageError
        If there are too few samples for this number of cells.
    """
    rows = np.asarray(samples)
    sizes = np.diff([-(-i * p // buckets) for i in range(buckets + 1)])
    expected = np.array([1.0])
    for _ in range(len(rows)):
        expected = np.outer(expected, sizes / p).ravel()
    n = rows.shape[1]
    if n * expected.min() < LEAST_EXPECTED:
        raise UsageError(f"a χ² test must expect {LEAST_EXPECTED} samples in each of {len(expected)} cells, got {n}")
    mean = n * expected
    chi_squared = ((cells(rows, p, buckets) - mean) ** 2 / mean).sum()
    return float(special.chdtrc(len(mean) - 1, chi_squared))  # as stats.chisquare, whose checks take longer than this


def p_value_same(samples: ArrayLike, others: ArrayLike, p: int, buckets: int) -> float:
    """χ² p-value of the hypothesis that two lots of columns come from one distribution on [0, p)^t."""
    table = np.array([cells(samples, p, buckets), cells(others, p, buckets)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] == 1:
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def buckets_for(rows: int, samples: int, most: int = 64) -> int:
    """The largest power of two, so that a test of `rows` values at once has enough samples; 1 where none has."""
    buckets = most
    while buckets > 1 and samples / buckets**rows < 2 * LEAST_EXPECTED:
        buckets //= 2
    return buckets


def least(p_values: Iterable[float]) -> float:
    """The smallest p-value, times their number (Bonferroni): below `ALARM` one of them is no accident."""
    known = list(p_values)
    return min(1.0, min(known) * len(known)) if known else 1.0


def octets(words: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """The bytes of words by significance, from the least one, shape (bytes of a word, n)."""
    flat = np.ascontiguousarray(words.ravel(), words.dtype.newbyteorder("<"))
    return flat.view(np.uint8).reshape(-1, flat.itemsize).T


def p_value_of_words(words: Sequence[NDArray[np.unsignedinteger]]) -> float:
    """`least` over the bytes of each array of words: of uniform ones each byte is uniform."""
    return least(
        p_value_uniform(values[None], 256, buckets)
        for one in words
        for values in octets(one)
        if (buckets := buckets_for(1, len(values))) > 1
    )
