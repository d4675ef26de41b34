"""From a name to a `Dataset`: read, check, split, select."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.data import regression as regression_data
from fedmpi.data import synthetic
from fedmpi.data.dataset import Dataset, Raw, check_part
from fedmpi.data.files import is_data_file, read_file
from fedmpi.data.known import KNOWN, read_known, unknown
from fedmpi.errors import UsageError


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    classes: Sequence[str] = (),
    max_rows: int | None = None,
    test_fraction: float = 0.2,
    regression: bool = False,
    label_column: str | None = None,
    group_column: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set, checked and split.

    Parameters
    ----------
    name : str
        A name of `catalogue`, ``synthetic:m=6000,d=5000,density=0.13[,test=1000][,classes=2]``,
        ``synthetic-lasso:n=5000,d=100,sparsity=0.9,noise=20,test=1000`` (any of these keys), or the path of a
        file: .npz (X, y or X_train, y_train, X_test, y_test), .csv[.gz], .svm or .libsvm[.gz|.bz2].
    data_dir : str or Path, optional
        Folder of the known sets; by default $FEDMPI_DATA, else ``fedmpi`` in the cache folder of the user.
    classes : sequence of str, optional
        Names or label numbers of the classes to keep, which become 0, 1, ... in this order; by default all.
    max_rows : int, optional
        Keep the first `max_rows` training rows of the kept classes; the test part stays whole.
    test_fraction : float
        Share of the rows that becomes the test part, in (0, 1); only for sets that come without one.
        Drawn per class for classification; a class keeps at least one training row.
    regression : bool
        Take the targets as float64 numbers instead of classes.
    label_column : str, optional
        CSV files: name or place of the label column; by default the last. NPZ files: name of an array, or place in X.
    group_column : str, optional
        Likewise, of the column that says which group a row belongs to; by default none.
    seed : int
        Seed of the split and of synthetic sets.

    Returns
    -------
    Dataset
        X_train (m, d) and X_test in the type of the source; both keep the order of the source.

    Raises
    ------
    UsageError
        If the set is unknown, missing or damaged, breaks a rule, or an argument is out of range.
    """
    if seed < 0:
        raise UsageError(f"seed must be at least 0, got {seed}")
    if max_rows is not None and max_rows < 1:
        raise UsageError(f"max_rows must be at least 1, got {max_rows}")
    if not 0 < test_fraction < 1:
        raise UsageError(f"test_fraction must lie in (0, 1), got {test_fraction}")
    if regression and classes:
        raise UsageError(f"classes must be empty for regression, got {', '.join(classes)}")

    raw = _checked(_read(name, data_dir, label_column, group_column, seed))
    raw, aliases = (_as_numbers(raw), {}) if regression else _as_labels(raw)
    raw = _split(raw, test_fraction, seed, by_class=not regression)
    return _select(raw, aliases, classes, max_rows)


def _read(name: str, data_dir: str | Path | None, label_column: str | None, group_column: str | None, seed: int) -> Raw:
    kind, colon, spec = name.partition(":")
    if is_data_file(name):
        return read_file(Path(name).expanduser(), label_column, group_column)
    for option, value in (("label_column", label_column), ("group_column", group_column)):
        if value is not None:
            raise UsageError(f"{option} must be given for CSV and .npz files only, got {name}")
    if kind == regression_data.NAME:
        return regression_data.make(spec, seed)
    if kind == "synthetic" and colon:
        return synthetic.make(spec, seed)
    if name in KNOWN:
        return read_known(name, data_dir)
    raise unknown(name)


def _checked(raw: Raw) -> Raw:
    """Check both parts; `raw.y_test` is then never None where `raw.X_test` is not."""
    if raw.X_test is None or raw.y_test is None:
        X, y = check_part(raw.X, raw.y, raw.name, raw.columns)
        return replace(raw, X=X, y=y)
    X, y = check_part(raw.X, raw.y, f"the training part of {raw.name}")
    X_test, y_test = check_part(raw.X_test, raw.y_test, f"the test part of {raw.name}")
    if X.shape[1] != X_test.shape[1]:
        raise UsageError(f"test part of {raw.name} must have {X.shape[1]} columns, got {X_test.shape[1]}")
    return replace(raw, X=X, y=y, X_test=X_test, y_test=y_test)


def _as_numbers(raw: Raw) -> Raw:
    for y in (raw.y, raw.y_test):
        if y is not None and y.dtype.kind == "U":
            raise UsageError(f'target of {raw.name} must hold numbers for regression, got "{y[0]}"')
    y_test = None if raw.y_test is None else raw.y_test.astype(np.float64)
    return replace(raw, y=raw.y.astype(np.float64), y_test=y_test, names=())


def _as_labels(raw: Raw) -> tuple[Raw, dict[str, int]]:
    """Replace the labels by 0..C-1 in sorted order; also return what each class may be called."""
    both = raw.y if raw.y_test is None else np.concatenate([raw.y, raw.y_test])
    values = np.unique(both)
    if values.dtype.kind == "f" and (values != np.floor(values)).any():
        odd = values[values != np.floor(values)][0]
        raise UsageError(f"labels of {raw.name} must be whole numbers or text (or ask for regression), got {odd}")
    texts = [str(value) if values.dtype.kind == "U" else str(int(value)) for value in values]
    names = tuple(raw.names[int(value)] for value in values) if raw.names else tuple(texts)
    codes = np.searchsorted(values, both)
    y_test = None if raw.y_test is None else codes[len(raw.y) :]
    aliases = {alias: code for code, both_names in enumerate(zip(texts, names, strict=True)) for alias in both_names}
    return replace(raw, y=codes[: len(raw.y)], y_test=y_test, names=names), aliases


def _split(raw: Raw, fraction: float, seed: int, by_class: bool) -> Raw:
    """Draw a test part if the set has none."""
    if raw.X_test is not None:
        return raw
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(raw.y == k) for k in range(len(raw.names))] if by_class else [np.arange(len(raw.y))]
    test = np.zeros(len(raw.y), dtype=bool)
    for rows in strata:
        test[rng.permutation(rows)[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    groups = None if raw.groups is None else raw.groups[~test]
    return replace(raw, X=raw.X[~test], y=raw.y[~test], X_test=raw.X[test], y_test=raw.y[test], groups=groups)


def _select(raw: Raw, aliases: dict[str, int], classes: Sequence[str], max_rows: int | None) -> Dataset:
    """Keep the wanted classes, number them in the wanted order, then cut the training part."""
    assert raw.X_test is not None  # _split saw to it
    assert raw.y_test is not None
    if not raw.names:
        parts = (raw.X[:max_rows], raw.y[:max_rows], raw.X_test, raw.y_test)
    else:
        codes = _codes(raw, aliases, classes)
        parts = (*_rows(raw.X, raw.y, codes, max_rows), *_rows(raw.X_test, raw.y_test, codes, None))
        counts = np.bincount(parts[1], minlength=len(codes))
        if not counts.all():
            lost = raw.names[codes[int(counts.argmin())]]
            raise UsageError(f'class "{lost}" must have a training row, got none in {len(parts[1])} rows of {raw.name}')
        raw = replace(raw, names=tuple(raw.names[code] for code in codes))
    if not len(parts[3]):
        raise UsageError(f"test part of {raw.name} must have at least one row, got none")
    groups = None if raw.groups is None or raw.names else raw.groups[:max_rows]
    return Dataset(raw.name, *parts, classes=raw.names, groups=groups, coefficients=raw.coefficients)


def _codes(raw: Raw, aliases: dict[str, int], classes: Sequence[str]) -> list[int]:
    for name in classes:
        if name not in aliases:
            raise UsageError(f"class of {raw.name} must be one of {', '.join(raw.names)}, got {name}")
    codes = [aliases[name] for name in classes] or list(range(len(raw.names)))
    if len(set(codes)) < len(codes):
        raise UsageError(f"classes must differ, got {', '.join(classes)}")
    if len(codes) < 2:
        raise UsageError(f"{raw.name} must have at least two classes, got one-class data ({raw.names[codes[0]]})")
    return codes


def _rows(
    X: NDArray[Any], y: NDArray[Any], codes: list[int], max_rows: int | None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    label_of = np.full(max(int(y.max(initial=0)), *codes) + 1, -1, dtype=np.int64)
    label_of[codes] = np.arange(len(codes))
    labels = label_of[y]
    keep = np.flatnonzero(labels >= 0)[:max_rows]
    return X if len(keep) == len(X) else X[keep], labels[keep]
