"""Figures 3 and 4 and their tables, with the paper's gains beside ours, and the page that joins them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmpi.pages import figures
from fedmpi.pages.tables import markdown
from fedmpi.reproduce.niss import paper
from fedmpi.reproduce.niss.settings import CLIENTS, FRACTION, FULL, TAU_SQUARED, Panel, Point, Scale
from fedmpi.reproduce.niss.uploads import CLIENTS as UPLOADING
from fedmpi.reproduce.niss.uploads import MODEL, RATE, Attacked
from fedmpi.reproduce.shared import introduced, write_report


def write(out: Path, scale: Scale, points: Mapping[Panel, Sequence[Point]], attacked: Attacked) -> Path:
    """PNG files, and report.md."""
    what = f"`fedmpi reproduce niss`. {introduced(scale, FULL)}"
    return write_report(out, ["# NISS", what, figure3(out, scale, points), figure4(out, attacked)])


def figure3(out: Path, scale: Scale, points: Mapping[Panel, Sequence[Point]]) -> str:
    """Accuracy against τ², a panel for each setting, and a table."""
    lines = {}
    for panel, found in points.items():
        lines[panel.title] = {
            f"noise {noise:g}": (list(TAU_SQUARED), accuracies(found, noise)) for noise in scale.noise
        }
    figures.panels(out / "figure3.png", "NISS: accuracy against τ²", lines, "τ² (0: FedAvg)", "test accuracy")
    columns = [*(f"τ² = {t:g}" for t in TAU_SQUARED), "DP-FedAvg", "gain", "paper's gain"]
    table = [f"| setting | noise | {' | '.join(columns)} |", "| --- | ---: |" + " ---: |" * len(columns)]
    for panel, found in points.items():
        for noise in scale.noise:
            own = accuracies(found, noise)
            dp = next((f"{100 * p.accuracy:.2f} %" for p in found if p.noise == noise and p.method == "dp-fedavg"), "")
            cells = [*(f"{100 * a:.2f} %" for a in own), dp, f"{100 * (own[0] - own[-1]):.1f}"]
            gain = paper.GAINS[panel.dataset, panel.partition]
            table.append(f"| {panel.title} | {noise:g} | {' | '.join(cells)} | {gain} |")
    return "\n".join(
        [
            "## Figure 3: accuracy against τ²",
            "",
            f"K = {CLIENTS} clients, {FRACTION:g} of them in a round, E = 5, B = 10, η = 0.01, ζ = 3, "
            f"{scale.rounds} rounds. Noise: its standard deviation per coordinate in the aggregate if nothing cancels, "
            "σ_k √m. τ² = 0 gives the model of FedAvg to the bit, at any noise. Gain: points of τ² = 0 over τ² = 1.",
            "",
            "![accuracy against τ²](figure3.png)",
            "",
            *table,
        ]
    )


def accuracies(points: Sequence[Point], noise: float) -> list[float]:
    """Of FedAvg, which comes first, and of NISS with one level of noise, for every τ²."""
    return [points[0].accuracy] + [p.accuracy for p in points if p.noise == noise and p.method == "niss"]


def figure4(out: Path, attacked: Attacked) -> str:
    """The pictures that deep leakage finds in uploads, and a table."""
    true, uploads = attacked.clients.images, attacked.uploads
    rows = {"what the clients hold": true}
    for one in uploads:
        noise = f", noise {one.kind.noise:g}" if one.kind.noise else ""
        rows[f"{one.kind.name}{noise}: MSE {one.mse.mean():.2g}"] = one.images
    figures.gallery(out / "figure4.png", rows)
    table = [
        {
            "upload": one.kind.name,
            "noise": one.kind.noise,
            "error of the gradient": one.error,
            "DLG loss": one.loss,
            "MSE": float(one.mse.mean()),
            "labels found": f"{one.labels} of {len(true)}",
        }
        for one in uploads
    ]
    return (
        f"## Figure 4: deep leakage from uploads\n\n{attacked.dataset}, {MODEL}, {UPLOADING} clients with a row each, "
        f"one step of η = {RATE}, no gradient clipped; what the server reads, (w - upload/p_k)/η, is attacked for "
        f"{len(true)} clients. Noise: its standard deviation in that gradient for DP-FedAvg; NISS's has √(2 + τ²) "
        "times as much, a client's own and what it received.\n\n"
        f"![deep leakage](figure4.png)\n\n{markdown(table)}"
    )
