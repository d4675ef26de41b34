"""Beside Figure 3: NISS with the numbers that the paper states of its experiments, ε = 10, ζ = 3 and σ² = 0.01.

They determine no point of Figure 3 (docs/papers.md). σ_k follows by Theorem 1, and with it v = ⌈σ_k²/σ²⌉ = 7; v = 1 is
beside it. Free choices are ours: rounds, and ρ = 0.65, which leaves τ² = 0.3 by the paper's formula.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmpi.niss.mechanism import epsilon_for
from fedmpi.pages.tables import markdown, write_csv
from fedmpi.reproduce.niss.settings import Panel, Point, Scale, percent, promised
from fedmpi.reproduce.shared import data_options
from fedmpi.runs.batch import Run

EPSILON = 10

STATED = ("--mechanism", "classic", "--epsilon", str(EPSILON), "--clip", "3", "--unit-variance", "0.01")

_RHO = ("--collusion", "0.65")

SETTINGS: dict[str, tuple[str, ...]] = {
    "DP-FedAvg": ("--method", "dp-fedavg"),
    "NISS, v = 7": (),
    "NISS, v = 1": ("--share-count", "1"),
    "NISS, v = 7, ρ = 0.65": _RHO,
    "NISS, v = 7, ρ = 0.65, the paper's products": (*_RHO, "--paper-noise"),
    "NISS, v = 1, ρ = 0.65, the paper's products": (*_RHO, "--paper-noise", "--share-count", "1"),
}
"""Name → options."""


def runs(scale: Scale, out: Path, panel: Panel, data_dir: Path | None) -> dict[str, Run]:
    """Name → its run, of the panel's data and model; none where few rows are run."""
    if panel.rows:
        return {}
    common = [*panel.options, "--rounds", str(scale.rounds), "--evaluate-every", str(scale.rounds), *STATED]
    common += data_options(data_dir)
    return {
        name: Run(out / "runs" / f"stated-{panel.key}-{i}", scale.ranks, (*common, *options), "niss")
        for i, (name, options) in enumerate(SETTINGS.items())
    }


def section(out: Path, scale: Scale, panel: Panel, plain: Point, results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table, with what the paper's ε is by an exact account.

    Parameters
    ----------
    plain : Point
        FedAvg, of the panel.
    results : mapping
        Name → result.json.
    """
    found = list(rows(plain, results))
    write_csv(out / "stated.csv", found)
    central = results["DP-FedAvg"]["privacy"]
    exact, delta = epsilon_for(central["noise_multiplier"], central["delta"]), central["delta"]
    return (
        f"## The paper's own numbers\n\n{panel.title}, {scale.rounds} rounds, one seed, so that differences of a few "
        f"points say nothing: ε = {EPSILON}, ζ = 3, σ² = 0.01, δ = {delta:g}. A client's noise is that of Theorem 1, "
        f"which the paper states for ε < 1: an upload with it has ε = {exact:.3g}, exactly. ε of all rounds by RDP, of "
        "the client for whom it is largest; noise that is a product, as in the paper (`--paper-noise`), is not "
        f"Gaussian, and promises none for the models.\n\n{markdown(found)}"
    )


def rows(plain: Point, results: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """FedAvg, and every setting."""
    yield {
        "": "FedAvg",
        "shares v": "",
        "noise in the model": "0",
        "test accuracy": percent(plain.accuracies[:1], 2),
        "ε of uploads": "none",
        "ε of models": "none",
    }
    for name, result in results.items():
        metrics, privacy = result["metrics"], result["privacy"]
        yield {
            "": name,
            "shares v": str(metrics["shares"]["largest"]) if "shares" in metrics else "",
            "noise in the model": f"{metrics['noise_std']:.2g}",
            "test accuracy": percent([metrics["test_accuracy"]], 2),
            "ε of uploads": promised(privacy["upload"]["rdp"]),
            "ε of models": promised(privacy["model"]["rdp"]),
        }
