"""`project` and `reproduce`: the papers' experiments, and what machines of one's own would take."""

import dataclasses
import json as json_format
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fedmpi.cli.flags import Folder, Text
from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Project:
    """Say how long each protocol takes on N machines, from kernel rates measured here and counted bytes.

    See docs/cost-model.md for the formulas and what they leave out.
    """

    machines: tuple[int, ...] = (10, 20, 50, 100, 1000)
    """Numbers of workers; the master has one machine more."""
    rows: int = 9019
    """Training rows m."""
    columns: int = 3073
    """Columns d: features, and the column of ones of the paper's protocol."""
    degree: Annotated[int, tyro.conf.arg(aliases=["-r"])] = 1
    """Degree r of the polynomial in place of the sigmoid, 1 in the paper. 0: the sigmoid itself, in two exchanges an
    iteration, as without --paper; the baselines have r = 1 then."""
    iterations: int = 50
    """Iterations of training J."""
    bandwidth_gbit: float = 1.0
    """Bandwidth of each machine's link, each way at the same time, Gbit/s."""
    latency_ms: float = 0.5
    """Latency of a link, one way, ms."""
    speed: float = 1.0
    """Speed of one core there, relative to a core here."""
    json: bool = False
    """Print JSON only."""

    def __call__(self, options: list[str]) -> int:
        """Measure the rates and print a table."""
        from fedmpi.experiments import projection
        from fedmpi.experiments.rates import calibrate

        machines = projection.Machines(self.bandwidth_gbit * 1e9 / 8, self.latency_ms / 1e3, self.speed)
        task = projection.Task(self.rows, self.columns, self.degree, self.iterations)
        rates = calibrate()
        projections = projection.project_all(self.machines, task, machines, rates)
        if self.json:
            print(json_format.dumps(projection.as_json(projections, rates)))
        else:
            print("\n".join(projection.table(projections)))
        return 0


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Run a paper's experiments on this machine, and write figures, tables and report.md; finished runs are kept."""

    system: tyro.conf.Positional[Literal["codedml", "ppadmm", "niss", "pbpfl", "spn", "all"]]
    """The paper's system; all: one after another, and one page of all of them. The same command again goes on."""
    quick: bool = False
    """Minutes on two cores: fewer ranks, rows, iterations and settings; so it is without --full too."""
    full: bool = False
    """All that the paper has: codedml ten minutes, the others hours to days."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR", help_behavior_hint="")] = None
    """codedml: Figure 3 alone, from runs made elsewhere, as scripts/ec2/run_codedml_figure3 fetches them. Default: run
    all here."""
    only: Text = None
    """niss: only the panels that begin so, such as mnist-iid-mlp. Default: all."""
    out: Folder = None
    """Folder of the results. Default: runs/reproduce-<system>-quick or -full."""
    data_dir: Folder = None
    """Folder of the data sets. Default: $FEDMPI_DATA, else the cache that `fedmpi data fetch` fills."""

    def __call__(self, options: list[str]) -> int:
        """Run, and print where the report is. SIGTERM ends what runs, and leaves what is finished."""
        if self.quick and self.full:
            raise UsageError("only one of --quick and --full must be given, got both")
        if self.only is not None and self.system != "niss":
            raise UsageError(f"--only must be used with niss, got {self.system}")
        if self.from_ is not None:
            if self.system != "codedml":
                raise UsageError(f"--from must be used with codedml, got {self.system}")
            from fedmpi.experiments import codedml

            out = self.out or Path("runs") / f"reproduce-{self.system}-from-{self.from_.resolve().name}"
            print(f"written to {codedml.figure3_from(self.from_, out)}")
            return 0
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            return self._run()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _run(self) -> int:
        if self.system == "all":
            from fedmpi.report.papers import reproduce_all

            scale_name = "full" if self.full else "quick"
            out = self.out or Path("runs") / f"reproduce-all-{scale_name}"
            page, failed = reproduce_all(scale_name, out, self.data_dir)
            print(f"written to {page}")
            return next((error.exit_code for error in failed.values()), 0)
        experiments: Any = import_module(f"fedmpi.experiments.{self.system}")
        scale = experiments.FULL if self.full else experiments.QUICK
        out = self.out or Path("runs") / f"reproduce-{self.system}-{scale.name}"
        choice = {} if self.only is None else {"only": self.only}
        print(f"written to {experiments.reproduce(scale, out, self.data_dir, **choice)}")
        return 0
