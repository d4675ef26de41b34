"""Tables: CSV with all digits, Markdown with rounded ones."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """One line per row, all digits; `columns` where there may be no row to tell them."""

    def cell(value: Any) -> Any:
        # Names can come from somebody's run folder: a spreadsheet must not take one for a formula.
        return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t") else value

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table, numbers rounded."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}" if value < 100 else f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    return "\n".join([line(rows[0]), line("---" for _ in rows[0]), *(line(map(text, r.values())) for r in rows)])
