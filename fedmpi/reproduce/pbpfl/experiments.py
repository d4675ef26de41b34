"""What is run for Tables 1, 2 and 3 and Figure 3, and how its numbers are read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmpi.bench.pbpfl import measure
from fedmpi.errors import UsageError
from fedmpi.pages import figures
from fedmpi.reproduce.pbpfl import pages
from fedmpi.reproduce.pbpfl.settings import IMAGE_METHODS, Key, Scale
from fedmpi.reproduce.shared import data_options, present
from fedmpi.runs.batch import Run, train_all


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write tables, figures and report.md.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    here = present(data_dir)
    for name in ("bank", "ham10000"):
        if name not in here:
            raise UsageError(f"data set {name} must be there, put by hand: fedmpi doctor says where")
    results = train_all(runs(scale, out, data_dir))
    bank = {key: results[run.folder] for key, run in runs_on_bank(scale, out, data_dir).items()}
    images = {
        key: [lines_of(run.folder, results[run.folder]) for run in repeated]
        for key, repeated in runs_on_images(scale, out, data_dir).items()
    }
    model, side, repeats = scale.bench
    return pages.write(out, scale, bank, images, measure(model, side, 32, repeats))


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> list[Run]:
    """All that `reproduce` runs; the slowest first."""
    images = [run for repeated in runs_on_images(scale, out, data_dir).values() for run in repeated]
    return [*images, *runs_on_bank(scale, out, data_dir).values()]


def runs_on_bank(scale: Scale, out: Path, data_dir: Path | None) -> dict[Key, Run]:
    """(model, clients, method) → its run."""
    found = {}
    for model in scale.mlps:
        for clients in scale.clients:
            for method in ("fedavg-mse", "pbpfl"):
                options = ["--dataset", "bank", "--model", model, "--learning-rate", "0.2", "--no-scale-target"]
                options += [*scale.bank[clients], *_common(method, clients, data_dir)]
                folder = out / "runs" / f"bank-{model}-{clients}-{method}"
                found[model, clients, method] = Run(folder, 1 + scale.hosts, tuple(options), "pbpfl", resume=True)
    return found


def runs_on_images(scale: Scale, out: Path, data_dir: Path | None) -> dict[Key, list[Run]]:
    """(model, clients, method) → its runs, one for each seed."""
    found = {}
    for model in scale.resnets:
        for clients in scale.clients:
            for method in IMAGE_METHODS:
                options = ["--dataset", "ham10000", "--model", model, "--learning-rate", "0.02"]
                options += [*scale.images, *_common(method, clients, data_dir)]
                name = f"ham10000-{model}-{clients}-{method}"
                found[model, clients, method] = [
                    Run(
                        out / "runs" / f"{name}-{seed}",
                        1 + scale.hosts,
                        (*options, "--seed", str(seed)),
                        "pbpfl",
                        resume=True,
                    )
                    for seed in range(scale.repeats)
                ]
    return found


def lines_of(folder: Path, result: Mapping[str, Any]) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, and at the end the metrics of result.json; each with its epochs.

    An epoch is a pass of each client over its rows; clients have equally many, but for one.
    """
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    params = result["params"]
    epoch = -(-result["dataset"]["m"] // params["clients"]) / params["batch_size"]
    rounds = [*(line["iteration"] for line in lines), result["metrics"]["rounds"]]
    return [line | {"epochs": t / epoch} for line, t in zip([*lines, result["metrics"]], rounds, strict=True)]


def _common(method: str, clients: int, data_dir: Path | None) -> list[str]:
    options = ["--method", method, "--clients", str(clients), "--checkpoint-every", "500"]
    return [*options, *data_options(data_dir)]
