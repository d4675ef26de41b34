"""Which curves stand in which chart: one for each metric and data set, or of one run for metrics of a kind."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedmpi.pages.coinciding import Line
from fedmpi.report.glance import by_data, plain_of, short_names
from fedmpi.runs.reading import Run

AXES = {
    "rounds": ("iteration", "iteration or round"),
    "seconds": ("seconds", "seconds since the start of the run"),
    "bytes": ("sent_bytes", "MB sent by rank 0"),
    "ε of uploads": ("epsilon_upload", "ε of one client's uploads"),
    "ε of the model": ("epsilon_model", "ε of the published models"),
}
"""What curves are drawn against → key of metrics.jsonl, and the words below the axis."""

_FAMILIES = ("loss", "accuracy", "epsilon")
"""Metrics of one run whose names end, or begin, with one of these share a chart."""

_ORDER = (
    *("test_accuracy", "validation_accuracy", "train_accuracy", "test_r2", "test_rmse", "test_mse", "train_rmse"),
    *("test_loss", "train_loss", "epsilon"),
)
_MOST_LEVELS = 3


@dataclass(frozen=True)
class Picture:
    """One chart."""

    title: str
    data: str
    """The data set of all its runs."""
    lines: dict[str, Line]
    numbers: dict[str, int]
    """Name of a line → its colour and mark."""
    levels: dict[str, float]
    """What was reached in the clear."""

    @property
    def slug(self) -> str:
        """For the name of a file."""
        return re.sub(r"[^\w-]+", "-", self.title.replace("ε", "epsilon"))


def pictures(runs: Sequence[Run], axis: str = "rounds") -> list[Picture]:
    """All charts against one of `AXES`, the most important first."""
    key = AXES[axis][0]
    if len(runs) == 1:
        return list(_of_one(runs[0], key))
    return list(_of_many(runs, key))


def _drawn(run: Run, key: str) -> dict[str, Line]:
    scale = 1e-6 if key == "sent_bytes" else 1.0
    found = run.curves(key)
    return {metric: ([x * scale for x in xs], ys) for metric, (xs, ys) in found.items()}


def _rank(metric: str) -> tuple[int, str]:
    place = next((k for k, name in enumerate(_ORDER) if metric.startswith(name)), len(_ORDER))
    return place, "" if place < len(_ORDER) else metric


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("epsilon", "ε of the").replace("the upload", "uploads")


def _of_one(run: Run, key: str) -> Iterator[Picture]:
    curves = _drawn(run, key)
    families: dict[str, list[str]] = {}
    for metric in sorted(curves, key=_rank):
        family = next((one for one in _FAMILIES if one in metric.split("_")), metric)
        families.setdefault(family, []).append(metric)
    (data,) = by_data([run])
    for family, metrics in families.items():
        title = "ε" if family == "epsilon" else _words(family)
        names = {metric: _within(metric, family) for metric in metrics}
        plain = {
            f"plain {names[m]}" if len(metrics) > 1 else "plain": v for m, v in plain_of(run).items() if m in names
        }
        lines = {names[metric]: curves[metric] for metric in metrics}
        yield Picture(title, data, lines, {name: k for k, name in enumerate(lines)}, plain)


def _within(metric: str, family: str) -> str:
    rest = " ".join(word for word in metric.split("_") if word != family)
    return rest or _words(metric)


def _of_many(runs: Sequence[Run], key: str) -> Iterator[Picture]:
    names, places = short_names(runs), {run.name: k for k, run in enumerate(runs)}
    for data, own in by_data(runs).items():
        curves = {run.name: _drawn(run, key) for run in own}
        for metric in sorted({metric for found in curves.values() for metric in found}, key=_rank):
            having = [run for run in own if metric in curves[run.name]]
            lines = {names[run.name]: curves[run.name][metric] for run in having}
            numbers = {names[run.name]: places[run.name] for run in having}
            yield Picture(_words(metric), data, lines, numbers, _levels(having, metric, names))


def _levels(runs: Sequence[Run], metric: str, names: dict[str, str]) -> dict[str, float]:
    """What was reached in the clear; one level where all agree, else with the first run that has it."""
    taken = {names[run.name] for run in runs}
    by_value: dict[str, tuple[float, list[str]]] = {}
    for run in runs:
        if (value := plain_of(run).get(metric)) is not None:
            by_value.setdefault(f"{value:.4g}", (value, []))[1].append(names[run.name])
    word = "plain" if "plain" not in taken else "in the clear"
    if len(by_value) == 1:
        return {word: next(iter(by_value.values()))[0]}
    return {f"{word}: {of[0]}"[:24]: value for value, of in list(by_value.values())[:_MOST_LEVELS]}
