"""Line and bar charts as SVG: coloured by the style sheet of the page, so that they are right in dark mode too."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fedmpi.pages import coinciding
from fedmpi.pages.coinciding import Line
from fedmpi.pages.html import mark
from fedmpi.pages.palette import style

_WIDTH, _HEIGHT = 370, 250
_LEFT, _TOP, _BOTTOM = 46, 10, 36
_LABELS = 12.5
"""Between two labels, from line to line."""
_POINTS = 400
"""Points of one line, at most."""
_MARKS = 5
"""Marks on one line, about."""


@dataclass(frozen=True)
class Chart:
    """A picture, and what is to be said below it."""

    svg: str
    notes: tuple[str, ...] = ()


def line_chart(
    title: str,
    xlabel: str,
    lines: Mapping[str, Line],
    numbers: Mapping[str, int],
    levels: Mapping[str, float] | None = None,
) -> Chart:
    """Lines with their names at their ends; y in powers of ten where it spans more than a hundredfold.

    Lines that lie on one another share their way in dashes, and a note says so.

    Parameters
    ----------
    lines : mapping
        Name → x and y, finite, one point at least.
    numbers : mapping
        Name → which colour and mark it has.
    levels : mapping, optional
        Name → a value that the lines are compared with, drawn over the whole width.
    """
    levels = levels or {}
    xs = [x for line in lines.values() for x in line[0]]
    ys = [y for line in lines.values() for y in line[1]] + list(levels.values())
    log = min(ys) > 0 and max(ys) > 100 * min(ys)
    ticks = _powers(min(ys), max(ys)) if log else _round_ticks(min(ys), max(ys))
    low, high = min(ticks[0], *ys), max(ticks[-1], *ys)
    first, last = min(xs), max(xs)
    names = [*lines, *levels]
    right = _WIDTH - 16 - max(map(_width, names))
    bottom = max(_HEIGHT - _BOTTOM, _TOP + _LABELS * len(names))

    def place_x(x: float) -> float:
        return _LEFT + ((x - first) / (last - first) if last > first else 0.5) * (right - 6 - _LEFT)

    def place_y(y: float) -> float:
        low_, high_, y_ = (math.log(low), math.log(high), math.log(y)) if log else (low, high, y)
        return bottom - ((y_ - low_) / (high_ - low_) if high_ > low_ else 0.5) * (bottom - _TOP)

    parts = []
    for tick in ticks:
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 5}" y="{y + 4:.1f}">{tick:.4g}</text>')
    for tick in _round_ticks(first, last, 4):
        if first <= tick <= last:
            x = place_x(tick)
            parts.append(f'<text class="tick middle" x="{x:.1f}" y="{bottom + 15:.1f}">{tick:.6g}</text>')
    parts.append(f'<text class="tick" x="{_LEFT}" y="{bottom + 31:.1f}">{escape(xlabel)}</text>')
    ends = {name: (right, place_y(value)) for name, value in levels.items()}
    for y in {place_y(value) for value in levels.values()}:
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    together = coinciding.groups(lines, last - first, math.log(high / low) if log else high - low, log=log)
    dashed = coinciding.dashes(together)
    for name, (line_x, line_y) in lines.items():
        color, shape = style(numbers[name])
        points = [(place_x(x), place_y(y)) for x, y in _thinned(list(zip(line_x, line_y, strict=True)))]
        dash = ""
        if name in dashed:
            on, off, offset = dashed[name]
            dash = f' stroke-dasharray="{on:g} {off:g}" stroke-dashoffset="{offset:g}"'
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path class="curve s{color}"{dash} d="{path}"><title>{escape(name)}</title></path>')
        every = max(1, len(points) // _MARKS)
        for x, y in points[numbers[name] % every :: every]:
            parts.append(mark(color, shape, x, y))
        ends[name] = points[-1]
    parts += _labels(ends, numbers, right, bottom)
    notes = tuple(coinciding.sentence(group, lines) for group in together)
    return Chart(svg(title, _WIDTH, bottom + _BOTTOM, parts), notes)


def _labels(
    ends: Mapping[str, tuple[float, float]], numbers: Mapping[str, int], right: float, bottom: float
) -> list[str]:
    """Names beside the ends of their lines, moved up or down where they would lie on one another."""
    ordered = sorted(ends, key=lambda name: ends[name][1])
    places: list[float] = []
    for name in ordered:
        places.append(max(ends[name][1], places[-1] + _LABELS if places else _TOP))
    floor = bottom
    for k in reversed(range(len(places))):
        places[k] = min(places[k], floor)
        floor = places[k] - _LABELS
    parts = []
    for name, y in zip(ordered, places, strict=True):
        end_x, end_y = ends[name]
        parts.append(
            f'<path class="leader" d="M{end_x:.1f} {end_y:.1f}L{right:.1f} {end_y:.1f}L{right + 3:.1f} {y:.1f}"/>'
        )
        if name in numbers:
            color, shape = style(numbers[name])
            parts.append(mark(color, shape, end_x, end_y) + mark(color, shape, right + 8, y))
        else:
            parts.append(f'<path class="level" d="M{right + 4:.1f} {y:.1f}h8"/>')
        parts.append(f'<text class="name" x="{right + 14:.1f}" y="{y + 4:.1f}">{escape(name)}</text>')
    return parts


def bar_chart(title: str, unit: str, groups: Mapping[str, Mapping[str, float]], numbers: Mapping[str, int]) -> str:
    """Horizontal bars: one group below another, with its name above a bar for each run in it.

    Parameters
    ----------
    groups : mapping
        Label → run → value, not negative.
    numbers : mapping
        Run → which colour and mark it has.
    """
    most = max((value for values in groups.values() for value in values.values()), default=0.0) or 1.0
    left, right, parts, y = 14, 66, [], 4.0
    for label, values in groups.items():
        if label:
            parts.append(f'<text class="tick" x="2" y="{y + 10:.1f}">{escape(label[:60])}</text>')
            y += 15
        for run, value in values.items():
            width = max(1.0, value / most * (_WIDTH - left - right))
            color, shape = style(numbers[run])
            if len(numbers) > 1:
                parts.append(mark(color, shape, 7, y + 7))
            parts.append(
                f'<rect class="bar s{color}" x="{left}" y="{y + 1:.1f}" width="{width:.1f}" height="12" rx="2">'
                f"<title>{escape(run)}: {quantity(value, unit)}</title></rect>"
                f'<text class="tick" x="{left + width + 5:.1f}" y="{y + 11:.1f}">{quantity(value, unit)}</text>'
            )
            y += 15
        y += 7
    return svg(title, _WIDTH, max(y, 30), parts)


def svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A picture that scales with the page, as far as its text can be read; `title` is for who can't see it."""
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" style="max-width:{1.4 * width:g}px">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def quantity(value: float, unit: str) -> str:
    """A number with its unit, on one line: 1.25 s, 3.4 MB, 12."""
    if unit == "s" and 0 < value < 0.001:
        value, unit = value * 1e6, "µs"
    if unit == "B":
        for factor, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
            if value >= factor:
                value, unit = value / factor, name
                break
    digits = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
    return f"{digits}\u00a0{unit}" if unit else f"{value:.4g}"


def _width(text: str) -> float:
    """Of a label in a wide font, in pixels."""
    return sum(11.5 if letter in "mwMW@…" else 4.5 if letter in "iljI.,:'| " else 7.6 for letter in text)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // _POINTS)
    return [*points[::step], points[-1]]


def _round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """About five round numbers from at most `low` to at least `high`."""
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= most)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, last + 1)][:50] or [low]


def _powers(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**k for k in range(first, last + 1, max(1, (last - first) // 5))]
