"""`hostfile`: print one."""

import dataclasses
from typing import Annotated

import tyro

from fedmpi.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Hostfile:
    """Print a hostfile: fedmpi hostfile head:1 node[01-12] --slots 4 > hosts."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="HOST[:SLOTS] …", help_behavior_hint="")
    ] = ()
    """Names, or patterns such as node[01-12,20]. Rank 0 goes to the first. Default: with --slurm, those of the job."""
    slots: int = 1
    """Ranks on each host that does not say how many."""
    slurm: bool = False
    """Take the hosts and tasks of this Slurm job."""
    mpich: bool = False
    """Write the form of MPICH, not of Open MPI."""

    def __call__(self, options: list[str]) -> int:
        """Print one line per host."""
        from fedmpi.machines import hosts

        if self.slurm == bool(self.names):
            raise UsageError(f"either --slurm or hosts must be given, got {'both' if self.slurm else 'neither'}")
        found = hosts.slurm_hosts() if self.slurm else hosts.named_hosts(self.names, self.slots)
        print(hosts.hostfile(found, mpich=self.mpich), end="")
        return 0
