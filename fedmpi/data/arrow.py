"""Parquet and Feather, read by pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.builder import Block, Builder, Cells, Layout, lay_out
from fedmpi.data.dataset import Raw
from fedmpi.data.options import FileOptions
from fedmpi.errors import UsageError

ROWS = 1 << 12  # of a block
READ = 1 << 15  # bytes of a column that are read at once; else all of a row group is


def read_arrow(path: Path, options: FileOptions) -> Raw:
    """Read a .parquet or .feather file.

    Whole numbers stay what they are where they are labels; categories are text, and one that is null is missing.

    Raises
    ------
    UsageError
        If pyarrow is missing, or a column holds dates, lists or the like.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UsageError(
            f'pyarrow must be installed to read {path} (pip install "fedmpi[data]"), got {error}'
        ) from None
    try:
        schema, rows, batches = _open(path)
        names = ["" if name.startswith("__index_level_") else name for name in schema.names]
        index = [k for k, name in enumerate(names) if not name]  # of pandas, which puts it after the columns
        layout = lay_out(str(path), names, options, empty=index)
        for k in layout.used:
            _check_type(f'column "{layout.names[k]}" of {path}', schema.field(k).type)
        builder = Builder(str(path), layout, rows, single=options.single)
        for batch in batches:
            batch.validate(full=True)  # a damaged file may point anywhere
            builder.add(block_of(layout, batch.select(layout.used)))
        del batches
        pa.default_memory_pool().release_unused()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    return builder.finish(path.name, lambda row: f" in row {row} (counted from 0)")


def _open(path: Path) -> tuple[Any, int, Iterator[Any]]:
    """Return the schema, the number of rows where it stands in the file, else 0, and the blocks, none of them read."""
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ)
        return file.schema_arrow, file.metadata.num_rows, file.iter_batches(ROWS)
    from pyarrow import ipc, memory_map

    file = ipc.open_file(memory_map(str(path)))
    return file.schema, 0, (file.get_batch(k) for k in range(file.num_record_batches))


def _check_type(name: str, kind: Any) -> None:
    from pyarrow import types

    if types.is_temporal(kind):
        raise UsageError(
            f"{name} must hold numbers or categories, got dates or times ({kind}): "
            "make a number of them, such as days since the first, or remove the column"
        )
    if types.is_dictionary(kind):
        return _check_type(name, kind.value_type)
    text = (types.is_string, types.is_large_string, types.is_string_view)
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    if not any(check(kind) for check in (*text, *numbers)):
        raise UsageError(f"{name} must hold numbers or text, got {kind}")
    return None


def block_of(layout: Layout, batch: Any) -> Block:
    """Return rows whose columns are those that the layout uses."""
    import pyarrow as pa

    place_of = {place: k for k, place in enumerate(layout.used)}
    places, features, kinds = layout.used, None, batch.schema.types
    if not layout.wanted and {kinds[place_of[place]] for place in layout.features} == {pa.float64()}:
        features = batch.select([place_of[place] for place in layout.features])
        features = features.to_tensor(null_to_nan=True, row_major=False).to_numpy()
        places = [place for place in (layout.label, layout.group) if place is not None]
    columns = {place: column_of(batch.column(place_of[place]), place in layout.wanted) for place in places}
    return Block(columns, len(batch), features)


def column_of(column: Any, text: bool = False) -> Cells:
    """Return a column of one block as numbers, or as codes and text.

    Parameters
    ----------
    column : pyarrow.Array
    text : bool
        Numbers too become text.
    """
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        # not `to_numpy` of the column: a null would become another category
        values = column.dictionary.cast(pa.string()).to_pylist()
        return _plain(column.indices, pa.int64(), -1), ["" if value is None else value for value in values]
    # a label beyond int64 is a name: no digit of it may go
    if text or kind == pa.uint64() or not (types.is_primitive(kind) or types.is_decimal(kind)):
        return column_of(column.cast(pa.string()).dictionary_encode())
    whole = types.is_integer(kind) and not column.null_count
    return _plain(column, pa.int64() if whole else pa.float64(), np.nan)


def _plain(column: Any, kind: Any, missing: float) -> NDArray[Any]:
    """Return an array of Arrow as one of numpy; without `to_numpy`, which imports pandas where that is installed."""
    import pyarrow as pa

    if column.type == pa.bool_():
        column = column.cast(pa.uint8())
    if column.type != kind:
        column = column.cast(kind, safe=False)
    return np.from_dlpack(column.fill_null(pa.scalar(missing, kind)) if column.null_count else column)
