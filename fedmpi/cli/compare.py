"""`compare`: several systems on the same rows, in one table and one picture."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fedmpi.cli.types import File, Text
from fedmpi.errors import UsageError
from fedmpi.rules import printable, printable_lines


@dataclasses.dataclass(frozen=True)
class Compare:
    """Run several systems on the same rows, over seeds and a grid of parameters: one table and one picture of it all.

    Options of all systems that have them stand behind `--`; --niss.rounds is one of niss alone. The same command again
    goes on. Example: fedmpi compare --systems codedml,niss,niss:dp-fedavg --dataset digits --grid epsilon=1,10
    """

    study: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STUDY.toml", help_behavior_hint="")
    ] = ()
    """A study of --save, or one that lies in the folder of another; what is given here wins. Default: none."""
    systems: Annotated[str | None, tyro.conf.arg(metavar="SYSTEM[:METHOD],…", help_behavior_hint="")] = None
    """The methods to compare, such as codedml,codedml:bgw,niss:dp-fedavg."""
    dataset: Text = None
    """A set of `fedmpi data list`, or a file."""
    grid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE,…", help_behavior_hint="")] = ()
    """Parameters to try, each value with each: N=10,20 T=1,3 epsilon=1,5. N: clients, workers or participants, 10 where
    it is not given. A method that a name means nothing to is not multiplied by it."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Runs of each, with other splits and other initial models. Default: 3."""
    audit: bool = False
    """Attack the first run of each, and show what was recovered."""
    hosts: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Ranks that the clients of a federated system share; no score depends on it. Default: 1, and 2 on four
    cores and more."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Runs side by side. Default: 2, where there are two cores; of Slurm all."""
    launcher: Literal["mpirun", "slurm"] = "mpirun"
    """mpirun: on this machine. slurm: each run is a job, which sbatch submits by its variables,
    such as SBATCH_PARTITION."""
    out: Path = Path("study")
    """Folder of the study: runs that it has already are not made again."""
    save: File = None
    """Write the study to this file, and run nothing."""

    def __call__(self, options: list[str]) -> int:
        """Compare, print the table, and say where the page is. SIGTERM ends what runs, and leaves what is finished."""
        from fedmpi.runs.batch import ended_by_sigterm
        from fedmpi.study.comparison import make
        from fedmpi.study.plan import grid_values, option_values, read_toml, with_changes

        if len(self.study) > 1:
            raise UsageError(f"STUDY.toml must be one file, got {' '.join(map(str, self.study))}")
        study = with_changes(
            read_toml(self.study[0]) if self.study else {},
            systems=tuple(one.strip() for one in self.systems.split(",")) if self.systems else (),
            dataset=self.dataset,
            grid=grid_values(self.grid),
            seeds=self.seeds,
            audit=self.audit,
            hosts=self.hosts,
            options=option_values(options),
        )
        if self.save is not None:
            self.save.write_text(study.to_toml(), encoding="utf-8")
            print(f"written to {self.save}: fedmpi compare {self.save}")
            return 0
        for remark in study.remarks:
            print(f"note: {printable(remark)}", file=sys.stderr)
        with ended_by_sigterm():
            done = make(study, self.out, self.jobs, self.launcher)
        print(f"{printable_lines(str(done))}\n")
        failed = [row for row in done.rows if row.failure]
        for row in failed:
            print(printable(f"{row.name}: {row.failure}"))
        print(f"written to {done.html}")
        return 4 if failed else 0
