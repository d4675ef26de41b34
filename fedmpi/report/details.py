"""The lower part of a page: time and bytes, messages, failures, parameters, and how to run it again."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from fedmpi.pages.html import Markup, cards, facts, folded, legend, table, text
from fedmpi.report.charts import bar_chart, quantity
from fedmpi.report.glance import others, total_of
from fedmpi.report.sequence import diagram
from fedmpi.runs.reading import NAME, Run, number, numbers

DRAWN_FROM = (
    "Drawn from what the ranks recorded of their first messages. Counts and sizes are those that rank 0 saw; how much "
    "others say to one another stays with them."
)

_TOTALS = {"total", "round", "startup", "plain"}
"""Seconds that are no phase of the protocol."""

_MOST_FAILURES = 200
_MOST_CLIENTS = 1000
_BUDGET = ("epsilon", "noise_std", "tau_squared", "uploads", "upload", "model")
_OPEN = 3
"""Runs, at most, whose details are not folded."""


def folded_card(title: str, content: str, *, opened: bool = False) -> str:
    """A card that shows its title alone until it is asked."""
    return f'<div class="card">{folded(title, content, opened=opened)}</div>'


def more(run: Run) -> dict[str, float]:
    """The metrics that are not told first, without what metrics.jsonl has beside them."""
    beside = {"iteration", "seconds", "sent_bytes", "answers", "late"}
    return {name: value for name, value in others(run).items() if name not in beside}


def costs(runs: Sequence[Run], names: Mapping[str, str], marks: Mapping[str, int]) -> Iterator[str]:
    """Bars of time and bytes: of all ranks, and by phase and role."""
    numbered = {names[name]: number for name, number in marks.items()}
    totals = {
        "Time of the protocol": ("s", {run.name: number(run.table("seconds").get("total")) for run in runs}),
        "Processor time of all ranks": ("s", {run.name: total_of(run, "cpu_seconds") for run in runs}),
        "Bytes that all ranks sent": ("B", {run.name: total_of(run, "bytes", "sent") for run in runs}),
    }
    charts = {}
    for title, (unit, values) in totals.items():
        bars = {names[run]: value for run, value in values.items() if value is not None and value >= 0}
        if len(runs) > 1 and bars:
            charts[title] = bar_chart(title, unit, {"": bars}, numbered)
    phases = {run.name: {k: v for k, v in numbers(run.table("seconds")).items() if k not in _TOTALS} for run in runs}
    groups = {
        "Time by phase, at rank 0": ("s", phases),
        "Processor time by role": ("s", {run.name: _by_role(run, "cpu_seconds") for run in runs}),
        "Bytes sent by role": ("B", {run.name: _by_role(run, "bytes", "sent") for run in runs}),
        "Bytes received by role": ("B", {run.name: _by_role(run, "bytes", "received") for run in runs}),
    }
    parts = {}
    for title, (unit, by_run) in groups.items():
        labels = dict.fromkeys(label for values in by_run.values() for label in values)
        drawn = {
            label: {names[run]: v[label] for run, v in by_run.items() if v.get(label, -1.0) >= 0} for label in labels
        }
        drawn = {label: values for label, values in drawn.items() if any(values.values())}
        if drawn:
            parts[title] = bar_chart(title, unit, drawn, numbered)
    if charts or parts:
        yield "<h2>Time and bytes</h2>"
    if len(runs) > 1 and (charts or parts):
        yield legend(numbered)
    if charts:
        yield cards(charts)
    if parts:
        told = (
            '<p class="soft">“communicate” is the time in which rank 0 waited and nobody computed. Ranks that share '
            "the cores of one machine take the time of all of them together.</p>"
        )
        yield folded("By phase and role", told + cards(parts), opened=len(runs) <= _OPEN)
    tables = {run.name: table(["sent", "received"], rows) for run in runs if (rows := _message_rows(run))}
    if tables:
        yield folded("Messages of rank 0", cards(tables), opened=len(runs) <= _OPEN)


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


def rounds(runs: Sequence[Run]) -> Iterator[str]:
    """Who sent what to whom, in pictures."""
    pictures = {run.name: picture for run in runs if (picture := diagram(run))}
    if pictures:
        content = f'<p class="soft">{DRAWN_FROM}</p>{cards(pictures)}'
        yield f"<h2>Roles, and one round</h2>{folded('Who sends what to whom', content, opened=len(runs) <= _OPEN)}"


def budgets(runs: Sequence[Run]) -> Iterator[str]:
    """What each client has asked for of its own, and what it has spent; of runs in which clients had a choice."""
    head = ["ε of one upload", "σ", "τ²", "uploads", "ε of all uploads", "ε of the models"]
    for run in runs:
        listed = run.table("privacy").get("clients")
        clients = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        rows = []
        for one in clients[:_MOST_CLIENTS]:
            known = {name: number(one.get(name)) for name in ("client", *_BUDGET)}
            cells = ["–" if (value := known[name]) is None else f"{value:.4g}" for name in _BUDGET]
            rows.append((f"client {text(one.get('client'))}", cells))
        if rows:
            yield folded_card(f"Privacy of each client{f' of {run.name}' if len(runs) > 1 else ''}", table(head, rows))


def failures(runs: Sequence[Run]) -> Iterator[str]:
    """Who failed or lied."""
    for run in runs:
        found = run.result.get("failures")
        entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
        if entries:
            names = list(dict.fromkeys(key for entry in entries for key in entry))[:6]
            rows = {str(k + 1): [entry.get(name) for name in names] for k, entry in enumerate(entries[:_MOST_FAILURES])}
            yield f"<h2>Failures and liars{f' of {escape(run.name)}' if len(runs) > 1 else ''}</h2>"
            more = len(entries) - len(rows)
            yield f'<div class="card">{table(names, rows)}{f"<p>and {more} more</p>" if more else ""}</div>'


def parameters(runs: Sequence[Run], keys: Mapping[str, Markup]) -> Iterator[str]:
    """What the runs were told and what it came down to: where they differ first; and the commands."""
    parts = {
        "Options": [run.config for run in runs],
        "What they came down to" if len(runs) > 1 else "What it came down to": [run.table("params") for run in runs],
        "Environment": [run.table("environment") | {"fedmpi": run.known.get("version")} for run in runs],
    }
    shown = {}
    for title, tables in parts.items():
        same, differing = {}, {}
        for name in sorted({name for one in tables for name in one})[:200]:
            values = [text(one.get(name)) for one in tables]
            label = name.replace("_", " ")
            if len(set(values)) == 1:
                same[label] = values[0]
            else:
                differing[label] = Markup("".join(_groups(values, [keys[run.name] for run in runs])))
        content = facts(differing) if differing else ""
        if same and len(runs) > 1:
            content += folded("The same in all runs", facts(same), opened=not differing)
        elif same:
            content += facts(same)
        if content:
            shown[title] = content
    if shown:
        yield "<h2>Parameters and environment</h2>"
        if len(runs) <= _OPEN:
            yield cards(shown)
        else:
            yield from (folded_card(title, content) for title, content in shown.items())
    yield "<h2>The same again</h2>"
    for run in runs:
        system, count = text(run.known.get("system", "SYSTEM")), text(run.known.get("ranks", "N"))
        what = ["attack"] if system == "attacks" else ["run", system]
        command = ["fedmpi", *what, "-n", count, *["--encrypt"] * (run.config.get("encrypt") is True)]
        yield f"<pre>{escape(shlex.join([*command, '--', '--config', f'{run.path}/config.toml']))}</pre>"


def _groups(values: Sequence[str], keys: Sequence[Markup]) -> Iterator[str]:
    """Each value once, with the runs that have it."""
    for value in dict.fromkeys(values):
        having = "".join(key for key, own in zip(keys, values, strict=True) if own == value)
        yield f'<div class="chips"><strong>{escape(value)}</strong> {having}</div>'
