"""A rank on which clients live: it hears what is trained, loads the rows of its clients, and serves until the end."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from fedmpi.federated.messages import SERVER, Setup
from fedmpi.federated.params import FederatedParams
from fedmpi.net import Channel
from fedmpi.net.orders import Leave
from fedmpi.runs.job import Job
from fedmpi.runs.own_options import OwnOptions
from fedmpi.system import System, named, require

P = TypeVar("P", bound=FederatedParams)


@dataclass(frozen=True)
class Host(Generic[P]):
    """What a rank with clients knows before it loads their rows."""

    job: Job[P]
    number: int
    """0 ≤ number < hosts."""
    hosts: int
    clients: int
    """K, of all hosts."""
    threads: int
    """That this rank may train with."""


@dataclass(frozen=True)
class FederatedSystem(System):
    """A system whose last role is that of hosts, on which clients live."""

    serve: str = ""
    """Of ranks with roles of their own; a host is served by what it names in `host`."""
    parameters: str = ""
    """The parameters of the system, which a host reads from the server's order."""
    host: str = ""
    """(channel, `Host`) → None: what a host does with its clients."""

    def follow(self, ch: Channel, own: OwnOptions) -> None:
        """Host: take the server's order, if there is one, and play the role; code of --model is imported only where it
        stands on this rank's own command line.
        """
        first = len(self.roles) - 1
        if ch.rank < first:
            super().follow(ch, own)
            return
        order = ch.recv_any(SERVER, (Setup, Leave), patient=True)
        if not isinstance(order, Setup):
            return
        require(self.name, *self.packages)
        from fedmpi.learn import threads_per_rank

        job = Job.accepted(order.job, named(self.parameters), own.model)
        ch.outwait(order.timeout_seconds)
        hosts = ch.size - first
        threads = threads_per_rank(ch.size)
        named(self.host)(ch, Host(job, ch.rank - first, hosts, job.params.clients or hosts, threads))
