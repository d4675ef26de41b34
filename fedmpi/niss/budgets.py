"""What single clients ask for: ε_k, σ_k and τ_k² of Theorem 2's general form, from a file with a line for each."""

import csv
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from fedmpi.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = ("epsilon", "noise_std", "tau_squared")
"""Options of which a client can have its own value."""

NONE: "Mapping[str, float]" = MappingProxyType({})


def contents(given: str) -> str:
    """The text of a file; or what was given, where that is the text itself, as in config.toml of a run.

    Raises
    ------
    UsageError
        If it can't be read.
    """
    if "\n" in given:
        return given
    try:
        lines = Path(given).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are no text"
        raise UsageError(f"--budgets must be a readable file, got {given}: {reason}") from None
    return "".join(f"{line.strip()}\n" for line in lines if line.strip()) or "\n"


@lru_cache(maxsize=16)
def budgets(text: str) -> "tuple[Mapping[str, float], ...]":
    """Of each client the options that it has a value of its own for.

    Raises
    ------
    UsageError
        Naming the line that breaks a rule.
    """
    head, *lines = list(csv.reader(text.splitlines())) or [[]]
    names = [name.strip().replace("-", "_") for name in head]
    if not names or len(set(names)) < len(names) or not set(names) <= set(COLUMNS):
        got = ",".join(head)[:80]
        raise UsageError(f"the first line of --budgets must name columns of {', '.join(COLUMNS)}, got {got!r}")
    return tuple(_budget(names, cells, number) for number, cells in enumerate(lines, 2))


def _budget(names: list[str], cells: list[str], number: int) -> "Mapping[str, float]":
    if len(cells) != len(names):
        raise UsageError(f"line {number} of --budgets must have {len(names)} cells, got {len(cells)}")
    found = {}
    for name, cell in zip(names, cells, strict=True):
        if not cell.strip():
            continue
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if not (value > 0 if name == "epsilon" else value >= 0) or value == float("inf"):
            rule = "positive" if name == "epsilon" else "a number of at least 0"
            raise UsageError(f"line {number} of --budgets: {name} must be {rule}, got {cell.strip()}")
        found[name] = value
    return MappingProxyType(found)
