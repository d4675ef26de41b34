"""The data sets and the records of the experiments, and how much of them is run."""

from dataclasses import dataclass
from typing import Any

from fedmpi.bench.projection import Projection, training_seconds
from fedmpi.bench.steps import Task

CURVE_ITERATIONS = 50


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set of the paper, or what stands in for it."""

    key: str
    title: str
    options: tuple[str, ...]
    size: Task
    """With the column of ones, and the paper's 50 iterations."""


CIFAR10 = DataSet(
    "cifar10",
    "CIFAR-10, airplane against automobile",
    ("--paper", "--dataset", "cifar10", "--classes", "airplane", "automobile", "--max-rows", "9019", "--center"),
    Task(9019, 3073),
)
DIGITS = DataSet(
    "digits", "digits, 4 against 9", ("--paper", "--dataset", "digits", "--classes", "4", "9"), Task(290, 65)
)
GISETTE = DataSet(
    "gisette-stand-in",
    "synthetic stand-in for GISETTE",
    ("--paper", "--dataset", "synthetic:gisette", "--weight-bits", "5"),
    Task(6000, 5001),
)


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    workers: tuple[int, ...]
    iterations: int
    rows: int | None
    """Rows of the timed runs, at most."""
    curve_workers: int
    """Of the accuracy runs: exact arithmetic gives the same weights to the bit for every number of workers."""

    @property
    def summary(self) -> str:
        """For people."""
        rows = f"at most {self.rows} rows" if self.rows else "all rows"
        workers = ", ".join(map(str, self.workers))
        return f"N = {workers} workers, timed for {self.iterations} iterations on {rows}"


QUICK = Scale("quick", (10, 30, 50), 5, 2000, 10)
FULL = Scale("full", (10, 20, 30, 40, 50), 50, None, 50)


@dataclass(frozen=True)
class Timed:
    """One point of Figure 3: a run here, and projections to one machine per rank."""

    data: DataSet
    protocol: str
    workers: int
    result: dict[str, Any]
    same: Projection
    """One machine per rank, of the run as it was."""
    paper: Projection
    """One machine per rank, of the paper's rows and iterations."""

    @property
    def measured(self) -> dict[str, float]:
        """Seconds of result.json; the total without the two evaluations, which belong to no protocol."""
        seconds: dict[str, float] = dict(self.result["seconds"])
        seconds["total"] = training_seconds(self.result)
        return seconds


@dataclass(frozen=True)
class Curve:
    """Figures 4 and 5: one line per iteration, coded and conventional."""

    data: DataSet
    workers: int
    coded: list[dict[str, float]]
    conventional: list[dict[str, float]]
