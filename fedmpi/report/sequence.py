"""The roles of a run, and who sent what to whom in one step of it, drawn from its frames.jsonl."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fedmpi.report.charts import quantity, svg
from fedmpi.runs.reading import NAME, Run, number

_MOST_ROLES = 6
_MOST_ARROWS = 40

_GAP = 122
"""Between two lifelines."""

_SIDE = 62
"""Between the outer ones and the edges."""

Kind = tuple[str, str, str]
"""Message type, the sender's role, the receiver's."""


@dataclass(frozen=True)
class Arrow:
    """All messages of one kind in one step."""

    kind: Kind
    count: int
    """As rank 0 saw them; 0 if they pass it by."""
    mean_bytes: float


def sections(run: Run) -> dict[str, list[Arrow]]:
    """Title → arrows in order: the setup, the last step that was recorded, and the end."""
    frames = [frame for frame in run.frames if _kind(frame) is not None and number(frame.get("by")) is not None]
    # Others may have met other rounds first, where not everybody takes part in each.
    steps = sorted({frame["step"] for frame in frames if isinstance(frame.get("step"), int) and frame["by"] == 0})
    titles: dict[Any, str] = {"start": "setup"}
    if steps:
        halves = any(frame["type"] == "CodedVectors" for frame in frames)  # two of them are an iteration of codedml
        titles[steps[-1]] = (
            f"{'round' if 'rounds' in run.config else 'exchange' if halves else 'iteration'} {steps[-1]}"
        )
    titles["end"] = "end"
    found = {title: _arrows([f for f in frames if f.get("step") == step]) for step, title in titles.items()}
    return {title: arrows for title, arrows in found.items() if arrows}


def _kind(frame: Mapping[str, Any]) -> Kind | None:
    names = frame.get("type"), frame.get("from"), frame.get("to")
    if all(isinstance(name, str) and NAME.fullmatch(name.replace(" ", "_")) for name in names):
        return names  # type: ignore[return-value]
    return None


def _arrows(frames: Sequence[Mapping[str, Any]]) -> list[Arrow]:
    by_rank: dict[Any, dict[Kind, None]] = {}
    sizes: dict[Kind, list[float]] = {}
    for frame in frames:
        kind = _kind(frame)
        assert kind is not None
        by_rank.setdefault(frame["by"], {})[kind] = None
        if frame["by"] == 0 and (size := number(frame.get("bytes"))) is not None:
            sizes.setdefault(kind, []).append(size)
    arrows = []
    for kind in in_order(list(kinds) for kinds in by_rank.values())[:_MOST_ARROWS]:
        own = sizes.get(kind, [])
        arrows.append(Arrow(kind, len(own), sum(own) / max(len(own), 1)))
    return arrows


def in_order(sequences: Iterable[Sequence[Kind]]) -> list[Kind]:
    """One order that agrees with the order in which each rank saw the kinds, as far as they agree themselves.

    No clocks are compared: ranks may be on different machines.
    """
    before: dict[Kind, set[Kind]] = {}
    for sequence in sequences:
        for position, kind in enumerate(sequence):
            before.setdefault(kind, set()).update(sequence[max(0, position - 1) : position])
    ordered: list[Kind] = []
    while before:
        free = next((kind for kind, earlier in before.items() if not earlier), next(iter(before)))
        ordered.append(free)
        del before[free]
        for earlier in before.values():
            earlier.discard(free)
    return ordered


def diagram(run: Run) -> str:
    """The sequence diagram as SVG; empty where nothing was recorded."""
    found = sections(run)
    if not found:
        return ""
    roles = run.roles()
    named = dict.fromkeys([*roles, *(end for arrows in found.values() for arrow in arrows for end in arrow.kind[1:])])
    columns = {role: _SIDE + _GAP * k for k, role in enumerate(list(named)[:_MOST_ROLES])}
    width = _SIDE * 2 + _GAP * (len(columns) - 1) + (40 if _loops_at(list(columns)[-1], found) else 0)
    parts, y = [], 66.0
    for title, arrows in found.items():
        parts.append(f'<line class="grid" x1="4" x2="{width - 4}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text class="tick" x="6" y="{y + 14:g}">{escape(title)}</text>')
        y += 22
        for arrow in arrows:
            if set(arrow.kind[1:]) <= columns.keys():
                parts.append(_drawn(arrow, columns, y))
                y += 40
    heads = []
    for role, x in columns.items():
        heads.append(f'<line class="life" x1="{x}" x2="{x}" y1="50" y2="{y:g}"/>')
        heads.append(f'<rect class="head" x="{x - 59}" y="6" width="118" height="44" rx="6"/>')
        heads.append(f'<text class="role middle" x="{x}" y="25">{escape(role)}</text>')
        heads.append(f'<text class="tick middle" x="{x}" y="42">{_ranks(roles.get(role))}</text>')
    return svg(f"Sequence of messages of {run.name}", width, y + 8, [*heads, *parts])


def _loops_at(role: str, found: Mapping[str, Sequence[Arrow]]) -> bool:
    return any(arrow.kind[1:] == (role, role) for arrows in found.values() for arrow in arrows)


def _drawn(arrow: Arrow, columns: Mapping[str, int], y: float) -> str:
    name, source, target = arrow.kind
    x1, x2 = columns[source], columns[target]
    many = f"{arrow.count} × " if arrow.count > 1 else ""
    size = f"{many}{quantity(arrow.mean_bytes, 'B')}" if arrow.count else ""
    if x1 == x2:
        return (
            f'<path class="arrow" d="M{x1} {y + 6:g}h34v14h-30"/>{_head(x1 + 2, y + 20, -1)}'
            f'<text class="label haloed" x="{x1 + 6}" y="{y + 1:g}">{escape(name)}</text>'
        )
    way = 1 if x2 > x1 else -1
    middle = x1 + way * _GAP // 2  # above the first gap: every label has the width of one
    return (
        f'<line class="arrow" x1="{x1}" x2="{x2 - 6 * way}" y1="{y + 12:g}" y2="{y + 12:g}"/>{_head(x2, y + 12, way)}'
        f'<text class="label haloed middle" x="{middle}" y="{y + 6:g}">{escape(name)}</text>'
        f'<text class="tick haloed middle" x="{middle}" y="{y + 24:g}">{size}</text>'
    )


def _head(x: float, y: float, way: int) -> str:
    return f'<path class="point" d="M{x:g} {y:g}l{-8 * way} -4v8z"/>'


def _ranks(ranks: range | None) -> str:
    if not ranks:
        return ""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}–{ranks[-1]}"
