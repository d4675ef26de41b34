"""What starts ranks: `run`, `attack`, and the keys and hostfiles for it."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fedmpi.cli.flags import File, Text
from fedmpi.errors import UsageError
from fedmpi.hosts import parse_places
from fedmpi.launcher import run_ranks

SYSTEMS = ("codedml", "ppadmm", "niss", "pbpfl", "spn")


@dataclasses.dataclass(frozen=True)
class Run:
    """Run a system on N ranks of this machine or of a cluster; options of the system stand behind `--`.

    Example: fedmpi run codedml -n 11 -- --dataset mnist --classes 4 9. Its options: fedmpi run codedml -n 11 -- --help
    """

    system: tyro.conf.Positional[Literal["codedml", "ppadmm", "niss", "pbpfl", "spn"]]
    """The system to run."""
    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])]
    """Ranks. codedml: a master and N - 1 workers; ppadmm: two servers and N - 2 participants; niss: a server, a
    tracker and N - 2 hosts of clients; pbpfl, spn: a server and N - 1 hosts of clients."""
    hostfile: File = None
    """Hosts, one per line: `name slots=4`. Default: this machine alone."""
    interface: Text = None
    """The network between the hosts, where they have several: eth0, or 10.0.0.0/16. Default: what MPI chooses."""
    tolerate_failures: bool = True
    """Let the job outlive ranks that die, as long as its protocol can do without them (needs Open MPI 5)."""
    encrypt: bool = False
    """Encrypt and authenticate every link, under a key for this run that all hosts get by ssh."""
    cluster_key: File = None
    """Encrypt under this key, of `fedmpi keygen`. Default: one for this run, with --encrypt."""
    place: Annotated[str | None, tyro.conf.arg(metavar="ROLE=HOST,…", help_behavior_hint="")] = None
    """Hosts for named roles, or for ranks: master=hostA,7=hostB. The others fill the
    hosts in their order. Default: all do."""
    strict_placement: bool = False
    """Refuse to run where ranks that must not collude share a machine, instead of a warning."""

    def __call__(self, options: list[str]) -> int:
        """Start mpirun."""
        roles = import_module(f"fedmpi.{self.system}").ROLES
        strict = ["--strict-placement"] if self.strict_placement else []
        with self.key_options() as own:
            return run_ranks(
                self.ranks,
                [sys.executable, "-m", f"fedmpi.{self.system}", *own, *options, *strict],
                self.hostfile,
                interface=self.interface,
                tolerate_failures=self.tolerate_failures,
                places=parse_places(self.place, roles) if self.place else None,
            )

    @contextlib.contextmanager
    def key_options(self) -> Iterator[list[str]]:
        """What tells the ranks where the cluster key is, while it is there."""
        if not self.encrypt and self.cluster_key is None:
            yield []
            return
        from fedmpi.key_distribution import distributed_key

        with distributed_key(self.cluster_key, self.hostfile) as path:
            yield ["--encrypt", "--cluster-key", str(path)]


@dataclasses.dataclass(frozen=True)
class Keygen:
    """Make a cluster key, for --cluster-key FILE: who holds it can take part in a job."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A new file, which its owner alone may read."""

    def __call__(self, options: list[str]) -> int:
        """Make it."""
        from fedmpi.crypto.keys import create_key_file

        create_key_file(self.file)
        print(f"written to {self.file}, mode 0600")
        return 0


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
        from fedmpi import hosts

        if self.slurm == bool(self.names):
            raise UsageError(f"either --slurm or hosts must be given, got {'both' if self.slurm else 'neither'}")
        found = hosts.slurm_hosts() if self.slurm else hosts.named_hosts(self.names, self.slots)
        print(hosts.hostfile(found, mpich=self.mpich), end="")
        return 0


@dataclasses.dataclass(frozen=True)
class Attack:
    """Reconstruct training data from the gradients that a client shares; options of the attack stand behind `--`.

    Example: fedmpi attack -- --dataset cifar10 --attack dlg --defence dp --noise-std 0.01. Its options: fedmpi
    attack -- --help
    """

    ranks: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Ranks that attack, each another case."""
    hostfile: File = None
    """Hosts, one per line: `name slots=4`. Default: this machine alone."""

    def __call__(self, options: list[str]) -> int:
        """Start mpirun."""
        return run_ranks(self.ranks, [sys.executable, "-m", "fedmpi.attacks", *options], self.hostfile)
