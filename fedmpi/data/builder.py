"""Columns in, block by block; one table out, which was never in memory twice."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.dataset import Raw, check_size
from fedmpi.data.options import FileOptions
from fedmpi.data.rounding import LARGE, Look, Rounding, TooCoarseError, harmless
from fedmpi.data.table import MISSING, Where, check_values, is_number, labels_of, recode
from fedmpi.errors import UsageError

NO_LABELS = ""
"""In place of the name of a label column: all columns are features."""

Cells = NDArray[Any] | tuple[NDArray[np.integer[Any]], Sequence[str]]
"""Of one block: numbers; or codes, -1 for none, and the text that they stand for."""


@dataclass(frozen=True)
class Block:
    """Some rows of a table.

    Attributes
    ----------
    columns : mapping
        Place → column.
    rows : int
    features : ndarray of shape (rows, d) or None
        All features, where they are numbers; `columns` need not have them then.
    look : Look or None
        What was seen of the features before they were rounded, if they are.
    """

    columns: Mapping[int, Cells]
    rows: int
    features: NDArray[Any] | None = None
    look: Look | None = None


@dataclass(frozen=True)
class Layout:
    """Which columns a table has, and what each is for.

    Attributes
    ----------
    names : tuple of str
        Of all columns.
    label : int or None
        The place of the labels.
    group : int or None
        The place of the groups.
    left_out : tuple of int
        Columns that are nothing of these, and no features.
    wanted : frozenset of int
        Columns that were named as categories.
    notes : tuple of str
        What was found and done, for people.
    """

    names: tuple[str, ...]
    label: int | None
    group: int | None = None
    left_out: tuple[int, ...] = ()
    wanted: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Columns that were left out since they are none of those that were asked for."""

    @cached_property
    def features(self) -> list[int]:
        """The places of the features."""
        return [k for k in range(len(self.names)) if k not in (self.label, self.group, *self.left_out)]

    @cached_property
    def used(self) -> list[int]:
        """The places of all columns that are read."""
        return [k for k in range(len(self.names)) if k not in self.left_out]


def lay_out(
    what: str,
    names: Sequence[str],
    options: FileOptions,
    *,
    empty: Collection[int] = (),
    named: bool = True,
) -> Layout:
    """Find the columns that were asked for; leave out an index.

    Parameters
    ----------
    what : str
        The file, for messages.
    names : sequence of str
        Of all columns; empty for those without a name.
    options : FileOptions
    empty : collection of int
        The columns that seem to have no values, or none that count; left out if they have no name.
    named : bool
        Whether the file has names; else `names` are the places.

    Raises
    ------
    UsageError
        For columns that are not there or not alike, or when no feature is left.
    """
    label_column, group_column, only = options.label_column, options.group_column, options.only
    if len(names) < 2 and label_column != NO_LABELS:
        raise UsageError(f"{what} must have a label column and at least one feature column, got {len(names)} column")
    left_out: list[int] = []
    notes: list[str] = []
    if named:
        while len(left_out) < len(names) and _unnamed(names[len(left_out)]):
            left_out.append(len(left_out))
        if left_out:
            many = (
                f"the first {len(left_out)} columns have no name and were"
                if len(left_out) > 1
                else ("the first column has no name and was")
            )
            notes.append(f"{what}: {many} taken for numbers of rows and left out")
        more = [k for k in range(len(left_out), len(names)) if _unnamed(names[k]) and k in empty]
        if more:
            notes.append(f"{what}: {len(more)} columns without a name or values were left out")
            left_out += more
    names = [name if name or k in left_out else str(k) for k, name in enumerate(names)]
    kept = [names[k] for k in range(len(names)) if k not in left_out]
    counts = Counter(kept)
    if twice := [name for name in kept if counts[name] > 1]:
        raise UsageError(f'column names of {what} must differ, got "{twice[0]}" twice')

    def place(column: str, option: str) -> int:
        if column in kept:
            return next(k for k, name in enumerate(names) if name == column and k not in left_out)
        if column.lstrip("-").isdecimal() and -len(names) <= int(column) < len(names):
            return int(column) % len(names)
        raise UsageError(f"{option} must be one of {', '.join(kept)}, got {column}")

    if not kept:
        raise UsageError(
            f"{what} must have a label column and at least one feature column, got only columns to leave out"
        )
    last = max(k for k in range(len(names)) if k not in left_out)
    label = last if label_column is None else None if label_column == NO_LABELS else place(label_column, "label_column")
    group = None if group_column is None else place(group_column, "group_column")
    if group is not None and group == label:
        raise UsageError(f"group_column must not be the label column, got {group_column}")
    wanted = frozenset(place(column, "categorical") for column in options.categorical)
    left = [k for k in left_out if k not in (label, group, *wanted)]
    unwanted = [k for k in range(len(names)) if k not in (label, group, *left) and only and names[k] not in only]
    others = tuple(names[k] for k in unwanted)
    layout = Layout(tuple(names), label, group, (*left, *unwanted), wanted, tuple(notes), others)
    if not layout.features:
        raise UsageError(f"{what} must have at least one feature column, got {len(names)} columns")
    return layout


def _unnamed(name: str) -> bool:
    """Tell whether a column has no name, or the one that pandas gives such a column when it reads and writes it."""
    return not name or name.startswith("Unnamed: ")


class Builder:
    """Puts blocks of columns together.

    Parameters
    ----------
    what : str
        The file, for messages.
    layout : Layout
    rows : int, optional
        How many there will be, where that is known; more than `dataset.MAX_BYTES` allows are refused at once.
    guess : int, optional
        How many there may be. Room for them is set aside at once: the system then gives it in large pages, which takes
        a fifth of the time; what is not used costs nothing.
    decimal : str
        What stands before the fraction of a number; labels and groups are read as text.
    single : bool
        Round a large table to float32, where that does no harm; see `fedmpi.data.rounding`.
    """

    def __init__(
        self, what: str, layout: Layout, rows: int = 0, guess: int = 0, decimal: str = ".", single: bool = False
    ) -> None:
        self.what, self.layout, self.decimal = what, layout, decimal
        self._features = layout.features
        check_size(rows, len(self._features), 8, what)
        self._X: NDArray[Any] = np.empty((max(rows, guess), len(self._features)))
        self._rows = 0
        self._single = single
        # where the table will be large, the sooner the better: what is in float64 until then is written twice
        self._round_after = LARGE // 16 if self._X.nbytes > LARGE else LARGE
        self._rounding: Rounding | None = None
        self._codes: dict[int, dict[str, int]] = {}
        others = [place for place in (layout.label, layout.group) if place is not None]
        self._others: dict[int, list[NDArray[Any]]] = {place: [] for place in others}

    def add(self, block: Block) -> None:
        """Append a block of rows."""
        start, end, columns = self._rows, self._rows + block.rows, block.columns
        check_size(end, len(self._features), 8, self.what)
        features, look = block.features, block.look
        if features is None:
            features = np.empty((block.rows, len(self._features)))
            for k, place in enumerate(self._features):
                features[:, k] = self._numbers(place, columns[place], np.nan)
        if self._rounding is not None:
            self._rounding.add(look or self._rounding.look(features))
        if end > len(self._X):
            self._X.resize((end, len(self._features)), refcheck=False)  # grows in place, without a copy
        with np.errstate(over="ignore"):  # such a table is read again
            self._X[start:end] = features
        self._rows = end
        if self._rounding is None and self._single and self._X[:end].nbytes > self._round_after:
            self._round()
        for place, parts in self._others.items():
            parts.append(self._numbers(place, columns[place], -1))

    def rounded(self, block: Block) -> Block:
        """Do what can be done for a block in any thread: put its cells in the order of rows, and round it, if the table
        is being rounded already.
        """
        rounding, X = self._rounding, block.features
        if X is None:
            return block
        if rounding is None:
            return replace(block, features=np.ascontiguousarray(X))
        with np.errstate(over="ignore"):
            return replace(block, features=X.astype(np.float32, order="C"), look=rounding.look(X))

    def _round(self) -> None:
        """Go on in float32, if that does no harm to the rows so far."""
        rounding, X = Rounding(len(self._features)), self._X[: self._rows]
        rounding.add_all(X)
        self._single = rounding.harmless
        if self._single:
            self._X, self._rounding = np.empty(self._X.shape, np.float32), rounding
            self._X[: self._rows] = X

    def _numbers(self, place: int, column: Cells, missing: float) -> NDArray[Any]:
        """Return the numbers of a column, or the codes of its text among all blocks."""
        if not isinstance(column, tuple):
            return column
        codes, texts = column
        known = self._codes.setdefault(place, {})
        merged = [
            missing if (text := value.strip()) in MISSING else known.setdefault(text, len(known)) for value in texts
        ]
        dtype = np.float64 if missing != missing else np.int32
        return np.array([*merged, missing], dtype=dtype)[codes]  # code -1 is the last of them

    def finish(self, name: str, where: Where) -> Raw:
        """Return the table.

        Parameters
        ----------
        name : str
            Of the data set.
        where : callable
            From the number of a row to " in line 7" or the like.

        Raises
        ------
        UsageError
            If there are no rows, labels are missing, or text can't be categories.
        TooCoarseError
            If rounding has done harm: the file is to be read again, with `single` False.
        """
        notes = self.layout.notes
        if self._rounding is not None:
            if not self._rounding.harmless:
                raise TooCoarseError
            notes += (f"{self.what} is large and was rounded to float32",)
        self._X.resize((self._rows, len(self._features)), refcheck=False)
        X, others = self._X, {place: np.concatenate(parts) for place, parts in self._others.items() if parts}
        if not len(X):
            raise UsageError(f"{self.what} must have rows of data, got none")
        label, missing = self.layout.label, None
        if label is not None:
            labels = others[label]
            missing = labels < 0 if label in self._codes else np.isnan(labels) if labels.dtype.kind == "f" else None
        if missing is not None and missing.any():  # spreadsheets end in rows without a single value
            empty = missing & np.isnan(X).all(axis=1)
            X, others = X[~empty], {place: column[~empty] for place, column in others.items()}
        if not len(X):
            raise UsageError(f"{self.what} must have rows of data, got none")
        values: dict[int, tuple[str, ...]] = {}
        for k, place in enumerate(self._features):
            if place not in self._codes:
                continue
            texts = tuple(self._codes[place])
            if texts and all(is_number(text) for text in texts) and place not in self.layout.wanted:
                cells = recode(X[:, k], [float(text) for text in texts])
                if self._rounding is not None and not harmless(cells[:, None]):
                    raise TooCoarseError
                X[:, k] = cells
                continue
            column = X[:, k]

            def seen(text: str, column: NDArray[Any] = column, texts: tuple[str, ...] = texts) -> str:
                return where(int(np.argmax(column == texts.index(text))))

            check_values(
                f'column "{self.layout.names[place]}" of {self.what}', texts, seen, place in self.layout.wanted
            )
            values[k] = texts
        found = [self._labels(place, column, where) for place, column in others.items()]
        y, *groups = found if label is not None else [np.zeros(len(X), np.int64), *found]
        names = tuple(self.layout.names[place] for place in self._features)
        return Raw(
            name,
            X,
            y,
            columns=names,
            groups=groups[0] if groups else None,
            values=values,
            notes=notes,
            where=where,
            others=self.layout.others,
            last=self.layout.names[-1],
        )

    def _labels(self, place: int, column: NDArray[Any], where: Where) -> NDArray[Any]:
        name = f'column "{self.layout.names[place]}" of {self.what}'
        text = place in self._codes
        missing = column < 0 if text else np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)
        if missing.any():
            raise UsageError(f"{name} must have no missing values, got one{where(int(missing.argmax()))}")
        if not text:
            if column.dtype.kind == "f" and not np.isfinite(column).all():
                row = int(np.argmin(np.isfinite(column)))
                raise UsageError(f"{name} must be finite, got {column[row]}{where(row)}")
            return column
        texts = tuple(self._codes[place])
        read = [text.replace(self.decimal, ".", 1) for text in texts]
        if not all(map(is_number, read)):
            read = list(texts)
        labels = labels_of(name, read, lambda value: where(int(np.argmax(column == read.index(value)))))
        return np.asarray(labels[column])
