"""The records of the experiments, and how much of them is run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmpi.attacks.metrics import Point, cap
from fedmpi.reproduce.spn import paper
from fedmpi.reproduce.spn.mechanisms import Mechanism, mechanisms


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
    clients: tuple[int, ...]
    """Of Figure 7."""
    figure7: tuple[str, ...]
    """Options of Figure 7's trainings."""

    @property
    def summary(self) -> str:
        """For people."""
        rows = f"the first {self.rows} training rows" if self.rows else "all training rows"
        cases = " and ".join(f"{count} of {size}" for size, count in self.cases.items())
        return (
            f"{', '.join(self.datasets)}; {self.rounds} rounds on {rows}; attacked in each setting: batches "
            f"of rows, {cases}, at most {self.steps} steps each; Figure 7 with "
            f"{', '.join(map(str, self.clients))} clients"
        )


_FIGURE7 = ("--dataset", "cifar10", "--model", "alexnet", "--optimizer", "sgd", "--learning-rate", "0.01")

QUICK = Scale(
    name="quick",
    datasets=("cifar10",),
    cases={1: 6, 4: 1, 8: 1},
    mechanisms=mechanisms((0.001, 0.01, 0.1, 0.5), (0.001, 0.01, 0.1, 0.5), (0.01, 0.1), (0.1, 0.5)),
    steps=25,
    rounds=8,
    rows=5000,
    clients=(2, 8),
    figure7=(
        "--dataset",
        "digits",
        "--model",
        "dlnet-tanh",
        "--learning-rate",
        "0.001",
        "--rounds",
        "10",
        "--batch-size",
        "16",
    ),
)
FULL = Scale(
    name="full",
    datasets=("cifar10", "mnist", "cifar100", "svhn"),
    cases={1: 100, 4: 100, 8: 100},
    mechanisms=mechanisms(paper.ALPHAS, paper.NOISES),
    steps=150,
    rounds=300,
    rows=None,
    clients=(8, 20, 50, 100),
    figure7=(*_FIGURE7, "--batch-size", "64", "--decay-rounds", "100", "200", "--rounds", "300"),
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
