"""The experiments of PPADMM, sections 5.2 and 5.3: Figures 3, 4 and 5, and what a participant that leaves shows."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmpi.data import load
from fedmpi.data.partition import rows_of
from fedmpi.experiments import figures
from fedmpi.experiments.departure import leaks
from fedmpi.experiments.jobs import Run, train_all
from fedmpi.experiments.scale import introduced
from fedmpi.experiments.tables import markdown, write_csv
from fedmpi.ppadmm.params import Params

EPSILONS = ("0.01", "0.1", "1", "10")
METHODS: dict[str, tuple[str, ...]] = {
    "ADMM": ("--method", "admm"),
    "PPADMM": ("--method", "ppadmm"),
    "PPADMM, sha256": ("--method", "ppadmm", "--mask", "sha256"),
    **{f"DSSGD, ε = {epsilon}": ("--method", "dssgd", "--epsilon", epsilon) for epsilon in EPSILONS},
}
ACCURACY = [name for name in METHODS if name != "PPADMM, sha256"]
"""The lines of Figures 3 and 4; with another mask they are the same to the bit."""
TIME = ["ADMM", "PPADMM", "PPADMM, sha256", "DSSGD, ε = 1"]
"""The lines of Figure 5."""
LEFT_AFTER = (2, 3, 5, 10, 20, 30)
"""Iterations after which a participant leaves."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    participants: int
    iterations: int
    data: tuple[str, ...]

    @property
    def summary(self) -> str:
        """For people."""
        return f"{self.participants} participants, {self.iterations} iterations on {' and '.join(self.data)}"


QUICK = Scale("quick", 10, 50, ("synthetic-lasso:n=2000,d=50",))
FULL = Scale("full", 10, 100, ("synthetic-lasso:n=5000,d=100", "synthetic-lasso:n=5000,d=2000", "diabetes"))


@dataclass(frozen=True)
class Line:
    """One run: what metrics.jsonl and result.json say."""

    steps: list[dict[str, float]]
    result: dict[str, Any]

    def over_iterations(self, key: str) -> figures.Line:
        """Iterations and values."""
        return [step["iteration"] for step in self.steps], [step[key] for step in self.steps]


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write figures, tables and report.md.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    out.mkdir(parents=True, exist_ok=True)
    results = train_all(runs(scale, out, data_dir))
    sections = [introduction(scale)]
    for data in scale.data:
        lines = {name: line(folder_of(out, data, name), results) for name in METHODS}
        sections += [accuracy(out, data, lines), times(out, data, lines)]
    sections.append(departures(out, scale))
    path = out / "report.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> list[Run]:
    """All that `reproduce` runs: every method on every data set, for all iterations."""
    common = ["--iterations", str(scale.iterations), "--tolerance", "0"]
    if data_dir is not None:
        common += ["--data-dir", str(data_dir)]
    return [
        Run(
            folder_of(out, data, name),
            scale.participants + 2,
            ("--dataset", data, *common, *options),
            "ppadmm",
            timed=name in TIME,
        )
        for data in scale.data
        for name, options in METHODS.items()
    ]


def folder_of(out: Path, data: str, name: str) -> Path:
    """Of a method's run."""
    return out / "runs" / f"{slug(data)}-{slug(name)}"


def line(folder: Path, results: Mapping[Path, dict[str, Any]]) -> Line:
    """What a run's files say."""
    return Line([json.loads(step) for step in (folder / "metrics.jsonl").read_text().splitlines()], results[folder])


def slug(name: str) -> str:
    """A file name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.replace("ε = ", "").lower())


def introduction(scale: Scale) -> str:
    """What was run."""
    return f"""# PPADMM: accuracy and time, from runs on this machine

`fedmpi reproduce ppadmm`. {introduced(scale, FULL)}

The first pages of the paper are missing from our transcript, with them the size of its data, λ, ρ and DSSGD's
settings: ours are the defaults, σ = 20 is the paper's. What its text says can be compared: PPADMM's error is ADMM's,
close to σ and the same for every ε; DSSGD's is above 100 at ε = 0.1 and falls as ε grows."""


def accuracy(out: Path, data: str, lines: dict[str, Line]) -> str:
    """Figures 3 and 4."""
    rows = [
        {"iteration": int(steps[0]["iteration"])}
        | {f"{name} {key}": step[key] for name, step in zip(ACCURACY, steps, strict=True) for key in KEYS}
        for steps in zip(*(lines[name].steps for name in ACCURACY), strict=True)
    ]
    write_csv(out / f"figures34-{slug(data)}.csv", rows)
    for number, key in ((3, "test_rmse"), (4, "mped")):
        drawn = {name: lines[name].over_iterations(key) for name in ACCURACY}
        figures.over_iterations(out / f"figure{number}-{slug(data)}.png", data, KEYS[key], drawn, log=True)
    table = [{"method": name} | {label: lines[name].steps[-1][key] for key, label in KEYS.items()} for name in ACCURACY]
    central = lines["ADMM"].result["metrics"]["centralized"]
    table.append({"method": "scikit-learn, all rows in one place"} | {KEYS[key]: central[key] for key in KEYS})
    difference = abs(lines["PPADMM"].steps[-1]["test_rmse"] - lines["ADMM"].steps[-1]["test_rmse"])
    return (
        f"## {data}: accuracy (Figures 3 and 4)\n\n![RMSE](figure3-{slug(data)}.png)\n\n"
        f"![MPED](figure4-{slug(data)}.png)\n\nAfter the last iteration "
        f"([CSV](figures34-{slug(data)}.csv)); PPADMM's RMSE differs from ADMM's by {difference:.1e}.\n\n"
        f"{markdown(table)}"
    )


KEYS = {"test_rmse": "RMSE on the test rows", "mped": "MPED"}
"""Metrics and their labels."""


def times(out: Path, data: str, lines: dict[str, Line]) -> str:
    """Figure 5."""
    drawn = {name: lines[name].over_iterations("training_seconds") for name in TIME}
    figures.over_iterations(out / f"figure5-{slug(data)}.png", data, "seconds", drawn, log=False)
    rows = [
        {"iteration": int(steps[0]["iteration"])}
        | {name: step["training_seconds"] for name, step in zip(TIME, steps, strict=True)}
        for steps in zip(*(lines[name].steps for name in TIME), strict=True)
    ]
    write_csv(out / f"figure5-{slug(data)}.csv", rows)
    return (
        f"## {data}: computation time (Figure 5)\n\n![seconds](figure5-{slug(data)}.png)\n\nSeconds since the first "
        f"iteration, without the measuring, all ranks on {os.cpu_count()} cores "
        f"([CSV](figure5-{slug(data)}.csv)). What masks cost is better measured by `fedmpi bench ppadmm`, where the "
        f"methods take turns.\n\n{markdown([rows[-1]])}"
    )


def departures(out: Path, scale: Scale) -> str:
    """What a set that shrinks shows S1."""
    data = load(scale.data[0], regression=True)
    N = scale.participants
    parts = [(data.X_train[rows], data.y_train[rows]) for rows in (rows_of(i, N, len(data.y_train)) for i in range(N))]
    errors = leaks(Params(iterations=max(LEFT_AFTER) + 1), parts)
    rows = [{"left after iteration": it, "distance of the guess": errors[it - 2]} for it in LEFT_AFTER]
    write_csv(out / "departures.csv", rows)
    return (
        "## A participant that leaves\n\nS1 subtracts the sum of those who stay from the sum before, and guesses the "
        "update of the one who left; the distance is relative to that of the mean of all: 1 is nothing learned, 0 all. "
        "Close to convergence S1 knows the update: `--on-dropout stop` closes this, at the price of the run "
        f"([CSV](departures.csv)).\n\n{markdown(rows)}"
    )
