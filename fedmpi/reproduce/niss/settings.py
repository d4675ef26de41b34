"""The records of the experiments, and how much of them is run."""

from dataclasses import dataclass
from typing import Any

TAU_SQUARED = (0.0, 0.3, 0.6, 1.0)
"""X in the paper's figure."""

CLIENTS, FRACTION = 100, 0.3


@dataclass(frozen=True)
class Panel:
    """One setting of the figure."""

    dataset: str
    partition: str
    model: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.dataset}, {'IID' if self.partition == 'iid' else 'non-IID'}, {self.model.upper()}"

    @property
    def key(self) -> str:
        """For names of folders."""
        return f"{self.dataset}-{self.partition}-{self.model}"


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    noise: tuple[float, ...]
    """Standard deviations of the noise in the aggregate, per coordinate, if nothing cancels."""
    rounds: int
    baseline: bool
    """Run DP-FedAvg too, which should equal τ² = 1."""
    ranks: int
    attacked: int
    """Clients whose uploads are attacked."""
    steps: int
    """Of an attack."""

    @property
    def summary(self) -> str:
        """For people."""
        baseline = "with" if self.baseline else "without"
        return (
            f"{', '.join(self.datasets)} with {', '.join(self.models)}, {self.rounds} rounds, noise "
            f"{', '.join(f'{noise:g}' for noise in self.noise)}, {baseline} DP-FedAvg (it equals τ² = 1); in Figure 4 "
            f"{self.attacked} uploads of a kind, at most {self.steps} steps of an attack"
        )


QUICK = Scale("quick", ("mnist",), ("mlp",), (0.03, 0.1), 6, True, 3, 2, 20)
FULL = Scale("full", ("mnist", "cifar10"), ("mlp", "cnn"), (0.01, 0.03, 0.1), 30, True, 4, 6, 150)


@dataclass(frozen=True)
class Point:
    """One run."""

    noise: float
    """0 for FedAvg."""
    tau2: float
    method: str
    result: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """On the test part, in the end."""
        return float(self.result["metrics"]["test_accuracy"])
