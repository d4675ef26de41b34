"""Beside the paper: the price of ε with a trusted server, with noise that all make together, with NISS, and with none.

Every client has the same rows and steps, and its update is clipped; all train in every round. The noise of a round's
sum is z times its sensitivity, where the server is trusted to see the sum alone. ε is that of all rounds together, of
replacing a client's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.errors import FedmpiError
from fedmpi.pages import figures
from fedmpi.pages.tables import markdown
from fedmpi.reproduce.niss.settings import Scale, deviation, percent
from fedmpi.reproduce.shared import data_options, write_report
from fedmpi.runs.batch import Run, train_all

KEY = "epsilon"
"""For --only."""

DATASET, CLIENTS, ROUNDS, CLIP, RANKS = "digits", 60, 10, 1.0, 3
SURVIVORS, COLLUDING = 42, 6
TAU_SQUARED = 0.5

LEVELS = (0.7, 1.4, 2.8, 5.6)
"""z, of the noise in the sum."""

FARTHER = (11.2, 22.4)
"""More of it, without which nobody's own noise comes to an ε that says anything."""


@dataclass(frozen=True)
class Curve:
    """A line of the figure."""

    name: str
    kind: str
    """Of runs."""
    view: str
    """Whose ε: upload or model."""
    against: str
    """Who is held off."""


CURVES = (
    Curve("central (dp-fedavg, models)", "dp-fedavg", "model", "who sees the models; the server sees all updates"),
    Curve(
        "distributed-dp", "distributed-dp", "upload", f"the server, with {COLLUDING} clients, and who sees the models"
    ),
    Curve(f"NISS, τ² = {TAU_SQUARED:g}, models", "niss", "model", "who sees the models; the server sees more"),
    Curve("local (dp-fedavg, uploads)", "dp-fedavg", "upload", "the server, whoever colludes"),
)


def options_of(kind: str, z: float) -> list[str]:
    """Of a kind of run, with noise so that what its view counts is z Δ in the sum."""
    sensitivity = 2 * CLIP / CLIENTS
    if kind == "distributed-dp":
        summed = ["--secure-sum", "lightsecagg", "--threshold", str(SURVIVORS), "--colluding", str(COLLUDING)]
        return [*summed, "--noise-std", repr(z * sensitivity / (SURVIVORS - COLLUDING) ** 0.5)]
    if kind == "niss":
        std = z * sensitivity / (TAU_SQUARED * CLIENTS) ** 0.5
        return ["--noise-std", repr(std), "--tau-squared", repr(TAU_SQUARED), "--share-count", "10"]
    return ["--noise-std", repr(z * sensitivity / CLIENTS**0.5)]


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> dict[tuple[str, float, int], Run]:
    """(kind, z, seed) → its run, for each seed."""
    common = ["--dataset", DATASET, "--clients", str(CLIENTS), "--fraction", "1", "--rounds", str(ROUNDS)]
    common += ["--model", "logistic", "--epochs", "3", "--learning-rate", "0.1", "--clipping", "update"]
    common += ["--clip", repr(CLIP), "--evaluate-every", str(ROUNDS), *data_options(data_dir)]
    found = {}
    for seed in range(scale.seeds):
        levels = [("fedavg", 0.0), *(("dp-fedavg", z) for z in (*LEVELS, *FARTHER))]
        levels += [(kind, z) for kind in ("distributed-dp", "niss") for z in LEVELS]
        for kind, z in levels:
            own = options_of(kind, z) if z else []
            options = (*common, "--method", kind, *own, "--seed", str(seed))
            found[kind, z, seed] = Run(out / "runs" / f"{KEY}-{kind}-{z:g}-{seed}", RANKS, options, "niss")
    return found


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write the figure, the table and report.md."""
    each = runs(scale, out, data_dir)
    results = train_all(each.values())
    return write(out, {key: results[run.folder] for key, run in each.items()})


def write(out: Path, results: Mapping[tuple[str, float, int], Mapping[str, Any]]) -> Path:
    """epsilon.png, and report.md with it."""
    plain = mean([accuracy(result) for (kind, _, _), result in results.items() if kind == "fedavg"])
    lines: dict[str, figures.Bars] = {}
    rows = []
    for curve in CURVES:
        levels = sorted({z for kind, z, _ in results if kind == curve.kind})
        points = []
        for z in levels:
            own = [result for (kind, level, _), result in results.items() if (kind, level) == (curve.kind, z)]
            reached = [accuracy(result) for result in own]
            points.append((epsilon(own[0], curve.view), mean(reached), deviation(reached)))
            rows.append({"": curve.name, "z": z, "ε": points[-1][0], "test accuracy": percent(reached, 1)})
        points.sort()
        lines[curve.name] = [p[0] for p in points], [p[1] for p in points], [p[2] for p in points]
    figures.over_epsilon(out / "epsilon.png", "Accuracy and ε of all rounds", lines, ("no noise", plain))
    seeds = len({seed for _, _, seed in results})
    held = "\n".join(f"- {curve.name}: {curve.against}." for curve in CURVES)
    delta = next(result for (kind, _, _), result in results.items() if kind != "fedavg")["privacy"]["delta"]
    what = (
        f"# Accuracy and ε\n\n{DATASET}, logistic model, {CLIENTS} clients in each of {ROUNDS} rounds, updates clipped "
        f"at {CLIP:g}; ε by RDP at δ = {delta:g}, of replacing a client's rows. Without noise: {100 * plain:.1f} %. "
        f"Of {CLIENTS} clients at least {SURVIVORS} survive and {COLLUDING} collude where noise is made together, so "
        f"that {SURVIVORS - COLLUDING} parts of it count. Of {seeds} seeds: the mean, and ± the deviation of one run. "
        "Each ε holds against:"
    )
    return write_report(out, [what, held, "![accuracy against ε](epsilon.png)", markdown(rows)])


def accuracy(result: Mapping[str, Any]) -> float:
    """On the test part, in the end."""
    return float(result["metrics"]["test_accuracy"])


def epsilon(result: Mapping[str, Any], view: str) -> float:
    """By RDP, which every method has.

    Raises
    ------
    FedmpiError
        If the run promises none.
    """
    found = result["privacy"][view]["rdp"]
    if found is None:
        raise FedmpiError(f"a run must have an ε for the {view} to be drawn, got none")
    return float(found)


def mean(values: Sequence[float]) -> float:
    """Of several seeds."""
    return float(np.mean(values))
