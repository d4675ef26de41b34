"""The experiments of PBPFL [Feng et al. 2020, section 5 and appendix D]: Tables 1, 2 and 3, and Figure 3."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmpi.data import catalogue
from fedmpi.errors import UsageError
from fedmpi.experiments import figures
from fedmpi.experiments.bench_pbpfl import measure
from fedmpi.experiments.jobs import Run, train_all
from fedmpi.experiments.scale import introduced
from fedmpi.experiments.tables import markdown

PAPER_MSE = {
    ("mlp-3", 1): (0.059, 0.060),
    ("mlp-3", 5): (0.079, 0.078),
    ("mlp-3", 10): (0.097, 0.097),
    ("mlp-5", 1): (0.059, 0.059),
    ("mlp-5", 5): (0.079, 0.077),
    ("mlp-5", 10): (0.100, 0.101),
    ("mlp-7", 1): (0.058, 0.059),
    ("mlp-7", 5): (0.086, 0.082),
    ("mlp-7", 10): (0.113, 0.114),
}
"""Table 1: (model, clients) → test MSE of FedAvg and of PBPFL."""

PAPER_ACCURACY = {
    ("fedavg-ce", 1): 66.90,
    ("fedavg-ce", 5): 64.93,
    ("fedavg-ce", 10): 63.38,
    ("fedavg-mse", 1): 66.24,
    ("fedavg-mse", 5): 61.68,
    ("fedavg-mse", 10): 61.44,
    ("pbpfl", 1): 66.23,
    ("pbpfl", 5): 61.74,
    ("pbpfl", 10): 61.27,
}
"""Table 2: (method, clients) → accuracy in percent."""

PAPER_RATIO = 2.50
"""Table 3: the client's time, 228.06 s over 91.08 s."""

IMAGE_METHODS = ("fedavg-ce", "fedavg-mse", "pbpfl")


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    mlps: tuple[str, ...]
    clients: tuple[int, ...]
    bank: Mapping[int, Sequence[str]]
    """Clients → options of the length of a run on bank."""
    resnets: tuple[str, ...]
    images: tuple[str, ...]
    """Options of runs on images."""
    repeats: int
    bench: tuple[str, int, int]
    """Model, side of the images and repeats of Table 3."""
    hosts: int
    """Ranks on which the clients live."""

    @property
    def summary(self) -> str:
        """For people."""
        bank = {" ".join(options): clients for clients, options in self.bank.items()}
        lengths = " or ".join(f"`{options}`" for options in bank)
        model, side, _ = self.bench
        return (
            f"k = {', '.join(map(str, self.clients))}; on bank {', '.join(self.mlps)} with {lengths}; on images "
            f"{', '.join(self.resnets)} with `{' '.join(self.images)}`, {self.repeats} seeds; Table 3 with {model} and "
            f"{side}x{side}"
        )


QUICK = Scale(
    "quick",
    ("mlp-3", "mlp-7"),
    (1, 5),
    {1: ("--rounds", "2500"), 5: ("--rounds", "600")},
    ("resnet20",),
    ("--rounds", "12", "--max-rows", "1000", "--evaluate-every", "4"),
    2,
    ("resnet20", 28, 5),
    hosts=1,
)
FULL = Scale(
    "full",
    ("mlp-3", "mlp-5", "mlp-7"),
    (1, 5, 10),
    dict.fromkeys((1, 5, 10), ("--total-epochs", "200")),
    ("resnet20", "resnet32"),
    ("--total-epochs", "200"),
    5,
    ("resnet56", 224, 3),
    hosts=2,
)


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write tables, figures and report.md.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    present = {entry.name: entry.present for entry in catalogue(data_dir)}
    for name in ("bank", "ham10000"):
        if not present[name]:
            raise UsageError(f"data set {name} must be there, put by hand: fedmpi doctor says where")
    results = train_all(runs(scale, out, data_dir))
    bank = {key: results[run.folder] for key, run in runs_on_bank(scale, out, data_dir).items()}
    images = {
        key: [lines_of(run.folder, results[run.folder]) for run in repeated]
        for key, repeated in runs_on_images(scale, out, data_dir).items()
    }
    model, side, repeats = scale.bench
    sections = [
        introduction(scale),
        table_1(bank),
        table_2(images),
        table_3(measure(model, side, 32, repeats), scale, bank),
        *(figure_3(out, resnet, images) for resnet in scale.resnets),
    ]
    path = out / "report.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return path


BankKey = tuple[str, int, str]
ImageKey = tuple[str, int, str]
Lines = list[list[dict[str, float]]]
"""Of each repetition, the lines of metrics.jsonl, and at the end the metrics of result.json."""


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> list[Run]:
    """All that `reproduce` runs; the slowest first."""
    images = [run for repeated in runs_on_images(scale, out, data_dir).values() for run in repeated]
    return [*images, *runs_on_bank(scale, out, data_dir).values()]


def runs_on_bank(scale: Scale, out: Path, data_dir: Path | None) -> dict[BankKey, Run]:
    """(model, clients, method) → its run."""
    found = {}
    for model in scale.mlps:
        for clients in scale.clients:
            for method in ("fedavg-mse", "pbpfl"):
                options = ["--dataset", "bank", "--model", model, "--learning-rate", "0.2"]
                options += [*scale.bank[clients], *_common(method, clients, data_dir)]
                folder = out / "runs" / f"bank-{model}-{clients}-{method}"
                found[model, clients, method] = Run(folder, 1 + scale.hosts, tuple(options), "pbpfl", resume=True)
    return found


def runs_on_images(scale: Scale, out: Path, data_dir: Path | None) -> dict[ImageKey, list[Run]]:
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
    """The lines of metrics.jsonl, and at the end the metrics of result.json."""
    return [*(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()), result["metrics"]]


def _common(method: str, clients: int, data_dir: Path | None) -> list[str]:
    folder = ["--data-dir", str(data_dir)] if data_dir else []
    return ["--method", method, "--clients", str(clients), "--checkpoint-every", "500", *folder]


def introduction(scale: Scale) -> str:
    """What was run, and how the numbers may be read."""
    small = (
        " On bank the methods can be compared. On images so few rounds teach hardly more than the most frequent class, "
        "two thirds of the rows: Table 2 and Figure 3 show that the runs work, not how good the methods are."
        if scale.name == "quick"
        else ""
    )
    return (
        f"# PBPFL: the paper's tables and figure, from runs on this machine\n\n`fedmpi reproduce pbpfl`. "
        f"{introduced(scale, FULL)}{small}\n\nImages of HAM10000 are 28x28 here, 64x64 in the paper; the networks are "
        "described in docs/pbpfl.md. APTOS, of Table 1, is not here."
    )


def table_1(bank: Mapping[BankKey, dict[str, Any]]) -> str:
    """Test MSE on bank."""
    rows = []
    for model, clients in dict.fromkeys((model, clients) for model, clients, _ in bank):
        fedavg, pbpfl = (bank[model, clients, method]["metrics"]["test_mse"] for method in ("fedavg-mse", "pbpfl"))
        paper = PAPER_MSE[model, clients]
        rows.append(
            {
                "model": model,
                "k": clients,
                "FedAvg": f"{fedavg:.4f}",
                "PBPFL": f"{pbpfl:.4f}",
                "difference": f"{pbpfl - fedavg:+.1e}",
                "paper FedAvg": paper[0],
                "paper PBPFL": paper[1],
            }
        )
    return "## Table 1: bank, test MSE\n\n" + markdown(rows)


def table_2(images: Mapping[ImageKey, Lines]) -> str:
    """Accuracy on images."""
    rows = []
    for (model, clients, method), lines in images.items():
        values = [100 * line[-1]["test_accuracy"] for line in lines]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        paper = f"{PAPER_ACCURACY[method, clients]:.2f}" if model == "resnet20" else ""
        mean = f"{statistics.mean(values):.2f} ± {spread:.2f}"
        rows.append({"model": model, "k": clients, "method": method, "accuracy %": mean, "paper": paper})
    return "## Table 2: HAM10000, accuracy on the test rows\n\n" + markdown(rows)


def table_3(times: Mapping[str, Mapping[str, float]], scale: Scale, bank: Mapping[BankKey, dict[str, Any]]) -> str:
    """Time of a round by part, and bytes."""
    model, side, _ = scale.bench
    rows = [
        {"": method, **{f"{part} ms": round(value, 1) for part, value in times[method].items()}}
        for method in ("fedavg", "pbpfl")
    ]
    traffic = []
    for method in ("fedavg-mse", "pbpfl"):
        result = next(result for key, result in bank.items() if key[2] == method)
        numbers = result["metrics"]["communication"]
        traffic.append(
            {
                "": method,
                "server → client": f"{numbers['server_to_client']:.2f} x the model",
                "client → server": f"{numbers['client_to_server']:.2f} x the model",
            }
        )
    return (
        f"## Table 3: processor time of a round, {model}, {side}x{side}, batch 32, one thread\n\n{markdown(rows)}\n\n"
        f"The client's time is {times['ratio']['client']:.2f} times that of FedAvg (paper: {PAPER_RATIO:.2f}).\n\n"
        f"{markdown(traffic)}"
    )


def figure_3(out: Path, model: str, images: Mapping[ImageKey, Lines]) -> str:
    """Accuracy over the rounds, with standard deviations as error bars."""
    panels: dict[str, dict[str, figures.Bars]] = {}
    for (network, clients, method), lines in images.items():
        if network != model:
            continue
        curves = [line[:-1] for line in lines]
        rounds = [entry["iteration"] for entry in curves[0]]
        values = [[entry["validation_accuracy"] for entry in at] for at in zip(*curves, strict=True)]
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
        panels.setdefault(f"k = {clients}", {})[method] = (rounds, [statistics.mean(v) for v in values], spread)
    name = f"figure-3-{model}.png"
    figures.bars(out / name, f"{model} on HAM10000", "round", "validation accuracy", panels)
    return f"## Figure 3: {model}\n\n![accuracy over the rounds]({name})\n\nBars: standard deviation."
