"""The whole life of a rank that is not the server."""

from fedmpi.federation import SERVER, Setup, Stop
from fedmpi.net import Channel
from fedmpi.roles import require


def role_of(rank: int) -> str:
    """What a rank does, for messages to people."""
    return "server" if rank == SERVER else "host"


def serve(ch: Channel, own_model: str | None = None) -> None:
    """Host of clients: load their rows, and train them until the server stops it.

    Parameters
    ----------
    own_model : str, optional
        --model of this rank's own command line: code is imported only where it stands there.
    """
    order = ch.recv_any(SERVER, (Setup, Stop), patient=True)
    if not isinstance(order, Setup):
        return
    require("spn", "torch")
    from fedmpi.learn import threads_per_rank
    from fedmpi.spn.client import Clients
    from fedmpi.spn.job import Job
    from fedmpi.spn.protocol import host

    job = Job.accepted(order.job, own_model)
    ch.outwait(order.timeout_seconds)
    hosts = ch.size - 1
    clients = job.params.clients or hosts
    host(ch, Clients.load(job, ch.rank - 1, hosts, clients, threads_per_rank(ch.size)))
