"""`reproduce`: a paper's experiments, on this machine."""

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fedmpi.cli.types import Folder, Text
from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Run a paper's experiments on this machine, and write figures, tables and report.md; finished runs are kept."""

    system: tyro.conf.Positional[Literal["codedml", "ppadmm", "niss", "pbpfl", "spn", "all"]]
    """The paper's system; all: one after another, and one page of all of them. The same command again goes on."""
    quick: bool = False
    """Minutes on two cores: fewer ranks, rows, iterations and settings; so it is without --full too."""
    full: bool = False
    """The largest scale: codedml ten minutes, the others hours to weeks. What papers have beyond it: docs/papers.md."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="DIR", help_behavior_hint="")] = None
    """codedml: Figure 3 alone, from runs made elsewhere, as scripts/ec2/run_codedml_figure3 fetches them. Default: run
    all here."""
    only: Text = None
    """niss: only the panels that begin so, such as mnist-iid-mlp; epsilon: accuracy against ε, beside the paper, with
    distributed noise. Default: all panels."""
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
            from fedmpi.reproduce.codedml import figure3_from

            out = self.out or Path("runs") / f"reproduce-{self.system}-from-{self.from_.resolve().name}"
            print(f"written to {figure3_from(self.from_, out)}")
            return 0
        from fedmpi.runs.batch import ended_by_sigterm

        with ended_by_sigterm():
            return self._run()

    def _run(self) -> int:
        if self.system == "all":
            from fedmpi.reproduce.all import reproduce_all

            scale_name = "full" if self.full else "quick"
            out = self.out or Path("runs") / f"reproduce-all-{scale_name}"
            page, failed = reproduce_all(scale_name, out, self.data_dir)
            print(f"written to {page}")
            return next((error.exit_code for error in failed.values()), 0)
        paper: Any = import_module(f"fedmpi.reproduce.{self.system}")
        scale = paper.FULL if self.full else paper.QUICK
        out = self.out or Path("runs") / f"reproduce-{self.system}-{scale.name}"
        choice = {} if self.only is None else {"only": self.only}
        print(f"written to {paper.reproduce(scale, out, self.data_dir, **choice)}")
        return 0
