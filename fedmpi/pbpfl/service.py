"""The whole life of a rank that is not the server."""

from fedmpi.federation import SERVER, Setup, Stop
from fedmpi.net import Channel
from fedmpi.roles import require


def role_of(rank: int) -> str:
    """What a rank does, for messages to people."""
    return "server" if rank == SERVER else "host"


def serve(ch: Channel, own_model: str | None = None) -> None:
    """Host of clients: load their rows, and compute for them until the server stops it.

    Parameters
    ----------
    own_model : str, optional
        --model of this rank's own command line: code is imported only where it stands there.
    """
    order = ch.recv_any(SERVER, (Setup, Stop), patient=True)
    if not isinstance(order, Setup):
        return
    require("pbpfl", "torch")
    from fedmpi.learn import threads_per_rank
    from fedmpi.pbpfl.client import Clients, host
    from fedmpi.pbpfl.job import Job
    from fedmpi.pbpfl.protocol import Outputs

    job = Job.accepted(order.job, own_model)
    ch.outwait(order.timeout_seconds)
    hosts = ch.size - 1
    clients = job.params.clients or hosts
    last = ch.recv(SERVER, Outputs).layer
    host(ch, job.params, Clients.load(job, last, ch.rank - 1, hosts, clients, threads_per_rank(ch.size)))
