"""What is run for Figures 3, 4 and 5, and for what a participant that leaves shows; how its numbers are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmpi.data import load
from fedmpi.data.partition import rows_of
from fedmpi.pages import figures
from fedmpi.ppadmm.params import Params
from fedmpi.reproduce.ppadmm import pages
from fedmpi.reproduce.ppadmm.departure import leaks
from fedmpi.reproduce.ppadmm.settings import LEFT_AFTER, METHODS, TIME, TURNS, Line, Scale, slug
from fedmpi.reproduce.shared import data_options
from fedmpi.runs.batch import Run, train_all


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write figures, tables and report.md.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    results = train_all(runs(scale, out, data_dir))
    lines = {data: {name: line(folder_of(out, data, name), results) for name in METHODS} for data in scale.data}
    turns = {
        data: [
            {name: line(folder_of(out, data, name, turn), results).seconds for name in TIME} for turn in range(TURNS)
        ]
        for data in scale.data
    }
    return pages.write(out, scale, lines, turns, departures(scale))


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> list[Run]:
    """All that `reproduce` runs: every method on every data set, for all iterations; those that are timed in turns."""
    common = ["--iterations", str(scale.iterations), "--tolerance", "0", "--rho", "mean", *data_options(data_dir)]
    return [
        Run(
            folder_of(out, data, name, turn),
            scale.participants + 2,
            ("--dataset", data, *common, *options),
            "ppadmm",
            timed=name in TIME,
        )
        for data in scale.data
        for turn in range(TURNS)
        for name, options in METHODS.items()
        if turn == 0 or name in TIME
    ]


def folder_of(out: Path, data: str, name: str, turn: int = 0) -> Path:
    """Of a method's run."""
    return out / "runs" / (f"{slug(data)}-{slug(name)}" + (f"-turn{turn + 1}" if turn else ""))


def line(folder: Path, results: Mapping[Path, dict[str, Any]]) -> Line:
    """What a run's files say."""
    return Line([json.loads(step) for step in (folder / "metrics.jsonl").read_text().splitlines()], results[folder])


def departures(scale: Scale) -> dict[int, float]:
    """Iteration after which a participant leaves → distance of what S1 then guesses; see `leaks`."""
    data = load(scale.data[0], regression=True)
    N = scale.participants
    parts = [(data.X_train[rows], data.y_train[rows]) for rows in (rows_of(i, N, len(data.y_train)) for i in range(N))]
    errors = leaks(Params(iterations=max(LEFT_AFTER) + 1, rho="mean"), parts)
    return {it: errors[it - 2] for it in LEFT_AFTER}
