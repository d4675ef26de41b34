"""The records of the experiments, and how much of them is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

TAU_SQUARED = (0.0, 0.3, 0.6, 1.0)
"""X in the paper's figure."""

CLIENTS, FRACTION = 100, 0.3


@dataclass(frozen=True)
class Panel:
    """One setting of the figure."""

    dataset: str
    partition: str
    model: str
    rows: int | None = None
    """So many of the training rows only, and then one level of noise and one seed."""

    @property
    def title(self) -> str:
        """For people."""
        rows = f", {self.rows} rows" if self.rows else ""
        return f"{self.dataset}, {'IID' if self.partition == 'iid' else 'non-IID'}, {self.model.upper()}{rows}"

    @property
    def key(self) -> str:
        """For names of folders."""
        return f"{self.dataset}-{self.partition}-{self.model}"

    @property
    def options(self) -> list[str]:
        """Of a run."""
        own = ["--dataset", self.dataset, "--partition", self.partition, "--model", self.model]
        own += ["--max-rows", str(self.rows)] if self.rows else []
        return [*own, "--clients", str(CLIENTS), "--fraction", str(FRACTION)]


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
    seeds: int
    """How often each is run: tables have means and deviations."""
    ranks: int
    attacked: int
    """Clients whose uploads are attacked."""
    steps: int
    """Of an attack."""
    asked: tuple[Panel, ...] = ()
    """That are run where --only names them."""

    def of(self, panel: Panel) -> "Scale":
        """How much is run of a panel."""
        return self if panel.rows is None else replace(self, noise=self.noise[:1], seeds=1)

    @property
    def summary(self) -> str:
        """For people."""
        baseline = "with" if self.baseline else "without"
        return (
            f"{', '.join(self.datasets)} with {', '.join(self.models)}, {self.rounds} rounds, noise "
            f"{', '.join(f'{noise:g}' for noise in self.noise)}, {baseline} DP-FedAvg (it equals τ² = 1), {self.seeds} "
            f"seeds; in Figure 4 {self.attacked} uploads of a kind, at most {self.steps} steps of an attack"
        )


QUICK = Scale("quick", ("mnist",), ("mlp",), (0.03, 0.1), 6, False, 3, 3, 2, 20, (Panel("mnist", "iid", "cnn", 6000),))
FULL = Scale("full", ("mnist", "cifar10"), ("mlp", "cnn"), (0.01, 0.03, 0.1), 30, True, 3, 4, 6, 150)


@dataclass(frozen=True)
class Curve:
    """One run."""

    result: Mapping[str, Any]
    """Its result.json."""
    rounds: Sequence[int]
    """After which the model was tried."""
    accuracies: Sequence[float]
    """On the test part."""


@dataclass(frozen=True)
class Point:
    """The runs of one method at one level of noise, one for each seed."""

    noise: float
    """0 for FedAvg."""
    tau2: float
    method: str
    runs: Sequence[Curve]

    @property
    def accuracies(self) -> list[float]:
        """On the test part, in the end, of each seed."""
        return [float(run.result["metrics"]["test_accuracy"]) for run in self.runs]

    @property
    def accuracy(self) -> float:
        """Their mean."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Of one run."""
        return deviation(self.accuracies)

    def epsilon(self, view: str) -> float | None:
        """By RDP, of all rounds, the largest of all seeds; None where nothing is promised."""
        found = [run.result.get("privacy", {}).get(view, {}).get("rdp") for run in self.runs]
        return None if None in found else max(found)


def percent(values: Sequence[float], digits: int) -> str:
    """Their mean, and ± the deviation of one of several, as a cell."""
    spread = f" ± {100 * deviation(values):.{digits}f}" if len(values) > 1 else ""
    return f"{100 * float(np.mean(values)):.{digits}f} %{spread}"


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of one of them, 0 where there is one only."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def promised(epsilon: float | None) -> str:
    """ε, as a cell."""
    return "none" if epsilon is None else f"{epsilon:.3g}"
