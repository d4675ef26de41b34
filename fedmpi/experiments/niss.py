"""Figures 3 and 4 of NISS [Yang et al. 2021]: accuracy against τ² for several levels of noise, attacks on uploads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmpi.data import catalogue
from fedmpi.errors import UsageError
from fedmpi.experiments import figures, niss_uploads
from fedmpi.experiments.jobs import Run, train_all
from fedmpi.experiments.scale import introduced

TAU_SQUARED = (0.0, 0.3, 0.6, 1.0)
"""X in the paper's figure."""

CLIENTS, FRACTION = 100, 0.3


@dataclass(frozen=True)
class Panel:
    """One setting of the figure."""

    dataset: str
    partition: str
    model: str
    paper: str
    """Points of accuracy that the paper's text says NISS gains."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.dataset}, {'IID' if self.partition == 'iid' else 'non-IID'}, {self.model.upper()}"

    @property
    def key(self) -> str:
        """For names of folders."""
        return f"{self.dataset}-{self.partition}-{self.model}"


PAPER = {("mnist", "iid"): "12 to 13", ("mnist", "shards"): "30 to 40"}
PAPER |= {("cifar10", "iid"): "15 to 25", ("cifar10", "shards"): "10 to 20"}


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    noise: tuple[float, ...]
    """Standard deviations of the noise in the aggregate, per coordinate, if nothing cancels."""
    rounds: int
    baseline: bool
    """Run DP-FedAvg too, which should equal τ² = 1."""
    ranks: int
    attacked: int
    """Clients whose uploads are attacked."""
    steps: int
    """Of an attack."""

    @property
    def summary(self) -> str:
        """For people."""
        baseline = "with" if self.baseline else "without"
        return (
            f"{', '.join(self.datasets)} with {', '.join(self.models)}, {self.rounds} rounds, noise "
            f"{', '.join(f'{noise:g}' for noise in self.noise)}, {baseline} DP-FedAvg (it equals τ² = 1); in Figure 4 "
            f"{self.attacked} uploads of a kind, at most {self.steps} steps of an attack"
        )


QUICK = Scale("quick", ("mnist",), ("mlp",), (0.03, 0.1), 6, True, 3, 2, 20)
FULL = Scale("full", ("mnist", "cifar10"), ("mlp", "cnn"), (0.01, 0.03, 0.1), 30, True, 4, 6, 150)


@dataclass(frozen=True)
class Point:
    """One run."""

    noise: float
    """0 for FedAvg."""
    tau2: float
    method: str
    result: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """On the test part, in the end."""
        return float(self.result["metrics"]["test_accuracy"])


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None, only: str = "") -> Path:
    """Run what is not there yet, and write the figures, tables and report.md.

    Parameters
    ----------
    only : str
        How the panels' keys must begin, such as mnist-iid-mlp.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    results = train_all(runs(scale, out, data_dir, only))
    panels = panels_of(scale, only)
    points = {
        panel: [
            Point(noise, tau2, method, results[run.folder])
            for method, noise, tau2, run in points_of(panel, scale, out, data_dir)
        ]
        for panel in panels
    }
    figure4 = niss_uploads.figure4(out, panels[-1].dataset, scale.attacked, scale.steps, data_dir)
    return write(out, scale, points, figure4)


def runs(scale: Scale, out: Path, data_dir: Path | None = None, only: str = "") -> list[Run]:
    """All that `reproduce` runs.

    Raises
    ------
    UsageError
        If a data set is missing, before hours of work.
    """
    panels = panels_of(scale, only)
    present = {entry.name: entry.present for entry in catalogue(data_dir)}
    for name in dict.fromkeys(panel.dataset for panel in panels):
        if not present[name]:
            raise UsageError(f"data set {name} must be there: fedmpi data fetch {name}")
    found = [run for panel in panels for _, _, _, run in points_of(panel, scale, out, data_dir)]
    return [*found, *niss_uploads.runs(out, panels[-1].dataset, data_dir)]


def panels_of(scale: Scale, only: str = "") -> list[Panel]:
    """The panels of Figure 3, or those whose keys begin so."""
    panels = [
        Panel(dataset, partition, model, PAPER[dataset, partition])
        for dataset in scale.datasets
        for partition in ("iid", "shards")
        for model in scale.models
    ]
    chosen = [panel for panel in panels if panel.key.startswith(only)]
    if not chosen:
        raise UsageError(f"--only must begin like one of {', '.join(p.key for p in panels)}, got {only}")
    return chosen


def points_of(panel: Panel, scale: Scale, out: Path, data_dir: Path | None) -> Iterator[tuple[str, float, float, Run]]:
    """Method, noise, τ² and run of all points of one panel.

    FedAvg, and for each level of noise NISS with every τ² > 0, and DP-FedAvg. τ² = 0 is FedAvg to the bit, whatever the
    noise.
    """
    m = FRACTION * CLIENTS
    common = ["--dataset", panel.dataset, "--partition", panel.partition, "--model", panel.model]
    common += ["--clients", str(CLIENTS), "--fraction", str(FRACTION), "--rounds", str(scale.rounds)]
    common += ["--evaluate-every", str(scale.rounds), *(["--data-dir", str(data_dir)] if data_dir else [])]

    def one(method: str, noise: float, tau2: float) -> tuple[str, float, float, Run]:
        options = [*common, "--method", method, "--noise-std", repr(noise / m**0.5)]
        if method == "niss":
            options += ["--tau-squared", str(tau2)]
        path = out / "runs" / f"{panel.key}-{method}-{noise:g}-{tau2:g}"
        return method, noise, tau2, Run(path, scale.ranks, tuple(options), "niss")

    yield one("fedavg", 0.0, 0.0)
    for noise in scale.noise:
        for tau2 in TAU_SQUARED[1:]:
            yield one("niss", noise, tau2)
        if scale.baseline:
            yield one("dp-fedavg", noise, 1.0)


def write(out: Path, scale: Scale, points: dict[Panel, list[Point]], figure4: str) -> Path:
    """Draw Figure 3, and write report.md, with the section on Figure 4."""
    lines = {}
    for panel, found in points.items():
        fedavg = found[0].accuracy
        lines[panel.title] = {
            f"noise {noise:g}": (
                list(TAU_SQUARED),
                [fedavg] + [p.accuracy for p in found if p.noise == noise and p.method == "niss"],
            )
            for noise in scale.noise
        }
    figures.panels(out / "figure3.png", "NISS: accuracy against τ²", lines, "τ² (0: FedAvg)", "test accuracy")
    text = [
        "# NISS",
        "",
        f"`fedmpi reproduce niss`. {introduced(scale, FULL)}",
        "",
        "## Figure 3: accuracy against τ²",
        "",
        f"K = {CLIENTS} clients, {FRACTION:g} of them in a round, E = 5, B = 10, η = 0.01, ζ = 3, "
        f"{scale.rounds} rounds. Noise: its standard deviation per coordinate in the aggregate if nothing cancels, "
        "σ_k √m. τ² = 0 gives the model of FedAvg to the bit, at any noise. Gain: points of τ² = 0 over τ² = 1.",
        "",
        "![accuracy against τ²](figure3.png)",
        "",
        "| setting | noise | "
        + " | ".join(f"τ² = {t:g}" for t in TAU_SQUARED)
        + " | DP-FedAvg | gain | paper's gain |",
        "| --- | ---: |" + " ---: |" * len(TAU_SQUARED) + " ---: | ---: | ---: |",
    ]
    for panel, found in points.items():
        for noise in scale.noise:
            own = [found[0].accuracy] + [p.accuracy for p in found if p.noise == noise and p.method == "niss"]
            dp = next((f"{100 * p.accuracy:.2f} %" for p in found if p.noise == noise and p.method == "dp-fedavg"), "")
            cells = [f"{100 * a:.2f} %" for a in own]
            gain = f"{100 * (own[0] - own[-1]):.1f}"
            text.append(f"| {panel.title} | {noise:g} | {' | '.join(cells)} | {dp} | {gain} | {panel.paper} |")
    report = out / "report.md"
    report.write_text("\n".join([*text, "", figure4]) + "\n", encoding="utf-8")
    return report
