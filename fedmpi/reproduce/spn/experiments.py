"""What is run for Figures 4 to 7, 28 and 29 and Tables 1 and 7 to 11, and how the numbers of it are read."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.attacks.inference import trace, tracing_distance
from fedmpi.attacks.metrics import Point
from fedmpi.errors import UsageError
from fedmpi.pages import figures
from fedmpi.reproduce.shared import data_options, present
from fedmpi.reproduce.spn import pages
from fedmpi.reproduce.spn.gradients import gradients
from fedmpi.reproduce.spn.members import PARTICIPANTS, members
from fedmpi.reproduce.spn.ratios import ratios
from fedmpi.reproduce.spn.settings import FEDERATED, Attacked, Federation, Panel, Scale, Setting
from fedmpi.runs.batch import Run, train_all


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write figures, tables and report.md.

    Data sets other than the first are left out where they are not on this machine.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    datasets, place = datasets_of(scale, data_dir), data_options(data_dir)
    results = train_all(runs(scale, out, data_dir))
    panels = []
    for dataset in datasets:
        fedavg = results[training(scale, dataset, ("--method", "fedavg"), out, place).folder]
        panels.append(Panel(dataset, float(fedavg["metrics"]["test_accuracy"])))
        for setting in settings_of(scale, dataset):
            trained = results[training(scale, dataset, setting.trained, out, place).folder]
            folder = attack(scale, setting, out, place).folder
            accuracy = float(trained["metrics"]["test_accuracy"])
            panels[-1].attacked.append(attacked(setting, accuracy, folder, results[folder]))
    accuracies = {
        federation: {
            name: [float(results[run.folder]["metrics"]["test_accuracy"]) for run in own]
            for name, own in by_clients(federation, out, place).items()
        }
        for federation in federations_of(scale, data_dir)
    }
    first = scale.datasets[0]
    return pages.write(
        out,
        scale,
        panels,
        accuracies,
        gradients(first, data_dir),
        ratios(first, data_dir, scale.steps),
        members(first, data_dir, scale.mechanisms),
    )


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> list[Run]:
    """All that `reproduce` runs."""
    place, found = data_options(data_dir), []
    for dataset in datasets_of(scale, data_dir):
        found.append(training(scale, dataset, ("--method", "fedavg"), out, place))
        for setting in settings_of(scale, dataset):
            found.append(training(scale, dataset, setting.trained, out, place))
            found.append(attack(scale, setting, out, place))
    for federation in federations_of(scale, data_dir):
        found += [run for own in by_clients(federation, out, place).values() for run in own]
    return found


def datasets_of(scale: Scale, data_dir: Path | None) -> list[str]:
    """Those that are on this machine; the first must be."""
    here = present(data_dir)
    if scale.datasets[0] not in here:
        raise UsageError(f"data set {scale.datasets[0]} must be there: fedmpi data fetch {scale.datasets[0]}")
    return [name for name in scale.datasets if name in here]


def training(scale: Scale, dataset: str, options: tuple[str, ...], out: Path, place: list[str]) -> Run:
    """DLNet, with round-robin aggregation (Table 11)."""
    model = "dlnet-tanh" if dataset == "svhn" else "dlnet"
    common = ["--dataset", dataset, "--model", model, "--clients", "10", "--aggregation", "round-robin", *place]
    common += ["--learning-rate", "0.001", "--rounds", str(scale.rounds), "--evaluate-every", str(scale.rounds)]
    common += ["--max-rows", str(scale.rows)] if scale.rows else []
    name = "-".join(option.strip("-") for option in options)
    return Run(out / "runs" / f"{dataset}-{name}", 2, (*common, *options), "spn")


def settings_of(scale: Scale, dataset: str) -> Iterator[Setting]:
    """All mechanisms at all settings with all batch sizes."""
    for mechanism in scale.mechanisms:
        for value in mechanism.values:
            for size in scale.cases:
                if mechanism.adversary == "dlg" or size == 1:
                    yield Setting(dataset, mechanism, value, size)


def attack(scale: Scale, setting: Setting, out: Path, place: list[str]) -> Run:
    """An attack on fresh models."""
    mechanism, dataset = setting.mechanism, setting.dataset
    options = ["--dataset", dataset, "--model", "dlnet-tanh" if dataset == "svhn" else "dlnet", *place]
    cases, size = scale.cases[setting.batch_size], setting.batch_size
    options += ["--attack", mechanism.adversary, "--cases", str(cases), "--batch-size", str(size)]
    options += ["--steps", str(scale.steps), *mechanism.attack, mechanism.setting, str(setting.value)]
    key = mechanism.name.replace(", ", "-").replace(" ", "-")
    folder = out / "attacks" / f"{dataset}-{key}-{setting.value:g}-batch{setting.batch_size}"
    return Run(folder, 1, tuple(options), "attacks")


def attacked(setting: Setting, accuracy: float, folder: Path, result: Mapping[str, Any]) -> Attacked:
    """What came of an attack."""
    cases, metrics = result["cases"], result["metrics"]
    ratio = float(np.mean([case["ratio"] for case in cases]))

    def point(distance: float) -> Point:
        return Point(setting.value, ratio, accuracy, distance)

    right = metrics["idlg_labels_right"]
    return Attacked(
        setting.mechanism.name,
        setting.batch_size,
        point(metrics["mean_rmse"]),
        point(metrics["membership_distance"]),
        point(traced(folder)),
        None if right is None else right / len(cases),
        folder,
    )


def traced(folder: Path) -> float:
    """Tracing distance: the reconstructions are those of equally many consecutive rows of each participant."""
    with np.load(folder / "images.npz") as z:
        found, original = z["found"], z["original"]
    owners = np.arange(len(found)) * min(PARTICIPANTS, len(found)) // len(found)
    return tracing_distance(trace(np.nan_to_num(found, posinf=1e9, neginf=-1e9), owners, original), owners)


def federations_of(scale: Scale, data_dir: Path | None) -> list[Federation]:
    """Those whose data set is on this machine."""
    here = present(data_dir)
    return [federation for federation in scale.federations if federation.dataset in here]


def by_clients(federation: Federation, out: Path, place: list[str]) -> dict[str, list[Run]]:
    """One panel of Figures 7, 28 and 29: name → a run for each number of clients."""
    own, spread = federation, ["--partition", federation.partition]
    spread += ["--dirichlet-alpha", "0.9"] if federation.partition == "dirichlet" else []
    common = ["--dataset", own.dataset, "--model", own.model, *spread, *own.options, *place]
    return {
        name: [
            Run(
                out / "runs" / f"federated-{own.key}-{name}-{clients}",
                2,
                (*common, *options, "--clients", str(clients)),
                "spn",
            )
            for clients in own.clients
        ]
        for name, options in FEDERATED.items()
    }
