"""What is done to the columns of a table before training, and again before every prediction: plain data."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fedmpi.data.column import (
    Column,
    column_of_json,
    column_of_moments,
    column_of_numbers,
    column_of_text,
    number_of,
    texts,
)
from fedmpi.data.table import Table, blocks, recode
from fedmpi.errors import UsageError

SCALES = ("none", "standard", "maxabs")
"""Not at all; to mean 0 and deviation 1; to a largest absolute value of 1, without moving 0."""
FILLS = ("mean", "median", "most_frequent")
"""What stands in for a missing number; for missing text it is always the most frequent value."""
FORMAT = 1


@dataclass(frozen=True)
class Preparation:
    """From the columns of a table to a matrix of numbers, the same for training and for prediction.

    Attributes
    ----------
    columns : tuple of Column
        In the order of the table.
    classes : tuple of str
        Name of label k at place k.
    notes : tuple of str
        What a person should know about it.
    """

    columns: tuple[Column, ...]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the prepared features."""
        return tuple(
            name
            for column in self.columns
            if not column.dropped
            for name in ([f"{column.name}={value}" for value in column.values] or [column.name])
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the columns that are the same in all rows."""
        return tuple(column.name for column in self.columns if column.dropped)

    # -------------------------------------------------------------- where it comes from

    @classmethod
    def fit(
        cls,
        table: Table,
        *,
        scale: str = "standard",
        impute: str | None = None,
        cut: float = 0.0,
        drop_constants: bool = True,
        classes: Sequence[str] = (),
    ) -> Self:
        """Look at the training rows, all in one place.

        Parameters
        ----------
        table : Table
            Training rows only. Where they are sparse nothing is moved, so that they stay sparse.
        scale : str
            Of `SCALES`.
        impute : str, optional
            Of `FILLS`; by default missing values are refused.
        cut : float
            Numbers farther from the median than `cut` times the distance to the 5th or 95th percentile are cut off;
            0: none are.
        drop_constants : bool
            Leave out columns that are the same in all rows.
        classes : sequence of str
            Names of the classes, to be kept with the rest.

        Raises
        ------
        UsageError
            For missing values without `impute`, values that are not finite, or when no column is left.
        """
        one_of("scale", scale, SCALES)
        if impute is not None:
            one_of("impute", impute, FILLS)
        if not (0 <= cut < math.inf):
            raise UsageError(f"cut must be at least 0, got {cut}")
        sparse = not isinstance(table.X, np.ndarray)
        if sparse and (cut or impute):
            raise UsageError("a sparse table must come without cut and impute, got one of them")
        rows = table.X.shape[0]
        if not rows:
            raise UsageError("a preparation must have rows to look at, got none")
        columns = []
        for k, cells in enumerate(_columns(table.X)):
            name = table.names[k]
            known = cells[~np.isnan(cells)] if cells.dtype.kind == "f" else cells
            if len(known) < len(cells) and impute is None:
                raise UsageError(
                    f'column "{name}" must have no missing values, got {len(cells) - len(known)} in {len(cells)} rows: '
                    "fill them in, or ask to impute them"
                )
            if k in table.values:
                columns.append(column_of_text(name, table.values[k], known.astype(np.intp), len(known) < len(cells)))
            else:
                columns.append(column_of_numbers(name, known, len(cells), scale, impute, cut, sparse))
        return cls._finished(columns if drop_constants else _kept(columns, table.values), classes)

    @classmethod
    def from_moments(
        cls,
        names: Sequence[str],
        rows: int,
        counts: ArrayLike,
        sums: ArrayLike,
        squares: ArrayLike,
        *,
        shift: ArrayLike = 0.0,
        values: dict[int, tuple[str, ...]] | None = None,
        fills: Mapping[int, str] | None = None,
        impute: str | None = None,
        drop_constants: bool = True,
        classes: Sequence[str] = (),
    ) -> Self:
        """Take sums over all training rows from outside, as a secure sum gives them; the scale is "standard".

        Parameters
        ----------
        names : sequence of str
            Of the d columns.
        rows : int
            Training rows, of all participants.
        counts, sums, squares : array of shape (d,)
            Of each column: how many values are not missing, their sum, and the sum of their squares; text counts 0.
        shift : float or array of shape (d,)
            What was subtracted from the values before they were summed. Where values are far from 0 and close to one
            another, such as times, a public number among them keeps the digits of the deviation.
        values : dict, optional
            Column of text → its public values.
        fills : mapping, optional
            Column of text → what stands in for missing values. Default: there may be none.
        impute : str, optional
            None or "mean".
        drop_constants, classes
            As in `fit`.

        Raises
        ------
        UsageError
            If they can't be the sums of any rows.
        """
        d, values, fills = len(names), values or {}, fills or {}
        if impute not in (None, "mean"):
            raise UsageError(f"impute must be mean where only sums are known, got {impute}")
        given = {"counts": counts, "sums": sums, "squares": squares, "shift": shift}
        arrays = {key: np.broadcast_to(np.asarray(a, dtype=np.float64), (d,)) for key, a in given.items()}
        for key, array in arrays.items():
            if not np.isfinite(array).all():
                raise UsageError(f"{key} of the moments must be finite, got {array[~np.isfinite(array)][0]}")
        columns = []
        for k, name in enumerate(names):
            if k in values:
                columns.append(Column(name, tuple(values[k]), fills.get(k), dropped=len(values[k]) < 2))
                continue
            count, total, square, origin = (float(arrays[key][k]) for key in given)
            columns.append(column_of_moments(name, rows, count, total, square, origin, impute is not None))
        return cls._finished(columns if drop_constants else _kept(columns, values), classes)

    @classmethod
    def from_bounds(
        cls,
        names: Sequence[str],
        lower: ArrayLike,
        upper: ArrayLike,
        *,
        values: dict[int, tuple[str, ...]] | None = None,
        classes: Sequence[str] = (),
    ) -> Self:
        """Take public bounds: numbers are cut off there and brought to [-1, 1]. Nothing is learnt from the rows.

        Raises
        ------
        UsageError
            If a lower bound is not below the upper one, or not finite.
        """
        values = values or {}
        ends = [np.broadcast_to(np.asarray(a, dtype=np.float64), (len(names),)).tolist() for a in (lower, upper)]
        columns = []
        for k, (name, low, high) in enumerate(zip(names, *ends, strict=True)):
            if k in values:
                columns.append(Column(name, tuple(values[k])))
                continue
            if not -math.inf < low < high < math.inf:
                raise UsageError(f'bounds of column "{name}" must be finite and rise, got {low:g} to {high:g}')
            middle, half = low / 2 + high / 2, high / 2 - low / 2
            columns.append(Column(name, lower=low, upper=high, mean=middle, deviation=half))
        return cls._finished(columns, classes)

    @classmethod
    def _finished(cls, columns: list[Column], classes: Sequence[str]) -> Self:
        dropped = [column.name for column in columns if column.dropped]
        if len(dropped) == len(columns):
            raise UsageError(f"some column must differ between rows, got {len(columns)} constant columns")
        notes = []
        if dropped:
            several = "column is" if len(dropped) == 1 else "columns are"
            notes.append(f"{len(dropped)} {several} the same in all training rows and left out: {_some(dropped)}")
        if cut := [column.name for column in columns if column.is_cut]:
            notes.append(f"outliers are cut off in {len(cut)} of {len(columns)} columns: {_some(cut)}")
        return cls(tuple(columns), tuple(classes), tuple(notes))

    # -------------------------------------------------------------- what it does

    def apply(self, table: Table, dtype: DTypeLike = np.float64) -> Any:
        """Prepare rows.

        Parameters
        ----------
        table : Table
            Its columns are found by name; further ones are left alone. Where they have no names it is their places
            that count.
        dtype : float32 or float64
            Of the result; the work is done in float64.

        Returns
        -------
        ndarray of shape (m, len(self.names))
            Or a sparse matrix, where the rows are sparse.

        Raises
        ------
        UsageError
            If a column is not there, holds text in place of numbers or the other way round, or has missing values
            that nothing stands in for.
        """
        places = {name: k for k, name in enumerate(table.names)}
        steps: list[tuple[int, Column]] = []
        for column in self.columns:
            if column.dropped:
                continue
            if column.name not in places:
                raise UsageError(f'rows must have the column "{column.name}", got {_some(table.names)}')
            place = places[column.name]
            nothing = column.values and place not in table.values and np.isnan(table.X[:, place]).all()
            if (place in table.values) != bool(column.values) and not nothing:
                kinds = ("text", "numbers") if column.values else ("numbers", "text")
                raise UsageError(f'column "{column.name}" must hold {kinds[0]}, got {kinds[1]}')
            steps.append((place, column))
        if not isinstance(table.X, np.ndarray):
            return self._apply_sparse(table, steps, dtype)
        out = np.empty((table.X.shape[0], len(self.names)), dtype=dtype)
        numbers = [(place, column) for place, column in steps if not column.values]
        at = _offsets(steps)
        to = np.array([at[place] for place, _ in numbers], dtype=np.intp)
        source = np.array([place for place, _ in numbers], dtype=np.intp)
        mean, deviation, lower, upper, fill = (
            np.array([number_of(getattr(column, key)) for _, column in numbers], dtype=np.float64)
            for key in ("mean", "deviation", "lower", "upper", "fill")
        )
        for block in blocks(*table.X.shape):
            rows = table.X[block]
            if numbers:
                cells = rows[:, source].astype(np.float64)
                if (missing := np.isnan(cells)).any():
                    cells = np.where(missing, fill, cells)
                    if (missing := np.isnan(cells)).any():
                        raise self._missing(numbers[int(missing.any(axis=0).argmax())][1].name)
                np.clip(cells, lower, upper, out=cells)
                cells -= mean
                cells /= deviation
                out[block, to] = cells
            for place, column in steps:
                if column.values:
                    codes = self._codes(column, table.values.get(place, ()), rows[:, place])
                    width = len(column.values)
                    out[block, at[place] : at[place] + width] = codes[:, None] == np.arange(width)
        return out

    def _codes(self, column: Column, values: Sequence[str], cells: NDArray[Any]) -> NDArray[np.float64]:
        """The places of a column's cells in the values of the preparation, -1 for values that it does not know."""
        known = {value: code for code, value in enumerate(column.values)}
        codes = recode(cells.astype(np.float64), [known.get(value, -1) for value in values])
        if np.isnan(codes).any():
            if column.fill is None:
                raise self._missing(column.name)
            codes[np.isnan(codes)] = known[str(column.fill)]
        return codes

    @staticmethod
    def _missing(name: str) -> UsageError:
        return UsageError(
            f'column "{name}" must have no missing values, got some: the preparation has nothing for them'
        )

    def _apply_sparse(self, table: Table, steps: list[tuple[int, Column]], dtype: DTypeLike) -> Any:
        from scipy.sparse import csr_matrix, diags_array

        if any(column.mean or column.values for _, column in steps):
            raise UsageError("sparse rows must have a preparation that moves nothing, got one that does")
        X = csr_matrix(table.X, dtype=np.float64)[:, [place for place, _ in steps]]
        return (X @ diags_array([1 / column.deviation for _, column in steps])).astype(dtype).tocsr()

    # -------------------------------------------------------------- plain data

    def to_json(self) -> str:
        """As it stands in a model's file; infinite cuts are left out, and so is what is not done."""
        plain = Column("")
        columns = [
            {key: value for key, value in asdict(column).items() if key == "name" or value != getattr(plain, key)}
            for column in self.columns
        ]
        whole = {"format": FORMAT, "columns": columns, "classes": self.classes, "notes": self.notes}
        return json.dumps(whole, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote: the same to the bit.

        Raises
        ------
        UsageError
            If the text is anything else; nothing in it is trusted.
        """
        try:
            whole = json.loads(text)
            if whole["format"] != FORMAT:
                raise UsageError(f"format of a preparation must be {FORMAT}, got {whole['format']!r}")
            columns = tuple(column_of_json(column) for column in whole["columns"])
            classes, notes = (texts(whole[key]) for key in ("classes", "notes"))
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"a preparation must be the JSON that one was written to, got {error!r}") from None
        if not columns or all(column.dropped for column in columns):
            raise UsageError("a preparation must have columns, got none that is used")
        if len({column.name for column in columns}) < len(columns):
            raise UsageError("names of a preparation's columns must differ, got one twice")
        return cls(columns, classes, notes)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of public statistics, which is what `to_json` gives; `UsageError` if it is anything else."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"statistics must be a readable file, got {path} ({error})") from None


def one_of(what: str, value: str, allowed: Collection[str]) -> None:
    """Raise `UsageError` unless `value` is one of `allowed`."""
    if value not in allowed:
        raise UsageError(f"{what} must be one of {', '.join(allowed)}, got {value}")


def _columns(X: Any) -> Iterator[NDArray[Any]]:
    """Each column of a matrix, in turn."""
    if not isinstance(X, np.ndarray):
        X = X.tocsc()
        yield from (X[:, [k]].toarray()[:, 0] for k in range(X.shape[1]))
        return
    for start in range(0, X.shape[1], 16):  # several at once: one alone would read all of the memory for itself
        yield from np.ascontiguousarray(X[:, start : start + 16].T)


def _kept(columns: list[Column], values: Collection[int]) -> list[Column]:
    """Keep columns that are the same in all rows, but not those of text without any."""
    return [replace(column, dropped=k in values and not column.values) for k, column in enumerate(columns)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names[:5]) + (", …" if len(names) > 5 else "")


def _offsets(steps: list[tuple[int, Column]]) -> dict[int, int]:
    """Place in the table → place of the first prepared column."""
    found, offset = {}, 0
    for place, column in steps:
        found[place] = offset
        offset += len(column.values) or 1
    return found
