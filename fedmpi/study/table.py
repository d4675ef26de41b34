"""From the results of a study to its table: one row for each method and setting, for people and for programs."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from fedmpi.runs.reading import number
from fedmpi.study.plan import Study
from fedmpi.study.running import Outcome
from fedmpi.study.score import SMALLER_IS_BETTER, score
from fedmpi.systems import find

DASH = "–"

BEYOND = "(T + 1)"
"""Part of the name of adversaries that are more than a method promises to withstand: a control of the attack."""


@dataclass(frozen=True)
class Spread:
    """A number over the seeds."""

    mean: float
    deviation: float | None
    """Standard deviation of one seed; None where there is only one."""

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """None where there is no number."""
        known = [value for value in values if value is not None]
        return cls(mean(known), stdev(known) if len(known) > 1 else None) if known else None

    def text(self, digits: int = 3, *, sign: bool = False) -> str:
        """For people."""
        deviation = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:{'+' if sign else ''}.{digits}f}{deviation}".replace("-", "−")


def middle(spread: Spread | None) -> float | None:
    """The mean, where there is one."""
    return None if spread is None else spread.mean


def deviation(spread: Spread | None) -> float | None:
    """The deviation, where there is one."""
    return None if spread is None else spread.deviation


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    """With the settings."""
    label: str
    """System and method."""
    system: str
    method: str
    settings: Mapping[str, str]
    runs: int
    failure: str
    score_name: str
    score: Spread | None
    gap: Spread | None
    """Score minus that of the same without protection, seed by seed."""
    learns: str
    upload_epsilon: float | None
    """ε of all uploads of one client, against the server."""
    model_epsilon: float | None
    """ε of the models that are published."""
    threshold: float | None
    """T/N: the part of the workers that may collude."""
    seconds: Spread | None
    bytes_sent: Spread | None
    """Of all ranks together."""
    bytes_by_role: Mapping[str, float]
    """Role → bytes that one rank of it sent, of several the mean."""
    cpu_by_role: Mapping[str, float]
    findings: Sequence[Mapping[str, Any]] | None

    @property
    def audit_success(self) -> float | None:
        """The largest part of attempts in which an attack succeeded."""
        parts = [
            one["successes"] / one["attempts"]
            for one in self.findings or ()
            if one["attempts"] and BEYOND not in one["adversary"]
        ]
        return max(parts, default=None)

    @property
    def audit_text(self) -> str:
        """What each adversary got of each thing, by the attack that got most."""
        if self.findings is None:
            return DASH
        best: dict[tuple[str, str], Mapping[str, Any]] = {}
        for one in self.findings:
            key = one["adversary"], one["target"]
            if key not in best or one["successes"] / one["attempts"] > best[key]["successes"] / best[key]["attempts"]:
                best[key] = one
        texts = []
        for (adversary, target), one in best.items():
            guess = " (no more than by guessing)" if one["successes"] and not one["broken"] else ""
            beyond = ", which is more than may collude" if BEYOND in adversary else ""
            texts.append(f"{adversary}{beyond}: {target} in {one['successes']} of {one['attempts']} attempts{guess}")
        return "; ".join(texts) or "no known attack applies to such a run"

    @property
    def epsilon_text(self) -> str:
        """Both ε, as far as there are any."""
        if self.upload_epsilon is None and self.model_epsilon is None:
            return DASH
        return f"{_short(self.upload_epsilon)} uploads, {_short(self.model_epsilon)} model"

    def record(self) -> dict[str, Any]:
        """All digits, for CSV and data frames."""
        return {
            "system": self.system,
            "method": self.method,
            **self.settings,
            "runs": self.runs,
            "score": self.score_name,
            "mean": middle(self.score),
            "deviation": deviation(self.score),
            "gap_to_plain": middle(self.gap),
            "gap_deviation": deviation(self.gap),
            "who_learns_what": self.learns,
            "epsilon_uploads": self.upload_epsilon,
            "epsilon_model": self.model_epsilon,
            "colluding_part": self.threshold,
            "seconds": middle(self.seconds),
            "seconds_deviation": deviation(self.seconds),
            "bytes_sent": middle(self.bytes_sent),
            "bytes_sent_by_role": "; ".join(f"{role} {value:.0f}" for role, value in self.bytes_by_role.items()),
            "cpu_seconds_by_role": "; ".join(f"{role} {value:.3f}" for role, value in self.cpu_by_role.items()),
            "audit_success": self.audit_success,
            "audit": "" if self.findings is None else self.audit_text,
            "failure": self.failure,
        }


def rows_of(study: Study, outcomes: Sequence[Outcome]) -> list[Row]:
    """One row for each line of the study."""
    names = list(dict.fromkeys(name for cell in study.cells for name, _ in cell.settings))
    return [_row(outcome, names) for outcome in outcomes]


def _row(outcome: Outcome, names: Sequence[str]) -> Row:
    cell, results = outcome.cell, list(outcome.results.values())
    settings = dict(cell.settings)
    scored = {seed: score(result) for seed, result in outcome.results.items()}
    score_name = next((name for name, _ in scored.values() if name), "")
    first = results[0] if results else {}
    params = first.get("params", {})
    system = find(cell.system)
    epsilon = [_epsilons(result) for result in results]
    return Row(
        name=cell.name,
        label=cell.label,
        system=cell.system,
        method=cell.method,
        settings={name: settings.get(name, "") for name in names},
        runs=len(results),
        failure=outcome.failure,
        score_name=score_name,
        score=Spread.of(value for _, value in scored.values()),
        gap=Spread.of(_gap(scored[seed], result, outcome.plain.get(seed)) for seed, result in outcome.results.items()),
        learns=system.who_learns(cell.method, params) if results else "",
        upload_epsilon=_mean(upload for upload, _ in epsilon),
        model_epsilon=_mean(model for _, model in epsilon),
        threshold=_part(params.get("T"), params.get("N")),
        seconds=Spread.of(number(result.get("seconds", {}).get("total")) for result in results),
        bytes_sent=Spread.of(_all_bytes(result) for result in results),
        bytes_by_role=_by_role([result["bytes"]["sent"] for result in results]),
        cpu_by_role=_by_role([result["cpu_seconds"] for result in results]),
        findings=outcome.findings,
    )


def _gap(own: tuple[str, float | None], result: Mapping[str, Any], plain: Mapping[str, Any] | None) -> float | None:
    metrics = result.get("metrics", {})
    measured = metrics.get("plain") or metrics.get("centralized")
    if plain is not None:
        name, value = score(plain)
    elif isinstance(measured, dict):
        name, value = score({"metrics": measured})
    else:
        return None
    return None if own[1] is None or value is None or name != own[0] else own[1] - value


def _epsilons(result: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Of all uploads of a client, and of the models."""
    privacy = result.get("privacy") or {}
    accountant = result.get("params", {}).get("accountant", "rdp")
    upload, model = (number((privacy.get(name) or {}).get(accountant)) for name in ("upload", "model"))
    return upload, model


def _all_bytes(result: Mapping[str, Any]) -> float:
    sent, roles = result["bytes"]["sent"], result["roles"]
    last = list(roles)[-1]
    return float(sum(sent.get(role, 0) for role in list(roles)[:-1]) + sent.get(f"{last}_mean", 0) * roles[last])


def _by_role(values: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = [name for name in (values[0] if values else {}) if not name.endswith("_max")]
    return {
        name.removesuffix("_mean").replace("_", " "): mean(float(one[name]) for one in values if name in one)
        for name in names
    }


def _mean(values: Iterable[float | None]) -> float | None:
    return middle(Spread.of(values))


def _part(few: Any, many: Any) -> float | None:
    few, many = number(few), number(many)
    return few / many if few is not None and many else None


def _short(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3g}"


def size(value: float) -> str:
    """Bytes, for people."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


def _digits(value: float) -> str:
    return f"{value:.3g}"


@dataclass(frozen=True)
class Axis:
    """What a score is drawn against."""

    title: str
    short: str
    value: Callable[[Row], float | None]
    """None: the row has no such number, and is not drawn."""
    without: str
    """Why rows are not drawn, for people."""
    more_is_better: bool = False
    log: bool = False
    """In powers of ten, where the values span more than one."""
    text: Callable[[float], str] = _digits
    """How its numbers are written."""

    def front(self, rows: Sequence[Row]) -> set[str]:
        """Names of the rows that no other row beats on this axis and by its score at once."""
        sign = -1.0 if self.more_is_better else 1.0
        points = {
            row.name: (sign * x, -row.score.mean if row.score_name in SMALLER_IS_BETTER else row.score.mean)
            for row in rows
            if (x := self.value(row)) is not None and row.score is not None
        }
        return {
            name
            for name, (x, y) in points.items()
            if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points.values())
        }


AXES = (
    Axis("ε of all uploads of a client", "ε", lambda row: row.upload_epsilon, "no ε is known of them", log=True),
    Axis(
        "T/N, the part of the workers that may collude",
        "T/N",
        lambda row: row.threshold,
        "no such bound is known of them",
        more_is_better=True,
    ),
    Axis(
        "success of the best attack on each",
        "attack",
        lambda row: row.audit_success,
        "no attack was made on them",
    ),
    Axis(
        "bytes sent by all ranks", "bytes", lambda row: middle(row.bytes_sent), "they sent nothing", text=size, log=True
    ),
    Axis("seconds", "seconds", lambda row: middle(row.seconds), "no time is known of them", log=True),
)


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows that one picture can show: those with the score that most rows have."""
    names = [row.score_name for row in rows if row.score is not None]
    most = max(dict.fromkeys(names), key=names.count, default="")
    return [row for row in rows if row.score is not None and row.score_name == most]


def fronts(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Title of an axis → the rows on its Pareto front."""
    return {axis.title: axis.front(compared(rows)) for axis in AXES}


def remarks(study: Study, rows: Sequence[Row]) -> list[str]:
    """What must be said beside the table, in whole sentences."""
    lines = [f"{remark[0].upper()}{remark[1:]}." for remark in study.remarks]
    shown = compared(rows)
    others = [row for row in rows if row.score is not None and row not in shown]
    if others:
        names = ", ".join(dict.fromkeys(row.label for row in others))
        lines.append(f"{names}: measured by {others[0].score_name}, and therefore not in the picture.")
    return lines


def winners(rows: Sequence[Row]) -> list[str]:
    """What the table says at a glance."""
    shown, lines = compared(rows), []
    if not shown:
        return []
    smaller = shown[0].score_name in SMALLER_IS_BETTER

    def first(what: str, rows: Sequence[Row], key: Callable[[Row], float], text: Callable[[Row], str]) -> None:
        if rows:
            best = min(rows, key=key)
            lines.append(f"{what}: {best.name}, {text(best)}")

    first(
        f"Best {shown[0].score_name}",
        shown,
        lambda row: _mean_of(row.score) * (1 if smaller else -1),
        lambda row: row.score.text() if row.score else "",
    )
    with_gap = [row for row in shown if row.gap is not None]
    first(
        "Smallest gap to plain",
        with_gap,
        lambda row: abs(_mean_of(row.gap)),
        lambda row: row.gap.text(sign=True) if row.gap else "",
    )
    first("Fewest bytes", shown, lambda row: _mean_of(row.bytes_sent), lambda row: size(_mean_of(row.bytes_sent)))
    first("Shortest time", shown, lambda row: _mean_of(row.seconds), lambda row: f"{_mean_of(row.seconds):.3g} s")
    return lines


def _mean_of(spread: Spread | None) -> float:
    return math.inf if spread is None else spread.mean
