"""The table of an audit, with pictures: report.html, report.md, audit.csv, pictures/*.png."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import Any

import numpy as np

from fedmpi.audit.finding import Finding
from fedmpi.audit.page import html
from fedmpi.errors import UsageError
from fedmpi.pages import figures
from fedmpi.pages.tables import markdown, write_csv

TABLE = "audit.csv"

INTRODUCTION = """# Privacy audit

Adversaries use what their ranks received, as recorded with `--record-views`, and what is public; a judge that has the
data says how good they were. A row of the table counts attempts (clients, coalitions or units, over all seeds); it is
broken if guessing would have as many successes in fewer than 1 of 100 audits. *Survives this attack* is no proof.

Where a run prints an ε, the column beside it has a lower bound on the true one. The adversary is told two inputs that
differ by as much as the ε allows for, and guesses from what it saw which of them was there. *ε is at least* is what its
guesses show with a confidence of 99 %: the more attempts there are, the larger the ε that they can show. A bound above
the printed ε refutes it; one below it proves nothing.
"""


def check(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier report: it will be replaced.

    Raises
    ------
    UsageError
    """
    if folder.is_symlink():
        raise UsageError(f"the report's folder must be no link, got {folder}")
    if folder.exists() and not (folder / TABLE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"the report's folder must be new, or that of an earlier report, got {folder}")


def write(findings: Sequence[Finding], folder: Path, how: str) -> Path:
    """Write the report; a folder of an earlier one is replaced when the new one is whole.

    Parameters
    ----------
    findings : sequence of Finding
    folder : Path
    how : str
        The command, and what was run.

    Returns
    -------
    Path
        Of report.html.

    Raises
    ------
    UsageError
        If the folder holds anything else.
    """
    check(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.{token_hex(4)}")
    new.mkdir(0o755)
    try:
        _fill(findings, new, how)
        if folder.exists():
            old = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old."))
            folder.rename(old / folder.name)
            new.rename(folder)
            shutil.rmtree(old)
        else:
            new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return folder / "report.html"


def _fill(findings: Sequence[Finding], folder: Path, how: str) -> None:
    rows = [one.cells | {"picture": picture(one, number, folder)} for number, one in enumerate(findings, 1)]
    write_csv(folder / TABLE, rows)
    figures.heatmap(folder / "overview.png", "Successes of the best attack", *overview(findings))
    sections = [INTRODUCTION, how, markdown([_linked(row) for row in rows])]
    curves: dict[str, Any] = {name: curve for one in findings for name, curve in one.curves.items()}
    sections.append("![successes of the best attack](overview.png)")
    if curves:
        figures.roc(folder / "pictures" / "membership.png", "Membership by loss", curves)
        sections.append("## Membership by loss\n\n![membership](pictures/membership.png)")
    (folder / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    pictures = {k: str(row["picture"]) for k, row in enumerate(rows)}
    (folder / "report.html").write_text(html(findings, pictures, how, folder), encoding="utf-8", errors="replace")


def text(findings: Sequence[Finding]) -> str:
    """The table for a terminal."""
    epsilons = ("ε printed", "ε is at least") if any(one.game for one in findings) else ()
    columns = ("method", "adversary", "saw", "attack", "successes", "median", *epsilons, "verdict")
    rows = [dict(zip(columns, columns, strict=True)), *(one.cells for one in findings)]
    widths = [max(len(row[name]) for row in rows) for name in columns]
    return "\n".join(
        "  ".join(row[name].ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip() for row in rows
    )


def overview(findings: Sequence[Finding]) -> tuple[list[str], list[str], np.ndarray[Any, np.dtype[np.float64]]]:
    """Methods, adversaries with what they want, and the largest part of successes; NaN where nothing was tried."""
    rows = list(dict.fromkeys(f"{one.system}: {one.method}" for one in findings))
    columns = list(dict.fromkeys(f"{one.adversary}: {one.target}" for one in findings))
    values = np.full((len(rows), len(columns)), np.nan)
    for one in findings:
        at = rows.index(f"{one.system}: {one.method}"), columns.index(f"{one.adversary}: {one.target}")
        values[at] = np.nanmax([values[at], one.part])
    return rows, columns, values


def picture(one: Finding, number: int, folder: Path) -> str:
    """Draw what was found beside what was hidden; returns the name of the file, empty where there is none."""
    if not one.images:
        return "pictures/membership.png" if one.curves else ""
    words = re.findall(r"[\w.]+", f"{one.system} {one.method} {one.adversary}", re.ASCII)
    name = f"pictures/{number:02d}-{'-'.join(words)}.png"
    figures.gallery(folder / name, one.images)
    return name


def _linked(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"picture": f"[picture]({row['picture']})" if row["picture"] else ""}
