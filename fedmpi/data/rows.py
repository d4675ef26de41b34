"""Rows that a model is to predict: a file with the columns of the training rows, with labels or without."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.builder import NO_LABELS
from fedmpi.data.dataset import Raw
from fedmpi.data.files import KINDS, kind_of, read_file
from fedmpi.data.folder import read_folder
from fedmpi.data.options import TABLES, FileOptions
from fedmpi.data.table import Table
from fedmpi.errors import UsageError


def read_rows(
    path: Path,
    columns: Sequence[str],
    features: int,
    categorical: Sequence[str] = (),
    label_column: str | None = None,
) -> tuple[Table, NDArray[Any] | None]:
    """Read raw rows, and their labels if they are there.

    Parameters
    ----------
    path : Path
        A table (.csv, .tsv, .parquet, .feather, .arff), .npz, .npy, .svm, or a folder of images.
    columns : sequence of str
        The features of the model, for tables; they are found by name, or where the table has no names by place.
    features : int
        How many there are.
    categorical : sequence of str
        Columns whose numbers are names of categories.
    label_column : str, optional
        Tables: name of the labels. Default: the last column, if it is no feature.

    Returns
    -------
    Table
    labels : array, shape (m,), or None
        Text or numbers, as they stand in the file. Only tables can be without.

    Raises
    ------
    UsageError
        If the file is missing or damaged, or lacks a feature.
    """
    kind = kind_of(path.name)
    if kind is None:
        if not path.is_dir():
            ends = ", ".join(ends[0] for ends in KINDS.values())
            raise UsageError(f"rows must be a folder of images or a file that ends in {ends}, got {path}")
        raw, labelled = read_folder(path), True
    elif kind not in TABLES:
        sparse = FileOptions(features=features) if kind == "svm" else FileOptions()
        raw, labelled = read_file(path, replace(sparse, label_column=label_column)), True
    else:
        given = FileOptions(NO_LABELS, categorical=tuple(categorical), only=tuple(columns))
        raw = read_file(path, given if label_column is None else replace(given, label_column=label_column))
        labelled = label_column is not None
        if not labelled and raw.others and raw.last == raw.others[-1]:
            raw, labelled = read_file(path, replace(given, label_column=raw.last)), True
        if missing := [name for name in columns if name not in raw.columns]:
            has = ", ".join((*raw.columns, *raw.others)[:20])
            raise UsageError(f'rows of {path} must have the column "{missing[0]}", got {has}')
    return _ordered(raw, columns), raw.y.ravel() if labelled else None


def rows_of_frame(frame: Any, columns: Sequence[str], text: Collection[str]) -> Table:
    """Rows of a DataFrame of pandas, whose columns are found by name.

    Parameters
    ----------
    frame : DataFrame
    columns : sequence of str
        The features of the model.
    text : collection of str
        Those that hold text.

    Raises
    ------
    UsageError
        If one is missing, or has text where the model was trained on numbers.
    """
    if missing := [name for name in columns if name not in frame.columns]:
        has = ", ".join(map(str, frame.columns[:20]))
        raise UsageError(f'rows must have the column "{missing[0]}", got {has}')
    X, values = np.full((len(frame), len(columns)), np.nan), {}
    for place, name in enumerate(columns):
        column = frame[name]
        if name not in text:
            try:
                X[:, place] = column.to_numpy(dtype=np.float64, na_value=np.nan)
            except (TypeError, ValueError) as error:
                raise UsageError(f'column "{name}" must hold numbers, got others: {error}') from None
            continue
        there = ~column.isna().to_numpy()
        cells = [as_text(cell) for cell in column[there]]
        values[place], X[there, place] = np.unique(np.array(cells, dtype=np.str_), return_inverse=True)
    return Table(X, tuple(columns), {place: tuple(texts.tolist()) for place, texts in values.items()})


def as_text(cell: Any) -> str:
    """What a category is called in a file: pandas makes 1.0 of a 1 in a column where values are missing."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _ordered(raw: Raw, columns: Sequence[str]) -> Table:
    """The columns in the order of the model."""
    if not columns or not raw.columns:
        return Table(raw.X, tuple(columns), raw.values)
    places = {raw.columns.index(name): k for k, name in enumerate(columns)}
    return Table(raw.X[:, [*places]], tuple(columns), {places[k]: texts for k, texts in raw.values.items()})
