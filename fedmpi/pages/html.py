"""Pieces of a page that needs no network and no script. All text in it is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

# Nothing may be loaded from anywhere, whatever a run folder holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_MOST_LETTERS = 500
"""Of one cell."""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page.

    Parameters
    ----------
    body : iterable of str
        HTML.
    """
    style = resources.files("fedmpi.pages").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Mapping[str, Sequence[Any]], *, mark: bool = False) -> str:
    """A table with a name before each row.

    Parameters
    ----------
    mark : bool
        Show the rows whose cells differ.
    """
    lines = ["".join(f'<th scope="col">{escape(cell)}</th>' for cell in ["", *head])]
    for name, cells in rows.items():
        texts = [text(cell) for cell in cells]
        css = ' class="differs"' if mark and len(set(texts)) > 1 else ""
        lines.append(
            f'<th scope="row">{escape(name)}</th>' + "".join(f"<td{css}>{escape(cell)}</td>" for cell in texts)
        )
    header, *body = (f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead>{header}</thead><tbody>{"".join(body)}</tbody></table></div>'


def cards(pictures: Mapping[str, str]) -> str:
    """Pictures beside one another, each with a title."""
    return '<div class="cards">' + "".join(card(title, picture) for title, picture in pictures.items()) + "</div>"


def card(title: str, content: str) -> str:
    """One picture, or other HTML, with a title."""
    return f'<figure class="card"><h3>{escape(title)}</h3><div class="wide">{content}</div></figure>'


def legend(names: Mapping[str, int]) -> str:
    """Which name has which colour."""
    items = "".join(f'<li class="s{color}">{escape(name)}</li>' for name, color in names.items())
    return f'<ul class="legend">{items}</ul>'


def text(value: Any, depth: int = 2) -> str:
    """A value for people: numbers rounded, lists and objects on one line, as deep as `depth` says."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | dict) and depth == 0:
        return "…"
    if isinstance(value, list):
        return " ".join(text(one, depth - 1) for one in value[:50])[:_MOST_LETTERS] or "–"
    if isinstance(value, dict):
        pairs = (f"{key} {text(one, depth - 1)}" for key, one in list(value.items())[:50])
        return ", ".join(pairs)[:_MOST_LETTERS] or "–"
    return str(value)[:_MOST_LETTERS]
