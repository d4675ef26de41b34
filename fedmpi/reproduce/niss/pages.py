"""Figures 3 and 4 and their tables, with the paper's gains beside ours, and the page that joins them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedmpi.pages import figures
from fedmpi.pages.tables import markdown, write_csv
from fedmpi.reproduce.niss import paper
from fedmpi.reproduce.niss.settings import (
    CLIENTS,
    FRACTION,
    FULL,
    TAU_SQUARED,
    Panel,
    Point,
    Scale,
    deviation,
    percent,
    promised,
)
from fedmpi.reproduce.niss.uploads import CLIENTS as UPLOADING
from fedmpi.reproduce.niss.uploads import CLIP, MODEL, RATE, Attacked
from fedmpi.reproduce.shared import introduced, write_report


def write(out: Path, scale: Scale, sections: Sequence[str]) -> Path:
    """report.md."""
    what = f"`fedmpi reproduce niss`. {introduced(scale, FULL)}"
    return write_report(out, ["# NISS", what, *sections])


def figure3(out: Path, scale: Scale, points: Mapping[Panel, Sequence[Point]]) -> str:
    """Accuracy against τ² and over the rounds, a panel for each setting, and a table."""
    lines, rows = {}, []
    for panel, found in points.items():
        lines[panel.title] = {
            f"noise {noise:g}": (
                list(TAU_SQUARED),
                [p.accuracy for p in with_noise(found, noise)],
                [p.deviation for p in with_noise(found, noise)],
            )
            for noise in scale.of(panel).noise
        }
        rows += [row for noise in scale.of(panel).noise for row in table(panel, found, noise)]
    figures.panels(out / "figure3.png", "NISS: accuracy against τ²", lines, "τ² (0: FedAvg)", "test accuracy")
    over_rounds(out / "rounds.png", scale, points)
    write_csv(out / "figure3.csv", rows)
    delta = next(run.result["privacy"]["delta"] for p in next(iter(points.values()))[1:] for run in p.runs)
    most = max(len(p.runs) for found in points.values() for p in found)
    seeds = f"{most} seeds: the mean, ± the deviation of one run" if most > 1 else "One seed"
    return "\n".join(
        [
            "## Figure 3: accuracy against τ²",
            "",
            f"K = {CLIENTS} clients, {FRACTION:g} of them in a round, E = 5, B = 10, η = 0.01, ζ = 3, "
            f"{scale.rounds} rounds. Noise: its standard deviation per coordinate in the aggregate if nothing cancels, "
            "σ_k √m. τ² = 0 gives the model of FedAvg to the bit, at any noise. Gain: points of τ² = 0 over τ² = 1. "
            f"{seeds}. ε: of all rounds together, by RDP at δ = {delta:g}, of the client for whom it is largest; of "
            "its uploads, which is the same for every τ², and of the models. An ε of hundreds promises nothing that "
            "matters.",
            "",
            "![accuracy against τ²](figure3.png)",
            "",
            "![accuracy over the rounds](rounds.png)",
            "",
            markdown(rows),
        ]
    )


def table(panel: Panel, points: Sequence[Point], noise: float) -> Iterator[dict[str, str]]:
    """One setting at one level of noise: every τ², and DP-FedAvg."""
    own = with_noise(points, noise)
    gain = f"{100 * (own[0].accuracy - own[-1].accuracy):.1f}"
    for p, tau2 in [*zip(own, TAU_SQUARED, strict=True), *((p, 1.0) for p in of_method(points, "dp-fedavg", noise))]:
        last = p is own[-1]
        yield {
            "setting": panel.title,
            "noise": f"{noise:g}",
            "": "DP-FedAvg" if p.method == "dp-fedavg" else f"τ² = {tau2:g}",
            "test accuracy": percent(p.accuracies, 2),
            "ε of uploads": promised((own[-1] if p is own[0] else p).epsilon("upload")),
            "ε of models": promised(p.epsilon("model")),
            "gain": gain if last else "",
            "paper's gain": paper.GAINS[panel.dataset, panel.partition] if last else "",
        }


def over_rounds(path: Path, scale: Scale, points: Mapping[Panel, Sequence[Point]]) -> None:
    """Accuracy of every τ² over the rounds."""
    lines = {}
    for panel, found in points.items():
        for noise in scale.of(panel).noise:
            lines[f"{panel.title}, noise {noise:g}"] = {
                f"τ² = {tau2:g}": band([run.accuracies for run in p.runs], p.runs[0].rounds)
                for p, tau2 in zip(with_noise(found, noise), TAU_SQUARED, strict=True)
            }
    figures.panels(path, "NISS: accuracy over the rounds", lines, "round", "test accuracy")


def band(accuracies: Sequence[Sequence[float]], rounds: Sequence[int]) -> figures.Bars:
    """Of the curves of several seeds."""
    at = list(zip(*accuracies, strict=True))
    return list(rounds), [sum(one) / len(one) for one in at], [deviation(one) for one in at]


def of_method(points: Sequence[Point], method: str, noise: float) -> list[Point]:
    """In the order of τ²."""
    return [p for p in points if (p.method, p.noise) == (method, noise)]


def with_noise(points: Sequence[Point], noise: float) -> list[Point]:
    """FedAvg, which comes first, and NISS with one level of noise, for every τ²."""
    return [points[0], *of_method(points, "niss", noise)]


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
            "ε of the upload": promised(one.epsilon),
        }
        for one in uploads
    ]
    return (
        f"## Figure 4: deep leakage from uploads\n\n{attacked.dataset}, {MODEL}, {UPLOADING} clients with a row each, "
        f"one step of η = {RATE}, no gradient clipped; what the server reads, (w - upload/p_k)/η, is attacked for "
        f"{len(true)} clients. Noise: its standard deviation in that gradient for DP-FedAvg; NISS's has √(2 + τ²) "
        "times as much, a client's own and what it received. ε by RDP, of that upload, where gradients may be as long "
        f"as ζ = {CLIP}.\n\n"
        f"![deep leakage](figure4.png)\n\n{markdown(table)}"
    )
