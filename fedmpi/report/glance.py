"""What a run is called in a report, on which data it was, and what is said of it first."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from fedmpi.errors import UsageError
from fedmpi.pages.html import text
from fedmpi.report.charts import quantity
from fedmpi.runs.reading import NAME, Run, number, numbers
from fedmpi.systems import find

_LETTERS = 18
"""Of a name at the end of a line, at most."""

_MAIN = (
    *("test_accuracy", "test_r2", "test_rmse", "test_mse", "validation_accuracy", "validation_rmse"),
    *("train_accuracy", "train_rmse", "test_loss", "train_loss"),
)
"""The metric that is told first: the first of these that a run has."""

_CLEAR = ("plain", "fedavg", "fedavg-mse", "fedavg-ce", "admm")
"""Methods that hide nothing: what the others of the same system are compared with."""

_ACCOUNTANTS = ("prv", "rdp")
"""The tighter one first."""


def short_names(runs: Sequence[Run]) -> dict[str, str]:
    """Name of a run → a shorter one, for labels: without its time, or the digest of its options that a study gives it;
    of long names without the words that all have, and without the middle of what is still long.
    """
    bare = [re.sub(r"-\d{8}-\d{6}|(?<=-seed)(\d+)-[0-9a-f]{10}$", r"\1", run.name) for run in runs]
    if len(runs) > 1 and max(map(len, bare)) > _LETTERS:
        words = [re.findall(r"[^-_ ]+[-_ ]*", name) for name in bare]
        first = sum(1 for _ in takewhile(lambda own: len(set(own)) == 1, zip(*words, strict=False)))
        common = set.intersection(*({word.rstrip("-_ ") for word in own[first:]} for own in words))
        rest = ["".join(w for w in own[first:] if w.rstrip("-_ ") not in common).rstrip("-_ ") for own in words]
        bare = rest if all(rest) and len(set(rest)) == len(rest) else bare
    found: dict[str, str] = {}
    for run, name in zip(runs, bare, strict=True):
        one = name if bare.count(name) == 1 else run.name
        if len(one) > _LETTERS:
            one = f"{one[:8]}…{one[-9:]}"
        if one in found.values():
            one = f"{one[: _LETTERS - 5]} #{len(found) + 1}"
        found[run.name] = one
    return found


def by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Data set, for people → the runs on it."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(data_of(run), []).append(run)
    return found


def data_of(run: Run) -> str:
    """The training data of a run, for people."""
    data = run.table("dataset")
    if not data:
        name = run.config.get("dataset")
        return f"{text(name)} (the run does not say how many rows)" if name else "unknown data"
    classes = data.get("classes")
    of = ""
    if isinstance(classes, list) and classes:
        of = f", classes {text(classes)}" if len(classes) <= 4 else f", {len(classes)} classes"
    return f"{text(data.get('name'))}: {text(data.get('m'))} training rows × {text(data.get('d'))} features{of}"


def final(run: Run) -> dict[str, float]:
    """The metrics at the end, or as far as the run came."""
    return numbers(run.table("metrics")) or numbers(run.metrics[-1] if run.metrics else {})


def main_metric(run: Run) -> str | None:
    """Name of the metric that is told first."""
    return next((name for name in _MAIN if name in final(run)), None)


def plain_of(run: Run) -> dict[str, float]:
    """What the run itself reached on the same rows in the clear; empty where it did not try."""
    return numbers(run.table("metrics", "plain")) or numbers(run.table("metrics", "centralized"))


def method_of(run: Run) -> str:
    """System and method."""
    named = (run.known.get("system"), run.known.get("method") or run.config.get("method"))
    return " ".join(dict.fromkeys(text(word) for word in named if word is not None)) or "–"


def gap(run: Run, others: Sequence[Run], names: Mapping[str, str]) -> str:
    """How far the main metric is from the same in the clear, among runs on the same data."""
    metric = main_metric(run)
    if metric is None:
        return "–"
    reference, of = plain_of(run).get(metric), ""
    if reference is None:
        for other in others:
            same = other.known.get("system") == run.known.get("system")
            if same and other is not run and other.known.get("method") in _CLEAR and metric in final(other):
                reference, of = final(other)[metric], f" to {names[other.name]}"
                break
    if reference is None:
        return "–"
    difference = final(run)[metric] - reference
    if abs(difference) < 5e-5:
        return f"same as{of.removeprefix(' to')}" if of else "none"
    if metric.endswith("accuracy"):
        return f"{difference * 100:+.2f} points{of}".replace("-", "−")
    return f"{difference:+.3g}{of}".replace("-", "−")


def who_learns(run: Run) -> str:
    """Privacy in words."""
    try:
        system = find(str(run.known.get("system")))
    except (UsageError, ImportError):  # a system of a package that is not here, or not whole
        return "–"
    return system.who_learns(str(run.known.get("method")), run.table("params")) or "–"


def epsilon(run: Run) -> str:
    """ε of what is seen, where the run accounted for it."""
    last = run.metrics[-1] if run.metrics else {}
    told = []
    for view, name in (("upload", "a client's uploads"), ("model", "the model")):
        values = numbers(run.table("privacy", view))
        value = next((values[one] for one in _ACCOUNTANTS if one in values), number(last.get(f"epsilon_{view}")))
        if value is not None:
            told.append(f"{value:.3g} of {name}")
        elif view in run.table("privacy"):
            told.append(f"no bound for {name}")
    return ", ".join(told) or "–"


def total_of(run: Run, *keys: str) -> float | None:
    """The sum over all ranks of what result.json tells by role."""
    roles = run.roles()
    found = [
        value * (len(roles.get(role.removesuffix("_mean").replace("_", " "), "1")) if role.endswith("_mean") else 1)
        for role, value in numbers(run.table(*keys)).items()
        if not role.endswith("_max")
    ]
    return sum(found) if found else None


def seconds(run: Run) -> str:
    """Of the protocol, or since the start of a run that did not end."""
    total = number(run.table("seconds").get("total"))
    if total is not None:
        return quantity(total, "s")
    last = number(run.metrics[-1].get("seconds")) if run.metrics else None
    return "–" if last is None else f"{quantity(last, 's')} so far"


def sent(run: Run) -> str:
    """Bytes that all ranks sent, or rank 0 in a run that did not end."""
    total = total_of(run, "bytes", "sent")
    if total is not None:
        return quantity(total, "B")
    last = number(run.metrics[-1].get("sent_bytes")) if run.metrics else None
    return "–" if last is None else f"{quantity(last, 'B')} by rank 0 so far"


def state(run: Run) -> str:
    """What is wrong with its end; empty for a run that ended."""
    if run.result:
        return ""
    how_far = f" after step {run.steps[-1]:g}" if run.metrics else ""
    return f"no result.json: it was stopped{how_far}, or is still running"


def ranks(run: Run) -> str:
    """How many of each role."""
    return ", ".join(f"{len(ranks)} {role}{'s' if len(ranks) > 1 else ''}" for role, ranks in run.roles().items())


def others(run: Run) -> dict[str, Any]:
    """The metrics that are not told first."""
    main = main_metric(run)
    return {name: value for name, value in final(run).items() if name != main and NAME.fullmatch(name)}
