"""One page about one run or several, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fedmpi.pages.html import Markup, card, cards, facts, key, page, table
from fedmpi.report import details
from fedmpi.report.charts import line_chart
from fedmpi.report.curves import AXES, pictures
from fedmpi.report.gallery import gallery
from fedmpi.report.glance import (
    by_data,
    epsilon,
    final,
    gap,
    main_metric,
    method_of,
    ranks,
    seconds,
    sent,
    short_names,
    state,
    who_learns,
)
from fedmpi.report.sequence import diagram
from fedmpi.runs.reading import Run
from fedmpi.version import __version__

_HOW_READ = (
    "Gap to plain: the same rows trained in the clear, by the run itself or by the run that is named. Seconds are "
    "those of the protocol, without start-up; bytes are what all ranks sent."
)

_MOST_WARNINGS = 20


def report_page(runs: Sequence[Run]) -> str:
    """The page, as HTML."""
    names, numbers = short_names(runs), {run.name: k for k, run in enumerate(runs)}
    keys = {run.name: key(names[run.name], numbers[run.name]) for run in runs}
    title = names[runs[0].name] if len(runs) == 1 else f"{len(runs)} runs side by side"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Read by fedmpi {__version__}. All that this page shows was recorded by the '
        f"run{'s' * (len(runs) > 1)} themselves.</p>".replace("run themselves", "run itself"),
        *(_one(runs[0], names) if len(runs) == 1 else _glance(runs, names, keys)),
        *_images(runs),
        *_curves(runs),
        *(_more(runs, keys) if len(runs) > 1 else []),
        *_warnings(runs, keys),
        *details.costs(runs, names, numbers),
        *(details.rounds(runs) if len(runs) > 1 else []),
        *details.budgets(runs),
        *details.failures(runs),
        *details.parameters(runs, keys),
    ]
    return page(f"fedmpi: {', '.join(names.values())}", body)


def _result(run: Run) -> tuple[str, str]:
    """Name and value of the metric that is told first."""
    metric = main_metric(run)
    return ("–", "–") if metric is None else (metric.replace("_", " "), f"{final(run)[metric]:.4g}")


def _one(run: Run, names: Mapping[str, str]) -> Iterator[str]:
    name, value = _result(run)
    rows: dict[str, Any] = {
        name: value,
        "gap to plain": gap(run, [run], names),
        "who learns what": who_learns(run),
        "ε": epsilon(run),
        "seconds": seconds(run),
        "bytes sent": sent(run),
        "system and method": method_of(run),
        "ranks": ranks(run),
        "training data": next(iter(by_data([run]))),
    }
    if ended := state(run):
        rows["ended"] = Markup(f'<span class="bad">{escape(ended)}</span>')
    rows |= {name.replace("_", " "): value for name, value in details.more(run).items()}
    overview = {"At a glance": f'{facts(rows)}<p class="note">{_HOW_READ}</p>'}
    if picture := diagram(run):
        overview["Roles, and one round"] = f'{picture}<p class="note">{details.DRAWN_FROM}</p>'
    yield cards(overview)


def _glance(runs: Sequence[Run], names: Mapping[str, str], keys: Mapping[str, Markup]) -> Iterator[str]:
    yield "<h2>At a glance</h2>"
    groups = by_data(runs)
    if len(groups) > 1:
        yield (
            f'<p class="soft">These runs were on {len(groups)} different sets of rows. Results on different rows '
            "cannot be compared, so each set has its own table and its own charts.</p>"
        )
    for data, own in groups.items():
        results = {run.name: _result(run) for run in own}
        metrics = {name for name, _ in results.values()} - {"–"}
        best = _best(own)
        head = [metrics.copy().pop() if len(metrics) == 1 else "result"]
        head += ["gap to plain", "who learns what", "ε", "seconds", "bytes sent"]
        rows: dict[str, list[Any]] = {}
        for run in own:
            name, value = results[run.name]
            shown = value if len(metrics) == 1 or name == "–" else f"{value} ({name})"
            first = Markup(f'<span class="best">{escape(shown)}</span>') if run.name in best else shown
            ended = state(run)
            told = Markup(keys[run.name] + (f'<br><span class="bad">{escape(ended)}</span>' if ended else ""))
            rows[told] = [first, gap(run, own, names), who_learns(run), epsilon(run), seconds(run), sent(run)]
        yield card(data, table(head, rows, corner="run"))
    yield f'<p class="note">{_HOW_READ} The best result on the same rows is bold.</p>'


def _best(runs: Sequence[Run]) -> set[str]:
    """Names of the runs with the best result, among those whose metric is the same; none where there is one run."""
    metrics = [main_metric(run) for run in runs]
    if len(runs) < 2 or len(set(metrics)) != 1 or (metric := metrics[0]) is None:
        return set()
    values = {run.name: final(run)[metric] for run in runs}
    best = max(values.values()) if metric.endswith(("accuracy", "r2")) else min(values.values())
    return {name for name, value in values.items() if value == best}


def _more(runs: Sequence[Run], keys: Mapping[str, Markup]) -> Iterator[str]:
    rest: dict[str, list[Any]] = {}
    for run in runs:
        if more := details.more(run):
            listed = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in more.items())
            rest[keys[run.name]] = [ranks(run) or "–", method_of(run), listed]
    if rest:
        yield details.folded_card("More numbers", table(["ranks", "system and method", "metrics"], rest, corner="run"))


def _warnings(runs: Sequence[Run], keys: Mapping[str, Markup]) -> Iterator[str]:
    lines = []
    for run in runs:
        found = run.result.get("warnings")
        for one in found[:_MOST_WARNINGS] if isinstance(found, list) else []:
            lines.append(f"<li>{keys[run.name] + ': ' if len(runs) > 1 else ''}{escape(str(one)[:500])}</li>")
    if lines:
        yield f'<h2>Warnings</h2><div class="card"><ul>{"".join(lines)}</ul></div>'


def _images(runs: Sequence[Run]) -> Iterator[str]:
    shown = {run.name: pictures for run in runs if (pictures := gallery(run.path))}
    if shown:
        yield "<h2>What the attack got</h2>"
        yield cards(shown)


def _curves(runs: Sequence[Run]) -> Iterator[str]:
    panels = {axis: "".join(_charts(runs, axis)) for axis in AXES}
    panels = {axis: charts for axis, charts in panels.items() if charts}
    if not panels:
        return
    yield "<h2>Curves</h2>"
    inputs = [
        f'<input type="radio" name="by" id="by-{k}"{" checked" * (k == 0)}><label for="by-{k}">{axis}</label>'
        for k, axis in enumerate(panels)
    ]
    shown = [f'<div class="by by-{k}">{charts}</div>' for k, charts in enumerate(panels.values())]
    yield f'<div class="axes"><span class="soft">Against </span>{"".join(inputs)}{"".join(shown)}</div>'


def _charts(runs: Sequence[Run], axis: str) -> Iterator[str]:
    xlabel = AXES[axis][1]
    by_rows: dict[str, dict[str, str]] = {}
    for one in pictures(runs, axis):
        drawn = line_chart(f"{one.title} against {axis}", xlabel, one.lines, one.numbers, one.levels)
        notes = "".join(f'<p class="note">{escape(note)}</p>' for note in drawn.notes)
        by_rows.setdefault(one.data, {})[one.title] = drawn.svg + notes
    for data, charts in by_rows.items():
        if len(by_data(runs)) > 1:
            yield f"<h3>{escape(data)}</h3>"
        yield cards(charts)
