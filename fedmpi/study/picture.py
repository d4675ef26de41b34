"""One picture of a study: how good models are, against each kind of privacy, and against bytes and seconds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmpi.pages import palette
from fedmpi.study.score import SMALLER_IS_BETTER
from fedmpi.study.table import AXES, Axis, Row, compared

KINDS = (".png", ".svg", ".pdf")


def draw(rows: Sequence[Row], title: str, folder: Path) -> list[Path]:
    """Write picture.png, .svg and .pdf; none where no run has a score.

    Parameters
    ----------
    rows : sequence of Row
        Those that are judged as most are judged are drawn.
    title : str
    folder : Path
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = compared(rows)
    axes = [axis for axis in AXES if any(axis.value(row) is not None for row in shown)]
    if not shown or not axes:
        return []
    labels = list(dict.fromkeys(row.label for row in shown))
    columns = 2 if len(axes) == 4 else min(len(axes), 3)
    lines = -(-len(axes) // columns)
    with rc_context({"svg.hashsalt": "fedmpi", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure = Figure(figsize=(4.6 * columns, 4.1 * lines + 0.9), layout="constrained")
        FigureCanvasAgg(figure)  # draws without a display
        figure.suptitle(title)
        places = figure.subplots(lines, columns, squeeze=False).reshape(-1)
        for place, axis in zip(places, axes, strict=False):
            _panel(place, axis, shown, labels)
        for place in places[len(axes) :]:
            place.set_axis_off()
        handles, names = _legend(labels)
        figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=9)
        paths = [folder / f"picture{kind}" for kind in KINDS]
        for path in paths:
            dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # the same results, the same bytes
            figure.savefig(path, dpi=150, metadata=dates.get(path.suffix))
    return paths


def _panel(place: Any, axis: Axis, rows: Sequence[Row], labels: Sequence[str]) -> None:
    front = axis.front(rows)
    points: list[tuple[float, float]] = []
    xs = [x for row in rows if (x := axis.value(row)) is not None]
    log = axis.log and min(xs) > 0 and max(xs) > 10 * min(xs)
    middle = math.sqrt(min(xs) * max(xs)) if log else (min(xs) + max(xs)) / 2
    varied = {name for name in rows[0].settings if len({row.settings[name] for row in rows} - {""}) > 1}
    for number, row in enumerate(rows):
        x = axis.value(row)
        if x is None or row.score is None:
            continue
        y, spread, (color, mark) = row.score.mean, row.score.deviation, _style(labels.index(row.label))
        place.errorbar(x, y, yerr=spread or None, fmt=mark, color=color, markersize=7, capsize=2, elinewidth=1)
        text = ", ".join(f"{name}={value}" for name, value in row.settings.items() if value and name in varied)
        side = -1 if x > middle else 1  # into the panel, by turns above and below the point
        shift = (6 * side, 5 if number % 2 else -10)
        place.annotate(
            text, (x, y), xytext=shift, textcoords="offset points", fontsize=6.5, ha="left" if side > 0 else "right"
        )
        if row.name in front:
            points.append((x, y))
            place.plot(x, y, "o", markersize=14, markerfacecolor="none", markeredgecolor="#404040", markeredgewidth=1)
    place.plot(*zip(*sorted(points), strict=True), color="#404040", linewidth=0.9, linestyle=":", zorder=0)
    better = "more is better" if axis.more_is_better else "less is better"
    place.set_xlabel(f"{axis.title} ({better})")
    place.set_ylabel(f"{rows[0].score_name}{' (less is better)' if rows[0].score_name in SMALLER_IS_BETTER else ''}")
    place.margins(0.14)
    if log:
        place.set_xscale("log")
    place.xaxis.set_major_formatter(lambda x, _: axis.text(x))
    place.xaxis.set_minor_formatter(lambda x, _: "")
    place.tick_params(axis="x", labelsize=8)
    absent = [label for label in labels if not any(row.label == label and axis.value(row) is not None for row in rows)]
    if absent:
        place.set_title(f"not drawn, since {axis.without}:\n{', '.join(absent)}", fontsize=7.5, color="#606060")
    place.grid(alpha=0.3)


def _legend(labels: Sequence[str]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker=mark, linestyle="none") for color, mark in map(_style, range(len(labels)))
    ]
    ring = Line2D([], [], color="#404040", marker="o", markersize=11, markerfacecolor="none", linestyle=":")
    return [*handles, ring], [*labels, "Pareto front: nothing is better in both"]


def _style(number: int) -> tuple[str, str]:
    color, mark = palette.style(number)
    return palette.LIGHT[color], palette.MARKS[mark][0]
