"""The figures of the experiments. matplotlib is imported only when one is drawn."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError
from fedmpi.files import replacing
from fedmpi.pages import coinciding, palette

Line = tuple[Sequence[float], Sequence[float]]
"""x and y."""

Bars = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""x, y, and the deviations of y."""

STYLES = ("o-", "s--", "^-.", "D:")
COLORS = (
    "#0072b2",
    "#56b4e9",
    "#d55e00",
    "#404040",
)  # ours are blue; told apart by the colour-blind too, and in grey by the marks


def require() -> None:
    """Raise UsageError where matplotlib is missing, before hours of work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError('matplotlib must be installed for figures: pip install "fedmpi[report]"')


def training_time(path: Path, title: str, panels: Mapping[str, Mapping[str, Line]]) -> None:
    """Figure 3: seconds over the number of workers, one panel beside the other.

    Parameters
    ----------
    panels : mapping
        Title of the panel → name of the line → (workers, seconds).
    """
    figure, axes = _axes(len(panels), title)
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        _lines(axis, lines)
        axis.set(title=name, xlabel="workers N", ylabel="training time in seconds", ylim=(0, None))
        axis.set_xticks(sorted({x for xs, _ in lines.values() for x in xs}))
    _save(figure, path)


def panels(path: Path, title: str, lines: Mapping[str, Mapping[str, Line | Bars]], xlabel: str, ylabel: str) -> None:
    """One panel beside the other, four in a row at most, with the same axes.

    Parameters
    ----------
    lines : mapping
        Title of the panel → name of the line → (x, y); or (x, y, deviation of y), which is drawn as a band.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(lines), 4)
    rows = -(-len(lines) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    figure.suptitle(title)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis, (name, own) in zip(axes, lines.items(), strict=False):
        _lines(axis, own)
        axis.set(title=name, xlabel=xlabel, ylabel=ylabel)
    for axis in axes[len(lines) :]:
        axis.set_axis_off()
    _save(figure, path)


def over_epsilon(path: Path, title: str, lines: Mapping[str, Line | Bars], limit: tuple[str, float]) -> None:
    """Accuracy over ε in powers of ten, and a level that no noise can raise it above.

    Parameters
    ----------
    lines : mapping
        Name → (x, y), or (x, y, deviation of y).
    limit : tuple
        Name and level.
    """
    figure, (axis,) = _axes(1, title)
    axis.axhline(limit[1], color="#b0b0b0", linewidth=0.8, label=limit[0])
    _lines(axis, lines)
    axis.set(xlabel="ε", ylabel="test accuracy", xscale="log")
    _save(figure, path)


def curves(path: Path, title: str, ylabel: str, lines: Mapping[str, Line]) -> None:
    """Figures 4 and 5: accuracy or loss over the iterations."""
    figure, (axis,) = _axes(1, title)
    _lines(axis, lines, every=5, step=2)
    axis.set(xlabel="iteration", ylabel=ylabel)
    _save(figure, path)


def over_iterations(path: Path, title: str, ylabel: str, lines: Mapping[str, Line], *, log: bool) -> None:
    """PPADMM's Figures 3 to 5: an error or seconds over the iterations.

    Parameters
    ----------
    log : bool
        Draw y in powers of ten.
    """
    figure, (axis,) = _axes(1, title)
    for (name, (x, y)), style in zip(lines.items(), ("-", "--", ":", "-.", "-", "--"), strict=False):
        axis.plot(x, y, style, label=name)
    axis.set(xlabel="iteration", ylabel=ylabel, yscale="log" if log else "linear")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def run_curves(
    path: Path,
    title: str,
    ylabel: str,
    lines: Mapping[str, Line],
    numbers: Mapping[str, int],
    levels: Mapping[str, float],
) -> None:
    """Curves of runs over the iterations, in the colours and with the marks of the page.

    Parameters
    ----------
    numbers : mapping
        Name of a line → which colour and mark it has.
    levels : mapping
        Name → a value that the lines are compared with.
    """
    figure, (axis,) = _axes(1, title)
    values = [y for _, ys in lines.values() for y in ys] + list(levels.values())
    xs = [x for line in lines.values() for x in line[0]]
    log = min(values) > 0 and max(values) > 100 * min(values)
    height = np.log(max(values) / min(values)) if log else max(values) - min(values)
    together = coinciding.dashes(coinciding.groups(lines, max(xs) - min(xs), float(height), log=log))
    for name, (x, y) in lines.items():
        color, shape = palette.style(numbers[name])
        dash: Any = "-"
        if name in together:
            on, off, offset = together[name]
            dash = (offset, (on, off))
        every = (numbers[name] % max(1, len(x) // 5), max(1, len(x) // 5))
        look: dict[str, Any] = {"marker": palette.MARKS[shape][0], "markersize": 5, "markeredgecolor": "white"}
        plain = name.replace("$", r"\$")
        axis.plot(x, y, linestyle=dash, color=palette.LIGHT[color], label=plain, markevery=every, **look)
    for name, value in levels.items():
        axis.axhline(value, color="#1c2330", linestyle=":", linewidth=1.2, label=name.replace("$", r"\$"))
    axis.set(xlabel="iteration or round", ylabel=ylabel, yscale="log" if log else "linear")
    axis.grid(color="#dde2ea")
    axis.set_axisbelow(True)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    _save(figure, path)


def bars(path: Path, title: str, xlabel: str, ylabel: str, panels: Mapping[str, Mapping[str, Bars]]) -> None:
    """Lines with error bars, one panel beside the other.

    Parameters
    ----------
    panels : mapping
        Title of the panel → name of the line → (x, y, deviation of y).
    """
    figure, axes = _axes(len(panels), title)
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        for (label, (x, y, deviation)), style, color in zip(lines.items(), STYLES, COLORS, strict=False):
            axis.errorbar(x, y, deviation, fmt=style, color=color, label=label, markersize=3, capsize=2)
        axis.set(title=name, xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def gallery(path: Path, rows: Mapping[str, NDArray[np.floating]]) -> None:
    """Rows of images (n, channels, height, width) with pixels in [0, 1], each with a title; others are cut off."""
    figure, axes = _grid(len(rows), 1, 1.2)
    figure.set_figwidth(7)
    for axis, (title, images) in zip(axes[:, 0], rows.items(), strict=True):
        strip = np.concatenate(np.clip(np.nan_to_num(images), 0, 1), axis=2).transpose(1, 2, 0)
        axis.imshow(strip if strip.shape[2] == 3 else strip[:, :, 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, loc="left", fontsize=7)
        axis.axis("off")
    _save(figure, path)


def heatmap(path: Path, title: str, rows: Sequence[str], columns: Sequence[str], values: NDArray[np.floating]) -> None:
    """Parts in [0, 1], shape (rows, columns), each as a number in a shaded cell; NaN leaves a cell white."""
    figure, axes = _grid(1, 1, 1.0)
    figure.set_size_inches(3.5 + 0.95 * len(columns), 1.6 + 0.26 * len(rows))
    axis = axes[0, 0]
    axis.imshow(values, cmap="Reds", vmin=0, vmax=1.4, aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=7)
    axis.set_yticks(range(len(rows)), rows, fontsize=7)
    for i, j in np.argwhere(~np.isnan(values)):
        axis.text(j, i, f"{values[i, j]:.0%}", ha="center", va="center", fontsize=7)
    axis.set_title(title, fontsize=9)
    _save(figure, path)


def roc(path: Path, title: str, lines: Mapping[str, Line]) -> None:
    """Rates of true positives over those of false ones, both in powers of ten: the left end is what counts."""
    figure, (axis,) = _axes(1, title)
    for (name, (x, y)), style, color in zip(lines.items(), ("-", "--", ":", "-."), COLORS, strict=False):
        axis.plot(x, y, style, color=color, label=name)
    axis.plot([1e-3, 1], [1e-3, 1], color="#b0b0b0", linewidth=0.8, label="guessing")
    axis.set(xlabel="false positives", ylabel="true positives", xscale="log", yscale="log")
    axis.set(xlim=(1e-3, 1), ylim=(1e-3, 1))
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)


def histograms(path: Path, title: str, panels: Mapping[str, Mapping[str, NDArray[np.floating]]]) -> None:
    """Two rows of panels, each with the distributions of some values."""
    figure, axes = _grid(2, -(-len(panels) // 2), 2.6)
    figure.suptitle(title)
    for axis, (name, values) in zip(axes.T.reshape(-1), panels.items(), strict=False):
        for (label, one), color in zip(values.items(), COLORS[::2], strict=False):
            axis.hist(one, bins=40, histtype="step", color=color, label=label)
        axis.set_yscale("log")
        axis.set_title(name, fontsize=8)
        axis.legend(fontsize=6)
    _save(figure, path)


def _grid(rows: int, columns: int, inches: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(inches * columns, inches * rows), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    return figure, figure.subplots(rows, columns, squeeze=False)


def _axes(count: int, title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * count if count > 1 else 6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    figure.suptitle(title)
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _lines(axis: Any, lines: Mapping[str, Line | Bars], every: int = 1, step: int = 1) -> None:
    for (name, (x, y, *band)), style, color in zip(lines.items(), STYLES[::step], COLORS[::step], strict=False):
        axis.plot(x, y, style, color=color, label=name, markersize=5, markevery=every)
        for deviation in band:
            low, high = np.subtract(y, deviation), np.add(y, deviation)
            axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axis.grid(alpha=0.3)
    axis.legend()


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix[1:])
