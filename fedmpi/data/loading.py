"""From a name to a `Dataset`: read, check, split, select."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedmpi.data import memory, synthetic
from fedmpi.data import regression as regression_data
from fedmpi.data.dataset import Dataset, Raw, check_part
from fedmpi.data.filerows import FileRows
from fedmpi.data.files import PACKED, kind_of, read_file, read_svm_pair
from fedmpi.data.folder import read_folder
from fedmpi.data.known import KNOWN, read_known
from fedmpi.data.options import FileOptions
from fedmpi.data.preparation import Preparation
from fedmpi.data.source import check_ranges, check_source
from fedmpi.data.table import Table, join
from fedmpi.errors import UsageError

QUICK_BYTES = 2 << 20
QUICK_KINDS = ("csv", "arff", "npz", "svm")
"""Files of so many bytes, and of these kinds, are read at once."""


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
    test_file: str | Path | None = None,
    categorical: Sequence[str] = (),
    features: int | None = None,
    index_base: int | None = None,
    image_shape: Sequence[int] = (),
    scale: str | None = None,
    impute: str | None = None,
    statistics: str | Path | None = None,
    prepare: bool = True,
    in_memory_bytes: int | None = None,
    missing: bool | None = None,
) -> Dataset:
    """Load a data set, checked, split and prepared.

    Columns of text become one column for each value. Nothing else is done to the features unless `scale`, `impute` or
    `statistics` ask for it; then columns that are the same in all training rows are left out too (of images: never).
    All that is learnt about the columns is learnt from the training rows.

    Parameters
    ----------
    name : str
        A name of `catalogue`, ``synthetic:m=6000,d=5000,density=0.13[,test=1000][,classes=2]``,
        ``synthetic-lasso:n=5000,d=100,sparsity=0.9,noise=20,test=1000`` (any of these keys), or the path of a
        file: .csv or .tsv, .arff, .svm or .libsvm (all of these plain, .gz, .bz2, .xz or .zip), .parquet, .feather,
        .npz (X, y or X_train, y_train, perhaps with X_test, y_test), X.npy beside y.npy; or of a folder of images.
    data_dir : str or Path, optional
        Folder of the known sets; by default $FEDMPI_DATA, else ``fedmpi`` in the cache folder of the user.
    classes : sequence of str, optional
        Names or label numbers of the classes to keep, which become 0, 1, ... in this order; by default all.
    max_rows : int, optional
        Keep the first `max_rows` training rows of the kept classes; the test part stays whole.
    test_fraction : float
        Share of the rows that becomes the test part, in [0, 1); only for sets that come without one. Drawn per class
        for classification; a class keeps at least one training row. 0: all rows are for training, and X_test is empty.
    regression : bool
        Take the targets as float64 numbers instead of classes.
    label_column : str, optional
        Tables: name of the label column, or its place counted from 0 (negative from the end); by default the last.
        NPZ files: name of the array that holds the labels, or the place of their column in X.
    group_column : str, optional
        Likewise, of the column that says which group a row belongs to; by default none.
    seed : int
        Seed of the split and of synthetic sets.
    test_file : str or Path, optional
        File of the test rows, of the same kind as that of the training rows; its columns are found by name.
    categorical : sequence of str
        Tables: names or places of columns whose numbers are names of categories. Columns of text need not be named.
    features : int, optional
        LIBSVM files: the number of features; by default the largest index of the file.
    index_base : int, optional
        LIBSVM files: the number of the first feature; by default 0 if that number is in the file, else 1.
    image_shape : sequence of int
        (channels, height, width) of rows that are flattened images, where the file does not say so.
    scale : str, optional
        "none", "standard" or "maxabs": see `Preparation.fit`. Images are left as they are.
    impute : str, optional
        "mean", "median" or "most_frequent"; by default missing values are refused.
    statistics : str or Path, optional
        File of a preparation to apply, in place of looking at the rows.
    prepare : bool
        False: leave the rows as they are, text as places in `Dataset.values` and missing values as NaN; for callers
        whose preparation comes out of a protocol.
    in_memory_bytes : int, optional
        Unless they are prepared, the rows of larger .npy files stay there, and those of LIBSVM files that are larger
        when dense stay sparse: X_train and X_test are `FileRows`.
    missing : bool, optional
        Whether values may be missing; by default where something may stand in for them.

    Returns
    -------
    Dataset
        X_train (m, d) and X_test in the type of the source; both keep the order of the source.

    Raises
    ------
    UsageError
        If the set is unknown, missing or damaged, breaks a rule, or an argument is out of range.
    """
    check_ranges(seed=seed, max_rows=max_rows, test_fraction=test_fraction, classes=classes, values=regression)
    asked = scale is not None or impute is not None or statistics is not None
    if (asked and not prepare) or (statistics is not None and (scale is not None or impute is not None)):
        raise UsageError("one of prepare=False, statistics, or scale and impute must be given, got several")

    options = FileOptions(label_column, group_column, tuple(categorical), features, index_base, single=True)
    if not asked:
        options = replace(options, in_memory_bytes=in_memory_bytes)
    raw = _read(name, data_dir, options, test_file, seed)
    raw = _shaped(raw, image_shape)
    stays = isinstance(raw.X, np.memmap)
    if missing is None:
        missing = impute is not None or statistics is not None or not prepare
    raw = _checked(raw, missing=missing)
    if stays:
        X_test = None if raw.X_test is None else FileRows(raw.X_test)
        raw = replace(raw, X=cast(NDArray[Any], FileRows(raw.X)), X_test=cast(NDArray[Any] | None, X_test))
    raw, aliases = (_as_numbers(raw), {}) if regression else _as_labels(raw)
    drawn = raw.X_test is None
    raw = split(raw, test_fraction, seed, by_class=not regression)
    assert raw.y_test is not None
    if drawn and test_fraction and not len(raw.y_test) and len(raw.names) != 1:  # of one class another rule says more
        raise UsageError(f"test part of {raw.name} must have at least one row, got none")
    data = _select(raw, aliases, classes, max_rows)
    if not prepare or not (asked or raw.values) or (data.shape and impute is None and statistics is None):
        return data
    if statistics is not None:
        return prepared_as(data, statistics)
    drop = asked and not data.shape
    return prepared(
        data,
        Preparation.fit(
            training_table(data), scale=scale or "none", impute=impute, drop_constants=drop, classes=data.classes
        ),
    )


def glance(
    name: str,
    data_dir: str | Path | None,
    options: FileOptions,
    *,
    test_file: str | Path | None,
    classes: Sequence[str],
    image_shape: Sequence[int],
    missing: bool,
) -> None:
    """Refuse what `load` would refuse, as far as that takes no time: of rows only those of small files are read.

    Raises
    ------
    UsageError
    """
    check_source(name, data_dir, options, test_file)
    if kind_of(name) not in QUICK_KINDS:
        return
    files = [Path(file).expanduser() for file in (name, test_file) if file is not None]
    if sum(file.stat().st_size for file in files) > QUICK_BYTES or any(file.suffix in PACKED[1:] for file in files):
        return
    raw = _checked(_shaped(_read(name, data_dir, options, test_file, 0), image_shape), missing=missing)
    if classes:
        labelled, aliases = _as_labels(raw)
        _codes(labelled, aliases, classes)


def _shaped(raw: Raw, image_shape: Sequence[int]) -> Raw:
    if not image_shape:
        return raw
    if math.prod(image_shape) != raw.X.shape[1] or len(image_shape) != 3:
        raise UsageError(
            f"image_shape must be (channels, height, width) of {raw.X.shape[1]} features, got {tuple(image_shape)}"
        )
    return replace(raw, shape=tuple(image_shape))


def training_table(data: Dataset) -> Table:
    """The training rows of a set that was not prepared; columns without names are called by their places."""
    return Table(data.X_train, data.columns or tuple(map(str, range(data.X_train.shape[1]))), data.values)


def prepared(data: Dataset, preparation: Preparation) -> Dataset:
    """The same set, with a preparation done to its rows.

    Raises
    ------
    UsageError
        As `Preparation.apply`.
    """
    train = training_table(data)
    return replace(
        data,
        X_train=preparation.apply(train),
        X_test=preparation.apply(replace(train, X=data.X_test)),
        columns=preparation.names,
        values={},
        notes=(*data.notes, *preparation.notes),
        preparation=preparation,
    )


def prepared_as(data: Dataset, statistics: str | Path) -> Dataset:
    """The same set, with done to it what a file of statistics says."""
    return prepared(data, Preparation.read(Path(statistics).expanduser()))


def _read(name: str, data_dir: str | Path | None, options: FileOptions, test_file: str | Path | None, seed: int) -> Raw:
    if name.startswith(memory.PREFIX) and test_file is None:
        rows, test = memory.read(name, options)
        return rows if test is None else _joined(rows, test, "X_test")
    check_source(name, data_dir, options, test_file)
    kind, _, spec = name.partition(":")
    file = kind_of(name)
    if file is not None:
        path = Path(name).expanduser()
        return read_file(path, options) if test_file is None else _with_test(path, file, options, test_file)
    if kind == regression_data.NAME:
        return regression_data.make(spec, seed)
    if kind == "synthetic":
        return synthetic.make(spec, seed)
    return read_known(name, data_dir) if name in KNOWN else read_folder(Path(name).expanduser())


def _with_test(path: Path, kind: str, options: FileOptions, test_file: str | Path) -> Raw:
    """Read the training and the test rows, each from its file."""
    test_path = Path(test_file).expanduser()
    if kind == "svm":
        return read_svm_pair(path, test_path, options)
    raw, test = read_file(path, options), read_file(test_path, replace(options, single=False))
    if raw.X_test is not None or test.X_test is not None:
        raise UsageError(f"{path} and {test_file} must have no test parts of their own, got one")
    return _joined(raw, test, str(test_path))


def _joined(raw: Raw, test: Raw, where: str) -> Raw:
    """Training rows, and test rows from somewhere, whose columns are found by name."""
    if raw.columns and raw.X.dtype == np.float32:
        test = replace(test, X=test.X.astype(np.float32))
    if raw.columns and test.columns:
        both = join(Table(raw.X, raw.columns, raw.values), Table(test.X, test.columns, test.values), where)
        return replace(raw, X_test=both.X, y_test=test.y, values=both.values, notes=(*raw.notes, *test.notes))
    return replace(raw, X_test=test.X, y_test=test.y)


def _checked(raw: Raw, *, missing: bool) -> Raw:
    """Check both parts; `raw.y_test` is then never None where `raw.X_test` is not."""
    if raw.X_test is None or raw.y_test is None:
        X, y = check_part(raw.X, raw.y, raw.name, raw.columns, raw.where, missing=missing)
        return replace(raw, X=X, y=y)
    X, y = check_part(raw.X, raw.y, f"the training part of {raw.name}", raw.columns, raw.where, missing=missing)
    X_test, y_test = check_part(raw.X_test, raw.y_test, f"the test part of {raw.name}", raw.columns, missing=missing)
    if X.shape[1] != X_test.shape[1]:
        raise UsageError(f"test part of {raw.name} must have {X.shape[1]} columns, got {X_test.shape[1]}")
    if (y.dtype.kind == "U") != (y_test.dtype.kind == "U"):
        y, y_test = y.astype(str), y_test.astype(str)
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


def split(raw: Raw, fraction: float, seed: int, by_class: bool) -> Raw:
    """Draw a test part if the set has none; of few rows none may be drawn."""
    if raw.X_test is not None:
        return raw
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(raw.y == k) for k in range(len(raw.names))] if by_class else [np.arange(len(raw.y))]
    test = np.zeros(len(raw.y), dtype=bool)
    for rows in strata:
        test[rng.permutation(rows)[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    train, rest = np.flatnonzero(~test), np.flatnonzero(test)
    if isinstance(raw.X, FileRows):
        X, X_test = _taken(raw.X, train), _taken(raw.X, rest)
        return replace(raw, X=X, y=raw.y[train], X_test=X_test, y_test=raw.y[rest])
    X = _sorted(raw.X, np.concatenate([train, rest]))
    groups = None if raw.groups is None else raw.groups[train]
    cut = len(train)
    return replace(raw, X=X[:cut], y=raw.y[train], X_test=X[cut:], y_test=raw.y[rest], groups=groups)


def _sorted(X: NDArray[Any], order: NDArray[np.intp]) -> NDArray[Any]:
    """Put the rows in an order, in place and some columns at a time: a table that fills the memory is never copied."""
    if not X.flags.writeable:
        return X[order]
    step = max(1, X.shape[1] // 16)
    for start in range(0, X.shape[1], step):
        X[:, start : start + step] = X[order, start : start + step]
    return X


def _select(raw: Raw, aliases: dict[str, int], classes: Sequence[str], max_rows: int | None) -> Dataset:
    """Keep the wanted classes, number them in the wanted order, then cut the training part."""
    assert raw.X_test is not None  # split saw to it
    assert raw.y_test is not None
    wanted = len(raw.y_test) > 0
    groups = raw.groups
    if not raw.names:
        parts = (_taken(raw.X, np.arange(len(raw.X))[:max_rows]), raw.y[:max_rows], raw.X_test, raw.y_test)
    else:
        codes = _codes(raw, aliases, classes)
        groups = None if groups is None else groups[np.isin(raw.y, codes)]
        parts = (*_rows(raw.X, raw.y, codes, max_rows), *_rows(raw.X_test, raw.y_test, codes, None))
        counts = np.bincount(parts[1], minlength=len(codes))
        if not counts.all():
            lost = raw.names[codes[int(counts.argmin())]]
            raise UsageError(f'class "{lost}" must have a training row, got none in {len(parts[1])} rows of {raw.name}')
        raw = replace(raw, names=tuple(raw.names[code] for code in codes))
    if wanted and not len(parts[3]):
        raise UsageError(f"test part of {raw.name} must have at least one row, got none")
    return Dataset(
        raw.name,
        *parts,
        classes=raw.names,
        groups=None if groups is None else groups[:max_rows],
        coefficients=raw.coefficients,
        shape=raw.shape,
        columns=raw.columns,
        values=raw.values,
        notes=raw.notes,
        rounded=raw.X.dtype == np.float32,
    )


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
    return _taken(X, keep), labels[keep]


def _taken(X: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Some rows, in their order."""
    if len(rows) == len(X):
        return X
    return cast(NDArray[Any], X.rows(rows)) if isinstance(X, FileRows) else X[rows]
