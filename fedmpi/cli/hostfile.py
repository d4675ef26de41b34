"""`hostfile`: print one."""

import dataclasses
import os
from typing import Annotated

import tyro

from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Hostfile:
    """Print a hostfile: fedmpi hostfile head:1 node[01-12] --slots 4 > hosts."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="HOST[:SLOTS] …", help_behavior_hint="")
    ] = ()
    """Names, or patterns such as node[01-12,20]. Rank 0 goes to the first. Default: the job's (--slurm, …)."""
    slots: int = 1
    """Ranks on each host that does not say how many."""
    slurm: bool = False
    """Take the hosts and tasks of this Slurm job."""
    pbs: bool = False
    """Take the hosts of this PBS job, with the ranks of $PBS_NODEFILE."""
    lsf: bool = False
    """Take the hosts and slots of this LSF job."""
    mpich: bool = False
    """Write the form of MPICH, not of Open MPI."""

    def __call__(self, options: list[str]) -> int:
        """Print one line per host."""
        from fedmpi.machines import hosts
        from fedmpi.machines.schedulers import SCHEDULERS

        asked = [known for flag, known in SCHEDULERS.items() if getattr(self, flag)]
        if len(asked) + bool(self.names) != 1:
            got = "several" if asked else "neither"
            raise UsageError(f"either hosts or one of --slurm, --pbs and --lsf must be given, got {got}")
        found = asked[0].hosts(os.environ) if asked else hosts.named_hosts(self.names, self.slots)
        print(hosts.hostfile_text(found, mpich=self.mpich), end="")
        return 0
