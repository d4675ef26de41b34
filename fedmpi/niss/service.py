"""The whole life of a rank that is not the server."""

from fedmpi.federation import SERVER, Setup, Stop
from fedmpi.net import Channel
from fedmpi.niss.protocol import FIRST_HOST, TRACKER, TrackerSetup
from fedmpi.roles import require

PACKAGES = ("torch", "opacus")
"""What a server or host of NISS needs beside numpy."""


def role_of(rank: int) -> str:
    """What a rank does, for messages to people."""
    return {SERVER: "server", TRACKER: "tracker"}.get(rank, "host")


def serve(ch: Channel, own_model: str | None = None) -> None:
    """Tracker or host of clients, until the server stops it.

    Parameters
    ----------
    own_model : str, optional
        --model of this rank's own command line: code is imported only where it stands there.
    """
    order = ch.recv_any(SERVER, (TrackerSetup, Setup, Stop), patient=True)
    if isinstance(order, TrackerSetup):
        from fedmpi.crypto.random import permutation
        from fedmpi.niss.tracker import tracker

        tracker(ch, order, permutation)
    elif isinstance(order, Setup):
        serve_clients(ch, order, own_model)


def serve_clients(ch: Channel, order: Setup, own_model: str | None) -> None:
    """Host: load the rows of the clients that live here, and train them."""
    require("niss", *PACKAGES)
    from fedmpi.learn import threads_per_rank
    from fedmpi.niss.client import Clients, host
    from fedmpi.niss.job import Job

    job = Job.accepted(order.job, own_model)
    ch.outwait(order.timeout_seconds)
    hosts = ch.size - FIRST_HOST
    clients = job.params.clients or hosts
    host(ch, job.params, Clients.load(job, ch.rank - FIRST_HOST, hosts, clients, threads_per_rank(ch.size)))
