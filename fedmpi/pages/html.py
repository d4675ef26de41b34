"""Pieces of a page that needs no network and no script. All text in it is escaped here."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fedmpi.pages.palette import MARKS, css, style

# Nothing may be loaded from anywhere, whatever a run folder holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_MOST_LETTERS = 500
"""Of one cell."""


Rows = Mapping[str, Sequence[Any]] | Sequence[tuple[str, Sequence[Any]]]


class Markup(str):
    """HTML, whose text has been escaped: a table takes it as it is."""

    __slots__ = ()


def page(title: str, body: Iterable[str]) -> str:
    """A whole page.

    Parameters
    ----------
    body : iterable of str
        HTML.
    """
    sheet = css() + resources.files("fedmpi.pages").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{sheet}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Rows, *, mark: bool = False, corner: str = "") -> str:
    """A table with a name before each row; where the window is narrow, each row becomes a list of its cells.

    Parameters
    ----------
    rows : mapping, or sequence of pairs where names repeat
        Names and cells, text or `Markup`.
    mark : bool
        Show the rows whose cells differ.
    corner : str
        What the names are.
    """
    header = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in [corner, *head])
    body = []
    for name, cells in rows.items() if isinstance(rows, Mapping) else rows:
        texts = [cell if isinstance(cell, Markup) else escape(text(cell)) for cell in cells]
        css_class = ' class="differs"' if mark and len(set(texts)) > 1 else ""
        first = name if isinstance(name, Markup) else escape(name)
        named = zip(head, texts, strict=False)
        line = "".join(f'<td{css_class} data-head="{escape(column)}">{cell}</td>' for column, cell in named)
        body.append(f'<tr><th scope="row">{first}</th>{line}</tr>')
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def facts(rows: Mapping[str, Any]) -> str:
    """Names and what is to be said of each, text or `Markup`, that breaks its lines where it must."""
    lines = (
        f"<dt>{escape(name)}</dt><dd>{value if isinstance(value, Markup) else escape(text(value))}</dd>"
        for name, value in rows.items()
    )
    return f'<dl class="facts">{"".join(lines)}</dl>'


def mark(color: int, shape: int, x: float, y: float) -> str:
    """The mark of a line, in SVG."""
    return f'<path class="mark s{color}" transform="translate({x:.1f} {y:.1f})" d="{MARKS[shape][1]}"/>'


def key(name: str, number: int) -> Markup:
    """A name behind its mark, as in the charts."""
    color, shape = style(number)
    return Markup(
        f'<span class="key"><svg class="sign" viewBox="-5 -5 10 10" aria-hidden="true">{mark(color, shape, 0, 0)}</svg>'
        f"{escape(name)}</span>"
    )


def image(path: Path, description: str) -> str:
    """A PNG file, in the page itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">'


def folded(title: str, content: str, *, opened: bool = False) -> str:
    """What is shown when it is asked for."""
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{content}</details>"


def cards(pictures: Mapping[str, str]) -> str:
    """Pictures beside one another, each with a title."""
    return '<div class="cards">' + "".join(card(title, picture) for title, picture in pictures.items()) + "</div>"


def card(title: str, content: str) -> str:
    """One picture, or other HTML, with a title."""
    return f'<figure class="card"><h3>{escape(title)}</h3><div class="wide">{content}</div></figure>'


def legend(names: Mapping[str, int]) -> str:
    """Which name has which colour and mark."""
    return f'<ul class="legend">{"".join(f"<li>{key(name, number)}</li>" for name, number in names.items())}</ul>'


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
