"""What is run for Figure 3, accuracy against τ² for several levels of noise, and with `uploads` for Figure 4."""

from collections.abc import Iterator
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.pages import figures
from fedmpi.reproduce.niss import epsilon, pages, uploads
from fedmpi.reproduce.niss.settings import CLIENTS, FRACTION, TAU_SQUARED, Panel, Point, Scale
from fedmpi.reproduce.shared import data_options, present
from fedmpi.runs.batch import Run, train_all


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
            Point(noise, tau2, method, results[run.folder])
            for method, noise, tau2, run in points_of(panel, scale, out, data_dir)
        ]
        for panel in panels
    }
    attacked = uploads.attack_all(out, panels[-1].dataset, scale.attacked, scale.steps, data_dir)
    return pages.write(out, scale, points, attacked)


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
    found = [run for panel in panels for _, _, _, run in points_of(panel, scale, out, data_dir)]
    return [*found, *uploads.runs(out, panels[-1].dataset, data_dir)]


def panels_of(scale: Scale, only: str = "") -> list[Panel]:
    """The panels of Figure 3, or those whose keys begin so."""
    panels = [
        Panel(dataset, partition, model)
        for dataset in scale.datasets
        for partition in ("iid", "shards")
        for model in scale.models
    ]
    chosen = [panel for panel in panels if panel.key.startswith(only)]
    if not chosen:
        raise UsageError(
            f"--only must be {epsilon.KEY}, or begin like one of {', '.join(p.key for p in panels)}, got {only}"
        )
    return chosen


def points_of(panel: Panel, scale: Scale, out: Path, data_dir: Path | None) -> Iterator[tuple[str, float, float, Run]]:
    """Method, noise, τ² and run of all points of one panel.

    FedAvg, and for each level of noise NISS with every τ² > 0, and DP-FedAvg. τ² = 0 is FedAvg to the bit, whatever the
    noise.
    """
    m = FRACTION * CLIENTS
    common = ["--dataset", panel.dataset, "--partition", panel.partition, "--model", panel.model]
    common += ["--clients", str(CLIENTS), "--fraction", str(FRACTION), "--rounds", str(scale.rounds)]
    common += ["--evaluate-every", str(scale.rounds), *data_options(data_dir)]

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
