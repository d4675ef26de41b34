"""`project`: how long each protocol would take on machines of one's own."""

import dataclasses
import json
import math
from typing import Annotated

import tyro

from fedmpi.cli.types import Json
from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Project:
    """Say how long each protocol takes on N machines, from kernel rates measured here and counted bytes.

    See docs/cost-model.md for the formulas and what they leave out.
    """

    machines: tuple[int, ...] = (10, 20, 50, 100, 1000)
    """Numbers of workers; the master has one machine more. Of copml, which has none, of owners."""
    rows: int = 9019
    """Training rows m."""
    columns: int = 3073
    """Columns d: features, and the column of ones of the paper's protocol."""
    degree: Annotated[int, tyro.conf.arg(aliases=["-r"])] = 1
    """Degree r of the polynomial in place of the sigmoid, 1 in the paper. 0: the sigmoid itself, in two exchanges an
    iteration, as without --paper; the baselines have r = 1 then, copml always."""
    iterations: int = 50
    """Iterations of training J."""
    bandwidth_gbit: float = 1.0
    """Bandwidth of each machine's link, each way at the same time, Gbit/s."""
    latency_ms: float = 0.5
    """Latency of a link, one way, ms."""
    speed: float = 1.0
    """Speed of one core there, relative to a core here."""
    price: Annotated[float | None, tyro.conf.arg(metavar="USD", help_behavior_hint="")] = None
    """USD per machine and hour, of your own contract, to be told the cost, too. Default: fedmpi knows no prices."""
    json: Json = False

    def __call__(self, options: list[str]) -> int:
        """Measure the rates and print a table."""
        if self.price is not None and not 0 <= self.price < math.inf:
            raise UsageError(f"--price must be at least 0, got {self.price:g}")
        from fedmpi.bench import projection
        from fedmpi.bench.rates import calibrate
        from fedmpi.bench.steps import Machines, Task

        machines = Machines(self.bandwidth_gbit * 1e9 / 8, self.latency_ms / 1e3, self.speed)
        task = Task(self.rows, self.columns, self.degree, self.iterations)
        rates = calibrate()
        projections = projection.project_all(self.machines, task, machines, rates)
        if self.json:
            print(json.dumps(projection.as_json(projections, rates, self.price)))
        else:
            print("\n".join(projection.table(projections, self.price)))
        return 0
