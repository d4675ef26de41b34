"""Tables: CSV with all digits, Markdown with rounded ones."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmpi.files import replace_file


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """One line per row, all digits; `columns` where there may be no row to tell them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]))
    writer.writeheader()
    writer.writerows({name: plain(value) for name, value in row.items()} for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.getvalue().encode(errors="replace"))


def plain(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; -1.5 and the like are numbers.

    Names can come from somebody's run folder or table.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table, numbers rounded."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    return "\n".join([line(rows[0]), line("---" for _ in rows[0]), *(line(map(text, r.values())) for r in rows)])
