"""What is run for Figure 3, accuracy against τ² for several levels of noise, and with `stated` and `uploads`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmpi.errors import UsageError
from fedmpi.pages import figures
from fedmpi.reproduce.niss import epsilon, pages, stated, uploads
from fedmpi.reproduce.niss.settings import CLIENTS, FRACTION, TAU_SQUARED, Curve, Panel, Point, Scale
from fedmpi.reproduce.shared import data_options, present
from fedmpi.runs.batch import Run, train_all

EVALUATIONS = 6
"""Points of a curve over the rounds."""


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None, only: str = "") -> Path:
    """Run what is not there yet, and write the figures, tables and report.md.

    Parameters
    ----------
    only : str
        How the panels' keys must begin, such as mnist-iid-mlp; or epsilon, for a figure that the paper has not.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    if only == epsilon.KEY:
        return epsilon.reproduce(scale, out, data_dir)
    results = train_all(runs(scale, out, data_dir, only))
    panels = panels_of(scale, only)
    points = {
        panel: [
            Point(noise, tau2, method, [curve(run.folder, results[run.folder]) for run in own])
            for method, noise, tau2, own in points_of(panel, scale, out, data_dir)
        ]
        for panel in panels
    }
    own = stated.runs(scale, out, panels[0], data_dir)
    told = {name: results[run.folder] for name, run in own.items()}
    attacked = uploads.attack_all(out, panels[-1].dataset, scale.attacked, scale.steps, results, data_dir)
    sections = [pages.figure3(out, scale, points)]
    if told:
        sections.append(stated.section(out, scale, panels[0], points[panels[0]][0], told))
    return pages.write(out, scale, [*sections, pages.figure4(out, attacked)])


def runs(scale: Scale, out: Path, data_dir: Path | None = None, only: str = "") -> list[Run]:
    """All that `reproduce` runs.

    Raises
    ------
    UsageError
        If a data set is missing, before hours of work.
    """
    panels = panels_of(scale, only)
    here = present(data_dir)
    for name in dict.fromkeys(panel.dataset for panel in panels):
        if name not in here:
            raise UsageError(f"data set {name} must be there: fedmpi data fetch {name}")
    found = [run for panel in panels for _, _, _, own in points_of(panel, scale, out, data_dir) for run in own]
    return [
        *found,
        *stated.runs(scale, out, panels[0], data_dir).values(),
        *uploads.runs(out, panels[-1].dataset, data_dir),
    ]


def panels_of(scale: Scale, only: str = "") -> list[Panel]:
    """The panels of Figure 3, or those whose keys begin so, with some that are run only then."""
    panels = [
        Panel(dataset, partition, model)
        for dataset in scale.datasets
        for partition in ("iid", "shards")
        for model in scale.models
    ]
    if only:
        panels += scale.asked
    chosen = [panel for panel in panels if panel.key.startswith(only)]
    if not chosen:
        raise UsageError(
            f"--only must be {epsilon.KEY}, or begin like one of {', '.join(p.key for p in panels)}, got {only}"
        )
    return chosen


def points_of(
    panel: Panel, scale: Scale, out: Path, data_dir: Path | None
) -> Iterator[tuple[str, float, float, list[Run]]]:
    """Method, noise, τ² and runs, one for each seed, of all points of one panel.

    FedAvg, and for each level of noise NISS with every τ² > 0, and DP-FedAvg. τ² = 0 is FedAvg to the bit, whatever the
    noise.
    """
    m, scale = FRACTION * CLIENTS, scale.of(panel)
    common = [*panel.options, "--rounds", str(scale.rounds)]
    common += ["--evaluate-every", str(-(-scale.rounds // EVALUATIONS)), *data_options(data_dir)]

    def one(method: str, noise: float, tau2: float) -> tuple[str, float, float, list[Run]]:
        options = [*common, "--method", method, "--noise-std", repr(noise / m**0.5)]
        if method == "niss":
            options += ["--tau-squared", str(tau2)]
        name = f"{panel.key}-{method}-{noise:g}-{tau2:g}"
        each = [
            Run(out / "runs" / f"{name}-{seed}", scale.ranks, (*options, "--seed", str(seed)), "niss")
            for seed in range(scale.seeds)
        ]
        return method, noise, tau2, each

    yield one("fedavg", 0.0, 0.0)
    for noise in scale.noise:
        for tau2 in TAU_SQUARED[1:]:
            yield one("niss", noise, tau2)
        if scale.baseline:
            yield one("dp-fedavg", noise, 1.0)


def curve(folder: Path, result: Mapping[str, Any]) -> Curve:
    """A run, with the accuracies of its metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Curve(result, [line["iteration"] for line in lines], [line["test_accuracy"] for line in lines])
