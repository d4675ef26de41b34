"""SPN's evaluation [Fan et al. 2020]: PPC curves, CAP tables, gradients, reconstructions and accuracies."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.attacks.inference import trace, tracing_distance
from fedmpi.attacks.metrics import Point, cap
from fedmpi.data import catalogue
from fedmpi.errors import UsageError
from fedmpi.experiments import figures, spn_pages
from fedmpi.experiments.jobs import train
from fedmpi.experiments.spn_gradients import Layer, gradients

PARTICIPANTS = 10
"""N of the tracing attack (Appendix C)."""


@dataclass(frozen=True)
class Mechanism:
    """One line of a PPC: a way to defend, at several settings."""

    name: str
    train: tuple[str, ...]
    """Options of fedmpi.spn."""
    attack: tuple[str, ...]
    """Options of fedmpi.attacks."""
    setting: str
    """The option that is varied."""
    values: tuple[float, ...]
    adversary: str = "dlg"


def mechanisms(
    alphas: tuple[float, ...],
    noises: tuple[float, ...],
    sparse_noises: tuple[float, ...] | None = None,
    known_alphas: tuple[float, ...] | None = None,
) -> tuple[Mechanism, ...]:
    """DP, PPDL-0.05, PPDL-0.3 and SPN, and SPN against who knows of it.

    Parameters
    ----------
    alphas, noises : tuple of float
        α₂ of SPN, σ of DP.
    sparse_noises, known_alphas : tuple of float, optional
        Those of PPDL, and of SPN against who knows of it. Default: the same.
    """
    secret = ("--method", "spn"), ("--defence", "spn"), "--alpha2"
    noise = "--noise-std"
    return (
        Mechanism("DP", ("--method", "dp"), ("--defence", "dp"), noise, noises),
        *(
            Mechanism(
                f"PPDL-{theta}",
                ("--method", "ppdl", "--share-fraction", theta),
                ("--defence", "ppdl", "--share-fraction", theta),
                noise,
                noises if sparse_noises is None else sparse_noises,
            )
            for theta in ("0.05", "0.3")
        ),
        Mechanism("SPN", *secret, alphas),
        Mechanism(
            "SPN, secret-head attack",
            *secret,
            alphas if known_alphas is None else known_alphas,
            adversary="secret-head",
        ),
    )


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
    present = {entry.name for entry in catalogue(data_dir) if entry.present}
    if scale.datasets[0] not in present:
        raise UsageError(f"data set {scale.datasets[0]} must be there: fedmpi data fetch {scale.datasets[0]}")
    begun = time.perf_counter()
    place = ["--data-dir", str(data_dir)] if data_dir else []
    panels = []
    for dataset in (name for name in scale.datasets if name in present):
        panel = Panel(dataset, accuracy(scale, dataset, ("--method", "fedavg"), out, place))
        panels.append(panel)
        for found in attacks(scale, dataset, out, place):
            panel.attacked.append(found)
            p = found.reconstruction
            print(
                f"{dataset} {found.mechanism} {p.setting:g} batch {found.batch_size}: accuracy {p.accuracy:.4f}, "
                f"rMSE {p.distance:.3f}, ‖B‖/‖E‖ {p.ratio:.3g} ({time.perf_counter() - begun:.0f} s so far)",
                flush=True,
            )
    clients = by_clients(scale, out, place)
    layers: list[Layer] = gradients(scale.datasets[0], data_dir)
    out.mkdir(parents=True, exist_ok=True)
    return spn_pages.write(out, scale, panels, clients, layers)


def accuracy(scale: Scale, dataset: str, options: tuple[str, ...], out: Path, place: list[str]) -> float:
    """Of DLNet on the test part, trained with round-robin aggregation (Table 11)."""
    model = "dlnet-tanh" if dataset == "svhn" else "dlnet"
    common = ["--dataset", dataset, "--model", model, "--clients", "10", "--aggregation", "round-robin", *place]
    common += ["--rounds", str(scale.rounds), "--evaluate-every", str(scale.rounds)]
    common += ["--max-rows", str(scale.rows)] if scale.rows else []
    name = "-".join(option.strip("-") for option in options)
    result = train(out / "runs" / f"{dataset}-{name}", 2, [*common, *options], system="spn")
    return float(result["metrics"]["test_accuracy"])


def attacks(scale: Scale, dataset: str, out: Path, place: list[str]) -> Iterator[Attacked]:
    """All mechanisms at all settings with all batch sizes."""
    for mechanism in scale.mechanisms:
        for value in mechanism.values:
            trained = accuracy(scale, dataset, (*mechanism.train, mechanism.setting, str(value)), out, place)
            for size in scale.batch_sizes:
                if mechanism.adversary == "dlg" or size == 1:
                    yield attack(scale, dataset, mechanism, value, size, trained, out, place)


def attack(
    scale: Scale,
    dataset: str,
    mechanism: Mechanism,
    value: float,
    size: int,
    trained: float,
    out: Path,
    place: list[str],
) -> Attacked:
    """One mechanism at one setting with one batch size."""
    options = ["--dataset", dataset, "--model", "dlnet-tanh" if dataset == "svhn" else "dlnet", *place]
    options += ["--attack", mechanism.adversary, "--cases", str(scale.cases), "--batch-size", str(size)]
    options += ["--steps", str(scale.steps), *mechanism.attack, mechanism.setting, str(value)]
    key = mechanism.name.replace(", ", "-").replace(" ", "-")
    folder = out / "attacks" / f"{dataset}-{key}-{value:g}-batch{size}"
    result = train(folder, 2, options, system="attacks")
    cases, metrics = result["cases"], result["metrics"]
    ratio = float(np.mean([case["ratio"] for case in cases]))

    def point(distance: float) -> Point:
        return Point(value, ratio, trained, distance)

    right = metrics["idlg_labels_right"]
    return Attacked(
        mechanism.name,
        size,
        point(metrics["mean_rmse"]),
        point(metrics["membership_distance"]),
        point(traced(folder)),
        None if right is None else right / scale.cases,
        folder,
    )


def traced(folder: Path) -> float:
    """Tracing distance: the reconstructions are those of equally many consecutive rows of each participant."""
    with np.load(folder / "images.npz") as z:
        found, original = z["found"], z["original"]
    owners = np.arange(len(found)) * min(PARTICIPANTS, len(found)) // len(found)
    return tracing_distance(trace(np.nan_to_num(found, posinf=1e9, neginf=-1e9), owners, original), owners)


def by_clients(scale: Scale, out: Path, place: list[str]) -> dict[str, list[float]]:
    """Figure 7: method → test accuracy for each number of clients."""
    lines = {}
    for method in ("standalone", "fedavg", "spn"):
        lines[method] = [
            float(
                train(
                    out / "runs" / f"figure7-{method}-{clients}",
                    2,
                    [*scale.figure7, *place, "--method", method, "--clients", str(clients)],
                    system="spn",
                )["metrics"]["test_accuracy"]
            )
            for clients in scale.clients
        ]
    return lines
