"""The records of the experiments, and how much of them is run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmpi.attacks.metrics import Point, cap
from fedmpi.reproduce.spn import paper
from fedmpi.reproduce.spn.mechanisms import Mechanism, mechanisms

FEDERATED = {
    "standalone": ("--method", "standalone"),
    "FedAvg": ("--method", "fedavg"),
    "SPN-0.1": ("--method", "spn", "--alpha2", "0.1"),
    "PPDL-0.3": ("--method", "ppdl", "--share-fraction", "0.3"),
    "PPDL-0.05": ("--method", "ppdl", "--share-fraction", "0.05"),
    "DP-0.1": ("--method", "dp", "--noise-std", "0.1"),
}
"""What Figures 28 and 29 compare (Figure 7: the first three): name → options."""


@dataclass(frozen=True)
class Federation:
    """One panel of Figures 7, 28 and 29: accuracy over the number of clients."""

    dataset: str
    model: str
    partition: str
    """iid (Figures 7 and 28), or dirichlet, with α = 0.9 (Figure 29)."""
    clients: tuple[int, ...]
    options: tuple[str, ...]
    """Of its trainings."""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.dataset}, {self.model}, {'IID' if self.partition == 'iid' else 'non-IID'}"

    @property
    def key(self) -> str:
        """For names of folders."""
        return f"{self.dataset}-{self.model}-{self.partition}"


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    datasets: tuple[str, ...]
    cases: Mapping[int, int]
    """Rows of a batch → attacked batches of that size."""
    mechanisms: tuple[Mechanism, ...]
    steps: int
    """Of an attack, at most."""
    rounds: int
    rows: int | None
    """Training rows, at most."""
    federations: tuple[Federation, ...]
    """Panels of Figures 7, 28 and 29."""

    @property
    def summary(self) -> str:
        """For people."""
        rows = f"the first {self.rows} training rows" if self.rows else "all training rows"
        models = dict.fromkeys(federation.model for federation in self.federations)
        federated = dict.fromkeys(federation.dataset for federation in self.federations)
        cases = " and ".join(f"{count} of {size}" for size, count in self.cases.items())
        return (
            f"{', '.join(self.datasets)}; {self.rounds} rounds on {rows}; attacked in each setting: batches "
            f"of rows, {cases}, at most {self.steps} steps each; Figures 7, 28 and 29 with {', '.join(models)} on "
            f"{', '.join(federated)}, {', '.join(map(str, self.federations[0].clients))} clients, "
            f"`{' '.join(self.federations[0].options)}`"
        )


def federations(
    datasets: tuple[str, ...],
    models: Mapping[str, tuple[str, ...]],
    clients: tuple[int, ...],
    options: tuple[str, ...],
) -> tuple[Federation, ...]:
    """A panel for each model (with options of its own), data set and way to spread the rows."""
    return tuple(
        Federation(dataset, model, partition, clients, (*own, *options))
        for model, own in models.items()
        for dataset in datasets
        for partition in ("iid", "dirichlet")
    )


QUICK = Scale(
    name="quick",
    datasets=("cifar10",),
    cases={1: 6, 4: 1, 8: 1},
    mechanisms=mechanisms((0.001, 0.01, 0.1, 0.5), (0.001, 0.01, 0.1, 0.5), (0.01, 0.1), (0.1, 0.5)),
    steps=25,
    rounds=8,
    rows=5000,
    federations=federations(
        ("digits",), {"dlnet-tanh": ("--learning-rate", "0.001")}, (2, 8), ("--batch-size", "16", "--rounds", "10")
    ),
)
FULL = Scale(
    name="full",
    datasets=("cifar10", "mnist", "cifar100", "svhn"),
    cases={1: 1000, 4: 250, 8: 125},
    mechanisms=mechanisms(paper.ALPHAS, paper.NOISES),
    steps=150,
    rounds=300,
    rows=None,
    federations=federations(
        ("cifar10", "mnist", "cifar100", "svhn"),
        {"alexnet": ("--learning-rate", "0.01"), "vgg16": ("--learning-rate", "0.001")},
        (8, 20, 50, 100),
        ("--optimizer", "sgd", "--batch-size", "64", "--decay-rounds", "100", "200", "--rounds", "300"),
    ),
)


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
