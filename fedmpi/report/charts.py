"""Line and bar charts as SVG: coloured by the style sheet of the page, so that they are right in dark mode too."""

import math
from collections.abc import Mapping, Sequence
from html import escape

COLORS = 6
"""Colours of the style sheet, --c0 to --c5."""

DASHES = ("", "5 3", "1.5 2.5", "8 3 2 3")

_WIDTH, _HEIGHT = 370, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 10, 34
_POINTS = 400
"""Points of one line, at most."""


def line_chart(
    title: str,
    xlabel: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    styles: Mapping[str, tuple[int, int]],
) -> str:
    """Lines over iterations; y in powers of ten where it spans more than a hundredfold.

    Parameters
    ----------
    lines : mapping
        Name → x and y, finite, one point at least.
    styles : mapping
        Name → numbers of its colour and its dashes.
    """
    xs = [x for line in lines.values() for x in line[0]]
    ys = [y for line in lines.values() for y in line[1]]
    log = min(ys) > 0 and max(ys) > 100 * min(ys)
    ticks = _powers(min(ys), max(ys)) if log else _round_ticks(min(ys), max(ys))
    low, high = min(ticks[0], *ys), max(ticks[-1], *ys)
    first, last = min(xs), max(xs)

    def place_x(x: float) -> float:
        share = (x - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        low_, high_, y_ = (math.log(low), math.log(high), math.log(y)) if log else (low, high, y)
        share = (y_ - low_) / (high_ - low_) if high_ > low_ else 0.5
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in ticks:
        y = place_y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{tick:.4g}</text>')
    for tick in _round_ticks(first, last):
        if first <= tick <= last:
            x = place_x(tick)
            parts.append(f'<text class="tick middle" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}">{tick:.6g}</text>')
    parts.append(f'<text class="tick end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}">{escape(xlabel)}</text>')
    for k, (name, (line_x, line_y)) in enumerate(lines.items()):
        color, dashes = styles[name]
        later = sum(styles[other][1] == dashes for other in list(lines)[k + 1 :])
        width = 2 + 2 * min(3, later)  # of equal lines upon one another all can be seen
        points = [(place_x(x), place_y(y)) for x, y in _thinned(list(zip(line_x, line_y, strict=True)))]
        dash = f' stroke-dasharray="{DASHES[dashes % len(DASHES)]}"' if dashes % len(DASHES) else ""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        x, y = points[-1]
        parts.append(
            f'<path class="curve s{color % COLORS}" stroke-width="{width:g}"{dash} d="{path}">'
            f"<title>{escape(name)}</title></path>"
        )
        parts.append(f'<circle class="dot s{color % COLORS}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return svg(title, _WIDTH, _HEIGHT, parts)


def bar_chart(title: str, unit: str, groups: Mapping[str, Mapping[str, float]], colors: Mapping[str, int]) -> str:
    """Horizontal bars: one group below another, with a bar for each run in it.

    Parameters
    ----------
    groups : mapping
        Label → run → value, not negative.
    colors : mapping
        Run → number of its colour.
    """
    most = max((value for values in groups.values() for value in values.values()), default=0.0) or 1.0
    left, right, parts, y = 112, 66, [], 8.0
    for label, values in groups.items():
        height = 14 * len(values)
        parts.append(f'<text class="tick end" x="{left - 8}" y="{y + height / 2 + 4:.1f}">{escape(label[:18])}</text>')
        for run, value in values.items():
            width = max(1.0, value / most * (_WIDTH - left - right))
            parts.append(
                f'<rect class="bar s{colors[run] % COLORS}" x="{left}" y="{y + 1:.1f}" width="{width:.1f}" height="12" '
                f'rx="2"><title>{escape(run)}: {quantity(value, unit)}</title></rect>'
                f'<text class="tick" x="{left + width + 5:.1f}" y="{y + 11:.1f}">{quantity(value, unit)}</text>'
            )
            y += 14
        y += 9
    return svg(title, _WIDTH, max(y, 20), parts)


def svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """A picture that scales with the page, as far as its text can be read; `title` is for who can't see it."""
    size = f"min-width:{0.8 * width:g}px;max-width:{1.4 * width:g}px"
    return (
        f'<svg role="img" viewBox="0 0 {width:g} {height:g}" style="{size}">'
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
    return f"{value:.3g}\u00a0{unit}" if unit else f"{value:.4g}"


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // _POINTS)
    return [*points[::step], points[-1]]


def _round_ticks(low: float, high: float) -> list[float]:
    """About five round numbers from at most `low` to at least `high`."""
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, last + 1)][:50] or [low]


def _powers(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**k for k in range(first, last + 1, max(1, (last - first) // 5))]
