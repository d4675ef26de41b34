"""What is read from run folders. A folder may come from somebody else: what is not as it should be is left out."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmpi.errors import UsageError
from fedmpi.files import read_file

_LIMIT_BYTES = 1 << 28

_LARGEST = 1e100

_NOT_CURVES = {"iteration", "round", "case", "seconds", "sent_bytes", "answers", "late"}

NAME = re.compile(r"[\w.-]{1,64}")
"""What a metric, a role or a message type may be called."""


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path
    name: str
    """Unique among the runs of a report."""
    config: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    """Empty for a run that did not end."""
    start: dict[str, Any] = field(default_factory=dict)
    """What was known of it when training began; empty for a run that ended, whose result says the same."""
    frames: list[dict[str, Any]] = field(default_factory=list)

    @property
    def known(self) -> dict[str, Any]:
        """What the run says of itself: its result, or how it began."""
        return self.result or self.start

    @property
    def steps(self) -> list[float]:
        """Iteration or round of each line of `metrics`."""
        return [
            step if (step := number(line.get("iteration"))) is not None else k for k, line in enumerate(self.metrics)
        ]

    def curves(self, against: str = "iteration") -> dict[str, tuple[list[float], list[float]]]:
        """Metric → steps and values, where it has one; or, in place of steps, the values of another key."""
        names = dict.fromkeys(name for line in self.metrics for name in line if name not in _NOT_CURVES | {against})
        xs = self.steps if against == "iteration" else [number(line.get(against)) for line in self.metrics]
        found = {}
        for name in filter(NAME.fullmatch, names):
            lines = zip(xs, self.metrics, strict=True)
            points = [(x, y) for x, line in lines if x is not None and (y := number(line.get(name))) is not None]
            if points:
                found[name] = ([x for x, _ in points], [y for _, y in points])
        return found

    def table(self, *keys: str) -> dict[str, Any]:
        """An object in result.json, or in start.json of a run that did not end; empty if it is none."""
        value: Any = self.known
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def roles(self) -> dict[str, range]:
        """Role → ranks; roles follow one another in the order of result.json."""
        found, first = {}, 0
        for role, count in self.table("roles").items():
            if isinstance(count, int) and 0 <= count < 1 << 20 and NAME.fullmatch(role):
                found[role.replace("_", " ")] = range(first, first + count)
                first += count
        return found


def number(value: Any) -> float | None:
    """A number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        return None
    return float(value)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among an object's values."""
    return {name: value for name, one in values.items() if (value := number(one)) is not None}


def read_runs(paths: list[Path]) -> list[Run]:
    """Read run folders.

    Raises
    ------
    UsageError
        If one of them is none.
    """
    runs: list[Run] = []
    for path in paths:
        if not (path / "config.toml").is_file() and not (path / "result.json").is_file():
            raise UsageError(f"a run must be a folder with config.toml or result.json, got {path}")
        name = path.resolve().name
        taken = sum(run.path.resolve().name == name for run in runs)
        result, start = ([*_objects([text_of(path / file)]), {}][0] for file in ("result.json", "start.json"))
        runs.append(
            Run(
                path,
                f"{name} ({taken + 1})" if taken else name,
                _toml(path / "config.toml"),
                json_lines(path / "metrics.jsonl"),
                result,
                start,
                json_lines(path / "frames.jsonl"),
            )
        )
    return runs


def runs_in(folder: Path) -> list[Path]:
    """The runs of a study, which lie in its folder runs, in the order of their names; of another folder itself."""
    if (folder / "config.toml").is_file() or (folder / "result.json").is_file():
        return [folder]
    places = sorted((folder / "runs").glob("*/config.toml"))
    found = [one.parent for one in places if not one.parent.is_symlink() and one.is_file()]
    return found or [folder]


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one a line; the last line may still be in the making."""
    return _objects(text_of(path).splitlines())


def _objects(texts: list[str]) -> list[dict[str, Any]]:
    found = []
    for text in texts:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def text_of(path: Path) -> str:
    """What a file holds; nothing where it can't be read."""
    try:
        return read_file(path, _LIMIT_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text_of(path))
    except (ValueError, RecursionError):  # also of an integer of thousands of digits
        return {}
