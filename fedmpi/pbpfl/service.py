"""The whole life of a rank on which clients live."""

from fedmpi.net import Channel
from fedmpi.own_options import own_options
from fedmpi.pbpfl.protocol import SERVER, Setup, Stop


def role_of(rank: int) -> str:
    """What a rank does, for messages to people."""
    return "server" if rank == SERVER else "host"


def follow(ch: Channel, argv: list[str]) -> None:
    """Host of clients, until the server stops it."""
    order = ch.recv_any(SERVER, (Setup, Stop), patient=True)
    if isinstance(order, Setup):
        serve_clients(ch, order, own_options(argv).model)


def serve_clients(ch: Channel, order: Setup, own_model: str | None) -> None:
    """Host: load the rows of the clients that live here, and compute for them.

    Parameters
    ----------
    own_model : str or None
        --model of this rank's own command line: code is imported only where it stands there.
    """
    from fedmpi.learn import threads_per_rank
    from fedmpi.pbpfl.client import Clients, host
    from fedmpi.pbpfl.problem import Job

    job = Job.accepted(order.job, own_model)
    ch.outwait(order.timeout_seconds)
    hosts = ch.size - 1
    clients = job.params.clients or hosts
    host(ch, job.params, Clients.load(job, order.last, ch.rank - 1, hosts, clients, threads_per_rank(ch.size)))
