"""Every field of every message is attacked in a row of the audit's table, or its reason stands in an explicit list."""

from pathlib import Path

import pytest
from faults.test_hostile_frames import TYPES

from fedmpi.audit.fields import ATTACKED, COUNTERS, NOT_ATTACKED, answered

TABLE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")

FIELDS = [
    (cls.__module__.split(".")[1], cls.__name__, name)
    for cls in TYPES
    if cls.__module__.split(".")[1] not in ("attacks", "bench")  # no training sends these
    for name in cls._types
]


def test_every_field_is_attacked_or_has_its_reason() -> None:
    """A new field fails here until somebody says what attacks it, unless its whole message has a reason."""
    assert [".".join(one) for one in FIELDS if not answered(*one)] == []


@pytest.mark.parametrize("field", ATTACKED)
def test_the_row_is_in_the_table(field: str) -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("| ")]
    assert any(ATTACKED[field] in row for row in rows), ATTACKED[field]


def test_no_list_names_what_is_not_there() -> None:
    """Fields that were renamed leave nothing behind."""
    there = {".".join(one[:length]) for one in FIELDS for length in (1, 2, 3)}
    assert {*ATTACKED, *NOT_ATTACKED} - there == set()
    assert COUNTERS - {name for _, _, name in FIELDS} == set()
