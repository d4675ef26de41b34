"""Horizontal partitions: which rows of a data set a participant holds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError


def rows_of(part: int, parts: int, rows: int, groups: NDArray[Any] | None = None) -> NDArray[np.intp]:
    """The rows of one part, in the order of the data set.

    Without groups every `parts`-th row. With groups a group stays together: the groups, in the order of their
    names, are dealt out in turn.

    Parameters
    ----------
    part : int
        In [0, parts).
    parts : int
    rows : int
    groups : array of shape (rows,), optional
        The group of each row.

    Raises
    ------
    UsageError
        If there are fewer rows, or fewer groups, than parts.
    """
    if groups is None:
        if rows < parts:
            raise UsageError(f"the number of rows must be at least that of participants, {parts}, got {rows}")
        return np.arange(part, rows, parts)
    names, group = np.unique(groups, return_inverse=True)
    if len(names) < parts:
        raise UsageError(
            f"the column to split by must have at least {parts} values, one a participant, got {len(names)}"
        )
    return np.flatnonzero(group % parts == part)
