"""SPN's evaluation [Fan et al. 2020]: PPC curves, CAP tables, gradients, reconstructions and accuracies."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.attacks.inference import trace, tracing_distance
from fedmpi.attacks.metrics import Point, cap
from fedmpi.data import catalogue
from fedmpi.errors import UsageError
from fedmpi.experiments import figures, spn_pages
from fedmpi.experiments.jobs import Run, train_all
from fedmpi.experiments.scale import introduced
from fedmpi.experiments.spn_gradients import Layer, gradients
from fedmpi.experiments.spn_mechanisms import Mechanism, mechanisms

PARTICIPANTS = 10
"""N of the tracing attack (Appendix C)."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    datasets: tuple[str, ...]
    cases: int
    batch_sizes: tuple[int, ...]
    mechanisms: tuple[Mechanism, ...]
    steps: int
    """Of an attack, at most."""
    rounds: int
    rows: int | None
    """Training rows, at most."""
    clients: tuple[int, ...]
    """Of Figure 7."""
    figure7: tuple[str, ...]
    """Options of Figure 7's trainings."""

    @property
    def summary(self) -> str:
        """For people."""
        rows = f"the first {self.rows} training rows" if self.rows else "all training rows"
        return (
            f"{', '.join(self.datasets)}; {self.rounds} rounds on {rows}; {self.cases} attacked cases a setting, in "
            f"batches of {', '.join(map(str, self.batch_sizes))}, at most {self.steps} steps each; Figure 7 with "
            f"{', '.join(map(str, self.clients))} clients"
        )


_PAPER_ALPHAS = (0.0001, 0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5)
_PAPER_NOISES = (0.0001, 0.001, 0.01, 0.1, 0.5)
_FIGURE7 = ("--dataset", "cifar10", "--model", "alexnet", "--optimizer", "sgd", "--learning-rate", "0.01")

QUICK = Scale(
    name="quick",
    datasets=("cifar10",),
    cases=6,
    batch_sizes=(1,),
    # the noises have, on fresh models, the ‖B_I‖/‖E_B‖ of the α₂
    mechanisms=mechanisms((0.1, 0.2, 0.3, 0.5), (0.005, 0.01, 0.015, 0.025), (0.01,), (0.1, 0.5)),
    steps=25,
    rounds=8,
    rows=5000,
    clients=(2, 8),
    figure7=("--dataset", "digits", "--model", "dlnet-tanh", "--rounds", "10", "--batch-size", "16"),
)
FULL = Scale(
    name="full",
    datasets=("cifar10", "mnist", "cifar100", "svhn"),
    cases=100,
    batch_sizes=(1, 4, 8),
    mechanisms=mechanisms(_PAPER_ALPHAS, _PAPER_NOISES),
    steps=150,
    rounds=300,
    rows=None,
    clients=(8, 20, 50, 100),
    figure7=(*_FIGURE7, "--batch-size", "64", "--decay-rounds", "100", "200", "--rounds", "300"),
)


@dataclass(frozen=True, eq=False)
class Attacked:
    """One setting of one mechanism, attacked with one batch size."""

    mechanism: str
    batch_size: int
    reconstruction: Point
    membership: Point
    tracing: Point
    idlg: float | None
    """Share of labels that iDLG's rule gets right."""
    folder: Path


@dataclass(eq=False)
class Panel:
    """All results on one data set."""

    dataset: str
    fedavg: float
    attacked: list[Attacked] = field(default_factory=list)

    def caps(self) -> Iterator[dict[str, Any]]:
        """Rows of the CAP tables."""
        for name in dict.fromkeys(a.mechanism for a in self.attacked):
            for size in dict.fromkeys(a.batch_size for a in self.attacked):
                own = [a for a in self.attacked if (a.mechanism, a.batch_size) == (name, size)]
                if own:
                    yield {
                        "mechanism": name,
                        "batch": size,
                        "reconstruction": cap([a.reconstruction for a in own]),
                        "rMSE at most 1": cap([a.reconstruction for a in own], clip=1.0),
                        "membership": cap([a.membership for a in own]),
                        "tracing": cap([a.tracing for a in own]),
                    }


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write figures, tables and report.md.

    Data sets other than the first are left out where they are not on this machine.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    datasets, place = datasets_of(scale, data_dir), options_of(data_dir)
    results = train_all(runs(scale, out, data_dir))
    panels = []
    for dataset in datasets:
        fedavg = results[training(scale, dataset, ("--method", "fedavg"), out, place).folder]
        panels.append(Panel(dataset, float(fedavg["metrics"]["test_accuracy"])))
        for setting in settings(scale, dataset):
            trained = results[training(scale, dataset, setting.trained, out, place).folder]
            folder = attack(scale, setting, out, place).folder
            accuracy = float(trained["metrics"]["test_accuracy"])
            panels[-1].attacked.append(attacked(setting, accuracy, folder, results[folder]))
    clients = {
        method: [float(results[run.folder]["metrics"]["test_accuracy"]) for run in own]
        for method, own in by_clients(scale, out, place).items()
    }
    layers: list[Layer] = gradients(scale.datasets[0], data_dir)
    return spn_pages.write(out, introduced(scale, FULL), scale, panels, clients, layers)


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> list[Run]:
    """All that `reproduce` runs."""
    place, found = options_of(data_dir), []
    for dataset in datasets_of(scale, data_dir):
        found.append(training(scale, dataset, ("--method", "fedavg"), out, place))
        for setting in settings(scale, dataset):
            found.append(training(scale, dataset, setting.trained, out, place))
            found.append(attack(scale, setting, out, place))
    return [*found, *(run for own in by_clients(scale, out, place).values() for run in own)]


def datasets_of(scale: Scale, data_dir: Path | None) -> list[str]:
    """Those that are on this machine; the first must be."""
    present = {entry.name for entry in catalogue(data_dir) if entry.present}
    if scale.datasets[0] not in present:
        raise UsageError(f"data set {scale.datasets[0]} must be there: fedmpi data fetch {scale.datasets[0]}")
    return [name for name in scale.datasets if name in present]


def options_of(data_dir: Path | None) -> list[str]:
    """Where the data sets are."""
    return ["--data-dir", str(data_dir)] if data_dir else []


def training(scale: Scale, dataset: str, options: tuple[str, ...], out: Path, place: list[str]) -> Run:
    """DLNet, with round-robin aggregation (Table 11)."""
    model = "dlnet-tanh" if dataset == "svhn" else "dlnet"
    common = ["--dataset", dataset, "--model", model, "--clients", "10", "--aggregation", "round-robin", *place]
    common += ["--rounds", str(scale.rounds), "--evaluate-every", str(scale.rounds)]
    common += ["--max-rows", str(scale.rows)] if scale.rows else []
    name = "-".join(option.strip("-") for option in options)
    return Run(out / "runs" / f"{dataset}-{name}", 2, (*common, *options), "spn")


@dataclass(frozen=True)
class Setting:
    """One mechanism at one setting, attacked with one batch size."""

    dataset: str
    mechanism: Mechanism
    value: float
    batch_size: int

    @property
    def trained(self) -> tuple[str, ...]:
        """Options of its training."""
        return (*self.mechanism.train, self.mechanism.setting, str(self.value))


def settings(scale: Scale, dataset: str) -> Iterator[Setting]:
    """All mechanisms at all settings with all batch sizes."""
    for mechanism in scale.mechanisms:
        for value in mechanism.values:
            for size in scale.batch_sizes:
                if mechanism.adversary == "dlg" or size == 1:
                    yield Setting(dataset, mechanism, value, size)


def attack(scale: Scale, setting: Setting, out: Path, place: list[str]) -> Run:
    """An attack on fresh models."""
    mechanism, dataset = setting.mechanism, setting.dataset
    options = ["--dataset", dataset, "--model", "dlnet-tanh" if dataset == "svhn" else "dlnet", *place]
    options += ["--attack", mechanism.adversary, "--cases", str(scale.cases), "--batch-size", str(setting.batch_size)]
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


def by_clients(scale: Scale, out: Path, place: list[str]) -> dict[str, list[Run]]:
    """Figure 7: method → a run for each number of clients."""
    return {
        method: [
            Run(
                out / "runs" / f"figure7-{method}-{clients}",
                2,
                (*scale.figure7, *place, "--method", method, "--clients", str(clients)),
                "spn",
            )
            for clients in scale.clients
        ]
        for method in ("standalone", "fedavg", "spn")
    }
