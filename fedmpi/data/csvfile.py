"""CSV as people and spreadsheets write it: read by pyarrow where that is installed, else, if it is plain, by numpy."""

import csv
import io
import itertools
import os
import re
import warnings
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedmpi.data.builder import Block, Builder, Cells, Layout, lay_out
from fedmpi.data.dataset import Raw, open_binary
from fedmpi.data.options import FileOptions
from fedmpi.data.table import MISSING, is_number
from fedmpi.errors import UsageError

SAMPLE, SAMPLE_SIZE = 500, 1 << 20  # lines and characters that are looked at to find out how the file is laid out
MAX_LINE = 1 << 25  # characters; a small packed file may unpack to one line without an end
PLAIN_SUFFIXES = (".csv", ".tsv")
PART, AHEAD = 1 << 21, 2  # bytes of a large plain file that are read on their own, and how many such side by side
SEPARATORS = (";", "\t", "|", ",")  # the comma last: it is in decimal numbers too
COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
WITHOUT_PYARROW = 'text and missing values need pyarrow: pip install "fedmpi[data]"'


@dataclass(frozen=True)
class _Form:
    """How a file is laid out; `skip` counts the lines before the data, a header among them."""

    delimiter: str
    decimal: str
    layout: Layout
    skip: int
    text: frozenset[int]
    """The columns of text, labels and groups among them."""
    head: int
    """Bytes before the data."""
    width: int
    """Characters of the longest line that was looked at."""
    line: float
    """Characters of a line, on average."""


def read_csv(path: Path, options: FileOptions) -> Raw:
    """Read a table of text, plain or packed.

    Cells are separated by ``,``, ``;``, ``|`` or tabs. A first line of names is found by itself. Numbers come back as
    float64 to the last bit, columns of text as codes. Labels and groups are text first, so that no digit is lost.

    Raises
    ------
    UsageError
        If the file breaks a rule; with the column and the line.
    """
    form = _sniff(path, options)
    guess = int(path.stat().st_size / form.line * 1.02) if path.suffix.lower() in PLAIN_SUFFIXES else 0
    builder = Builder(str(path), form.layout, guess=guess, decimal=form.decimal, single=options.single)
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        _with_numpy(path, form, builder)
    else:
        _with_pyarrow(path, form, builder)
    return builder.finish(path.name, lambda row: f" in line {_line(path, form, row)}")


def _with_pyarrow(path: Path, form: _Form, builder: Builder) -> None:
    import pyarrow as pa
    from pyarrow import csv as reader

    from fedmpi.data.arrow import block_of

    layout = form.layout
    text = pa.dictionary(pa.int32(), pa.string())
    # names may repeat among columns that are left out: places do not
    names = [str(k) for k in range(len(layout.names))]

    def parse(*, quoted: bool) -> reader.ParseOptions:
        return reader.ParseOptions(
            delimiter=form.delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=quoted,
            invalid_row_handler=lambda row: "error" if row.text.strip() else "skip",
        )

    convert = reader.ConvertOptions(
        column_types={str(k): text if k in form.text else pa.float64() for k in layout.used},
        include_columns=[str(k) for k in layout.used],
        null_values=[cell for value in sorted(MISSING) for cell in (value, f" {value}", f"{value} ")],
        strings_can_be_null=True,
        decimal_point=form.decimal,
    )

    def blocks_of(file: int, start: int, end: int) -> list[Block] | None:
        """Read whole lines; None if a cell is quoted, as then a line need not end a row."""
        part = os.pread(file, end - start, start)
        if b'"' in part:
            return None
        if part.isspace():
            return []
        options = reader.ReadOptions(column_names=names, block_size=len(part) + 1, use_threads=False)
        found = reader.read_csv(pa.BufferReader(part), options, parse(quoted=False), convert)
        return [builder.rounded(block_of(layout, batch)) for batch in found.to_batches()]

    try:
        with open_binary(path) as file:
            place = len(file.read(form.head))
            if path.suffix.lower() in PLAIN_SUFFIXES and path.stat().st_size > 2 * PART:
                for end, blocks in _in_order(blocks_of, cast(io.BufferedReader, file), place):
                    if blocks is None:
                        break
                    for block in blocks:
                        builder.add(block)
                    place = end
                file.seek(place)
            if not cast(io.BufferedReader, file).peek(1):
                return
            options = reader.ReadOptions(column_names=names, block_size=max(1 << 20, 64 * form.width))
            for batch in reader.open_csv(file, options, parse(quoted=True), convert):
                builder.add(block_of(layout, batch))
    except pa.ArrowException as error:
        if "Empty CSV" in str(error):
            raise UsageError(f"{path} must have rows of data, got none") from None
        _blame(path, form)
        raise ValueError(str(error)) from None


def _in_order(
    work: Callable[[int, int, int], list[Block] | None], file: io.BufferedReader, start: int
) -> Iterator[tuple[int, list[Block] | None]]:
    """Where each part of a file ends, and what comes of it; a few are worked on side by side."""
    with ThreadPoolExecutor(AHEAD) as pool:
        under_way: deque[tuple[int, Future[list[Block] | None]]] = deque()
        for end in _ends(file, start):
            under_way.append((end, pool.submit(work, file.fileno(), start, end)))
            start = end
            if len(under_way) > AHEAD:
                end, future = under_way.popleft()
                yield end, future.result()
        for end, future in under_way:
            yield end, future.result()


def _ends(file: io.BufferedReader, start: int) -> Iterator[int]:
    """Where the parts of a file end, each with a line; less than one part comes after them."""
    size = os.fstat(file.fileno()).st_size
    while start + PART < size:
        file.seek(start + PART)
        if not file.readline(MAX_LINE).endswith(b"\n"):
            return
        yield (start := file.tell())


def _with_numpy(path: Path, form: _Form, builder: Builder) -> None:
    """Read numbers; text only in the columns of labels and groups."""
    layout = form.layout
    others = [place for place in (layout.label, layout.group) if place is not None]
    if form.text.difference(others):
        _blame(path, form, WITHOUT_PYARROW)
        raise UsageError(f"columns of {path} must be numbers, got categories: {WITHOUT_PYARROW}")
    codes: dict[int, dict[str, int]] = {place: {} for place in others}

    def code(place: int, cell: str) -> int:
        return codes[place].setdefault(cell.strip(), len(codes[place]))

    def number(cell: str) -> float:
        return float(cell.replace(",", "."))

    converters: dict[int, Any] = dict.fromkeys(layout.features, number) if form.decimal == "," else {}
    converters |= {place: lambda cell: 0.0 for place in layout.left_out}
    converters |= {place: lambda cell, place=place: code(place, cell) for place in others}
    try:
        with _open_text(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "input contained no data": said below
            table: NDArray[np.float64] = np.loadtxt(  # type: ignore[call-overload]  # of text, not of bytes
                file,
                delimiter=form.delimiter,
                quotechar='"',
                comments=None,
                skiprows=form.skip,
                ndmin=2,
                converters=converters or None,
            )
    except ValueError:
        _blame(path, form, WITHOUT_PYARROW)
        raise

    def column(place: int) -> Cells:
        cells: NDArray[np.float64] = table[:, place] if table.size else np.empty(0)
        return (cells.astype(np.intp), list(codes[place])) if place in codes else cells

    builder.add(Block({place: column(place) for place in layout.used}, len(table) if table.size else 0))


def _open_text(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="")  # -sig: spreadsheets add a BOM


# ------------------------------------------------------------------ how a file is laid out


def _sniff(path: Path, options: FileOptions) -> _Form:
    lines = _sample(path)
    skip = next((k for k, line in enumerate(lines) if line.strip()), None)
    if skip is None:
        raise UsageError(f"{path} must have rows of data, got an empty file")
    delimiter = _delimiter(lines[skip:])
    reader = csv.reader(lines[skip:], delimiter=delimiter)
    first = [" ".join(cell.split()) for cell in next(filter(_filled, reader))]
    lines_of_first = reader.line_num  # a name may have several lines
    body = [[cell.strip() for cell in row] for row in reader if _filled(row)]
    if len(first) > 1 and body and all(len(row) == len(first) + 1 for row in body):
        first = ["", *first]  # R names the columns, but not the one of the rows' names
    decimal = "," if delimiter != "," and _decimal_comma(body or [first]) else "."
    columns = [[row[k] for row in body if k < len(row)] for k in range(len(first))]
    given = (options.label_column, options.group_column, *options.categorical)
    wanted = {name for name in given if name and not is_number(name)}
    if header := bool(wanted.intersection(first)) or _is_header(first, columns, decimal):
        skip += lines_of_first
    else:
        columns = [[cell, *column] for cell, column in zip(first, columns, strict=True)]
    names = first if header else [str(k) for k in range(len(first))]
    empty = {k for k, column in enumerate(columns) if all(cell in MISSING for cell in column)}
    layout = lay_out(str(path), names, options, empty=empty, named=header)
    text = {place for place in (layout.label, layout.group, *layout.wanted) if place is not None}
    for k in layout.features:
        kinds = {_is_number(cell, decimal) for cell in columns[k] if cell not in MISSING}
        # numbers among text in the sample: read as text, of which the builder finds the right thing to say
        text |= {k} if False in kinds else set()
    with open_binary(path) as file:
        mark = len(BOM_UTF8) if skip and file.read(len(BOM_UTF8)) == BOM_UTF8 else 0
    head, lengths = mark + len("".join(lines[:skip]).encode()), [len(line) for line in lines]
    return _Form(delimiter, decimal, layout, skip, frozenset(text), head, max(lengths), sum(lengths) / len(lengths))


def _sample(path: Path) -> list[str]:
    """The first lines: so many, or so long, as tell what the others are like."""
    lines: list[str] = []
    with _open_text(path) as file:
        while len(lines) < SAMPLE and (len(lines) < 3 or sum(map(len, lines)) < SAMPLE_SIZE):
            lines.append(file.readline(MAX_LINE))
            if not lines[-1]:
                return lines[:-1]
            if len(lines[-1]) == MAX_LINE:
                raise UsageError(f"lines of {path} must have fewer than {MAX_LINE >> 20} Mi characters, got more")
    return lines


def _filled(row: list[str]) -> bool:
    return any(cell.strip() for cell in row)


def _is_number(cell: str, decimal: str) -> bool:
    return is_number(cell.replace(",", ".", 1) if decimal == "," else cell)


def _delimiter(lines: list[str]) -> str:
    """The first separator that cuts all lines into the same number of cells, else the one that cuts the first most."""
    for delimiter in SEPARATORS:
        counts = {len(row) for row in csv.reader(lines, delimiter=delimiter) if _filled(row)}
        if len(counts) == 1 and counts != {1}:
            return delimiter
    return max(reversed(SEPARATORS), key=lambda delimiter: len(next(csv.reader(lines, delimiter=delimiter))))


def _decimal_comma(rows: list[list[str]]) -> bool:
    cells = [cell for row in rows for cell in row]
    pointed = any("." in cell and is_number(cell) for cell in cells)
    return not pointed and any(COMMA_NUMBER.fullmatch(cell) for cell in cells)


def _is_header(first: list[str], columns: list[list[str]], decimal: str) -> bool:
    """Tell whether the first line holds names.

    It does if none of its cells is a number, unless most stand again below; if one is text above numbers or a number
    above text; if all of its text is new to columns of a few texts; or if it counts its columns from 0 or 1, as pandas
    does where there are no names, above fractions.
    """
    numbers = [_is_number(cell, decimal) for cell in first]
    if not any(numbers):
        again = sum(cell in column for cell, column in zip(first, columns, strict=True))
        return again <= len(first) / 2
    strange = []  # whether a cell is none of the few texts below it
    for cell, is_one, column in zip(first, numbers, columns, strict=True):
        below = {_is_number(other, decimal) for other in column if other not in MISSING}
        if cell not in MISSING and below == {not is_one} and (not is_one or len(column) > 2):
            return True
        if not is_one and below == {False}:
            strange.append(cell not in column and 2 * len(set(column)) <= len(column))
    if strange and all(strange):
        return True
    named = first[1:] if first[0] == "" else first
    counted = any(named == [str(k + start) for k in range(len(named))] for start in (0, 1))
    fractions = any("." in cell or (decimal == "," and "," in cell) for column in columns for cell in column)
    return counted and (len(first) > len(named) or fractions)


# ------------------------------------------------------------------ where something stands


def _records(path: Path, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Every row of data with the number of its last line; rows without a value are left out, as in the table."""
    kept = form.layout.used
    with _open_text(path) as file:
        for _ in range(form.skip):
            file.readline()
        rows = csv.reader(file, delimiter=form.delimiter)
        for row in rows:
            cells = [cell.strip() for cell in row]
            if _filled(cells) and not (len(cells) > max(kept) and all(cells[k] in MISSING for k in kept)):
                yield rows.line_num + form.skip, cells


def _line(path: Path, form: _Form, row: int) -> int:
    return next(itertools.islice(_records(path, form), row, None))[0]


def _blame(path: Path, form: _Form, advice: str = "") -> None:
    """Name the line and column that a reader stumbled over."""
    names = form.layout.names
    numbers = [k for k in form.layout.features if advice or k not in form.text]
    for line, cells in _records(path, form):
        if len(cells) != len(names):
            raise UsageError(f"{path} must have {len(names)} cells in each line, got {len(cells)} in line {line}")
        for k in numbers:
            if not _is_number(cells[k], form.decimal) and (advice or cells[k] not in MISSING):
                advice = advice or "correct it, or name the column in categorical"
                raise UsageError(
                    f'column "{names[k]}" of {path} must hold numbers, got "{cells[k]}" in line {line}: {advice}'
                )
