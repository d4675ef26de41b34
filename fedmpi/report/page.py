"""One page about one run or several, side by side."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

from fedmpi.pages.html import cards, legend, page, table, text
from fedmpi.report.charts import COLORS, bar_chart, line_chart, quantity
from fedmpi.report.gallery import gallery
from fedmpi.report.sequence import diagram
from fedmpi.runs.reading import NAME, Run, number, numbers
from fedmpi.version import __version__

_TOTALS = {"total", "round", "startup", "plain"}
"""Seconds that are no phase of the protocol."""

_FAMILIES = ("loss", "accuracy", "epsilon")
"""Metrics whose names end, or begin, with one of these share a chart."""

_MOST_FAILURES = 200

_DRAWN_FROM = (
    "Drawn from what the ranks recorded of their first messages. Counts and sizes are those that rank 0 saw; how much "
    "others say to one another stays with them."
)

Curves = dict[str, dict[tuple[str, str], tuple[list[float], list[float]]]]
"""Chart → (run, metric) → steps and values."""


def curves_of(runs: Sequence[Run]) -> Curves:
    """The curves of all runs, by chart."""
    found: Curves = {}
    for run in runs:
        for metric, line in run.curves().items():
            words = metric.split("_")
            family = next((f for f in _FAMILIES if f in words), metric.replace("_", " "))
            found.setdefault("ε" if family == "epsilon" else family, {})[run.name, metric] = line
    order = {"loss": 0, "accuracy": 1, "ε": 2}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], 3)))


def report_page(runs: Sequence[Run]) -> str:
    """The page, as HTML."""
    title = "fedmpi: " + ", ".join(run.name for run in runs)
    colors = {run.name: k % COLORS for k, run in enumerate(runs)}
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{len(runs)} run{"s" if len(runs) > 1 else ""}, read by fedmpi {__version__}. '
        "All that this page shows was recorded by the runs themselves.</p>",
        *_overview(runs),
        *_images(runs),
        *_curves(runs, colors),
        *_costs(runs, colors),
        *(_rounds(runs) if len(runs) > 1 else []),
        *_failures(runs),
        *_parameters(runs),
    ]
    return page(title, body)


def _overview(runs: Sequence[Run]) -> Iterator[str]:
    def size(run: Run) -> str:
        data = run.table("dataset")
        return f"{text(data.get('name'))}: {text(data.get('m'))} rows × {text(data.get('d'))}" if data else "–"

    def ranks(run: Run) -> str:
        return ", ".join(f"{len(ranks)} {role}{'s' if len(ranks) > 1 else ''}" for role, ranks in run.roles().items())

    def total(run: Run) -> str:
        seconds = number(run.table("seconds").get("total"))
        return "–" if seconds is None else quantity(seconds, "s")

    def failures(run: Run) -> Any:
        found = run.result.get("failures")
        return len(found) if isinstance(found, list) else None

    facts: dict[str, Callable[[Run], Any]] = {
        "system": lambda run: run.result.get("system"),
        "method": lambda run: run.result.get("method") or run.config.get("method"),
        "ended": lambda run: "yes" if run.result else "no result.json: it was stopped, or is still running",
        "ranks": ranks,
        "training data": size,
        "time of the protocol": total,
        "failures and liars": failures,
    }
    rows = {name: [fact(run) for run in runs] for name, fact in facts.items()}
    finals = [numbers(run.table("metrics")) for run in runs]
    for name in dict.fromkeys(name for final in finals for name in final if NAME.fullmatch(name)):
        rows[name.replace("_", " ")] = [final.get(name) for final in finals]
    privacy = [_epsilons(run) for run in runs]
    for name in dict.fromkeys(name for epsilons in privacy for name in epsilons):
        rows[name] = [epsilons.get(name) for epsilons in privacy]
    overview = {"At a glance": table([run.name for run in runs], rows)}
    if len(runs) == 1 and (picture := diagram(runs[0])):
        overview["Roles, and one round"] = f'{picture}<p class="soft">{_DRAWN_FROM}</p>'
    yield cards(overview)


def _epsilons(run: Run) -> dict[str, float]:
    found = {}
    for view in ("upload", "model"):
        for accountant, value in numbers(run.table("privacy", view)).items():
            found[f"ε of {'an upload' if view == 'upload' else 'the model'} ({accountant[:12]})"] = value
    return found


def _images(runs: Sequence[Run]) -> Iterator[str]:
    pictures = {run.name: shown for run in runs if (shown := gallery(run.path))}
    if pictures:
        yield "<h2>What the attack got</h2>"
        yield cards(pictures)


def _curves(runs: Sequence[Run], colors: dict[str, int]) -> Iterator[str]:
    charts = {}
    for family, lines in curves_of(runs).items():
        metrics = list(dict.fromkeys(metric for _, metric in lines))
        alone = len(runs) == 1  # then colours tell the metrics apart
        styles = {
            f"{run}: {metric}": (metrics.index(metric) % COLORS, 0) if alone else (colors[run], metrics.index(metric))
            for run, metric in lines
        }
        drawn = {f"{run}: {metric}": line for (run, metric), line in lines.items()}
        key = ""
        if alone and len(metrics) > 1:
            key = legend({metric.replace("_", " "): k % COLORS for k, metric in enumerate(metrics)})
        elif len(metrics) > 1:
            dashes = ("solid", "dashed", "dotted", "dash-dotted")
            named = [f"{m.replace('_', ' ')} {dashes[k % len(dashes)]}" for k, m in enumerate(metrics)]
            key = f'<p class="soft">{escape(", ".join(named))}</p>'
        charts[family] = line_chart(f"{family} over iterations", "iteration or round", drawn, styles) + key
    if charts:
        yield "<h2>Curves</h2>"
        if len(runs) > 1:
            yield legend(colors)
        yield cards(charts)


def _costs(runs: Sequence[Run], colors: dict[str, int]) -> Iterator[str]:
    charts = {}
    phases = {run.name: {k: v for k, v in numbers(run.table("seconds")).items() if k not in _TOTALS} for run in runs}
    groups = {
        "Time by phase, at rank 0": ("s", phases),
        "Processor time by role": ("s", {run.name: _by_role(run, "cpu_seconds") for run in runs}),
        "Bytes sent by role": ("B", {run.name: _by_role(run, "bytes", "sent") for run in runs}),
        "Bytes received by role": ("B", {run.name: _by_role(run, "bytes", "received") for run in runs}),
    }
    for title, (unit, by_run) in groups.items():
        labels = dict.fromkeys(label for values in by_run.values() for label in values)
        bars = {label: {run: v[label] for run, v in by_run.items() if v.get(label, -1.0) >= 0} for label in labels}
        bars = {label: values for label, values in bars.items() if any(values.values())}
        if bars:
            charts[title] = bar_chart(title, unit, bars, colors)
    if charts:
        yield "<h2>Time and bytes</h2>"
        yield (
            '<p class="soft">“communicate” is the time in which rank 0 waited and nobody computed. Ranks that share '
            "the cores of one machine take the time of all of them together.</p>"
        )
        if len(runs) > 1:
            yield legend(colors)
        yield cards(charts)
    tables = {run.name: table(["sent", "received"], rows) for run in runs if (rows := _message_rows(run))}
    if tables:
        yield "<h2>Messages of rank 0</h2>"
        yield cards(tables)


def _by_role(run: Run, *keys: str) -> dict[str, float]:
    return {name.replace("_", " "): value for name, value in numbers(run.table(*keys)).items()}


def _message_rows(run: Run) -> dict[str, list[str]]:
    ways = [[numbers(run.table(kind, way)) for kind in ("messages", "message_bytes")] for way in ("sent", "received")]
    names = sorted({name for counts, _ in ways for name in counts if NAME.fullmatch(name)})[:100]

    def cell(name: str, counts: dict[str, float], sizes: dict[str, float]) -> str:
        if name not in counts:
            return "–"
        return quantity(counts[name], "") + (f", {quantity(sizes[name], 'B')}" if name in sizes else "")

    return {name: [cell(name, *way) for way in ways] for name in names}


def _rounds(runs: Sequence[Run]) -> Iterator[str]:
    pictures = {run.name: picture for run in runs if (picture := diagram(run))}
    if pictures:
        yield "<h2>Roles, and one round</h2>"
        yield f'<p class="soft">{_DRAWN_FROM}</p>'
        yield cards(pictures)


def _failures(runs: Sequence[Run]) -> Iterator[str]:
    for run in runs:
        found = run.result.get("failures")
        entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        if entries:
            names = list(dict.fromkeys(key for entry in entries for key in entry))[:6]
            rows = {str(k + 1): [entry.get(name) for name in names] for k, entry in enumerate(entries[:_MOST_FAILURES])}
            yield f"<h2>Failures and liars{f' of {escape(run.name)}' if len(runs) > 1 else ''}</h2>"
            more = len(entries) - len(rows)
            yield f'<div class="card">{table(names, rows)}{f"<p>and {more} more</p>" if more else ""}</div>'


def _parameters(runs: Sequence[Run]) -> Iterator[str]:
    tables = {}
    for title, parts in (
        ("Options", [run.config for run in runs]),
        ("What they came down to", [run.table("params") for run in runs]),
        ("Environment", [run.table("environment") | {"fedmpi": run.result.get("version")} for run in runs]),
    ):
        names = sorted({name for part in parts for name in part})[:200]
        if names:
            rows = {name.replace("_", " "): [part.get(name) for part in parts] for name in names}
            tables[title] = table([run.name for run in runs], rows, mark=True)
    if tables:
        yield "<h2>Parameters and environment</h2>"
        yield cards(tables)
    yield "<h2>The same again</h2>"
    for run in runs:
        system, ranks = text(run.result.get("system", "SYSTEM")), text(run.result.get("ranks", "N"))
        what = "attack" if system == "attacks" else f"run {system}"
        encrypt = " --encrypt" if run.config.get("encrypt") is True else ""
        command = f"fedmpi {what} -n {ranks}{encrypt} -- --config {run.path}/config.toml"
        yield f"<pre>{escape(command)}</pre>"
