"""Every message of an error that is raised on purpose says what must be how, and what was got."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedmpi

ROOT = Path(fedmpi.__file__).parent

RULED = {"UsageError", "HeadroomError", "ProtocolError"}

GIVEN = (
    "got ",
    "must not be given",
    "must be given",
    "must stand",
    "must be there",
    "must be written",
    "must be installed",
)
"""Where the rule says by itself what was got: nothing, or that it was there."""


def text_of(node: ast.expr) -> str | None:
    """A message as it is written, with {} for values; None where it is made elsewhere."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each message, but of those that only lead to one made elsewhere."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Raise(exc=ast.Call(func=ast.Name(id=name), args=[first, *_])) if name in RULED:
                text = text_of(first)
                if text is not None and not re.fullmatch(r"(\S+: )?\{\}(; \{\})*", text):
                    yield node.lineno, text


def wrong(source: str) -> list[tuple[int, str]]:
    """Messages of another form."""
    return [
        (line, text)
        for line, text in messages(source)
        if " must " not in text or not any(words in text for words in GIVEN) or "\n" in text
    ]


def test_every_message_names_the_rule_and_the_value() -> None:
    found = {path: wrong(path.read_text()) for path in ROOT.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert sum(1 for path in found for _ in messages(path.read_text())) > 200


@pytest.mark.parametrize("text", ["it is bad", "K must be 1", "K must be\\n1, got 2"])
def test_another_form_would_be_noticed(text: str) -> None:
    assert wrong(f'raise UsageError("{text}")')
    assert not wrong('raise UsageError(f"K must be 1, got {K}")')
