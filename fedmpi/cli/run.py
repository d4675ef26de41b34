"""`run`: a system on the ranks of this machine or of a cluster."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Literal

import tyro

from fedmpi.cli.types import File, Text
from fedmpi.machines.hosts import parse_places
from fedmpi.machines.launcher import run_ranks

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
        roles = import_module(f"fedmpi.{self.system}").SYSTEM.named_ranks
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
        from fedmpi.machines.key_distribution import distributed_key

        with distributed_key(self.cluster_key, self.hostfile) as path:
            yield ["--encrypt", "--cluster-key", str(path)]
