"""The whole life of a rank that is not the server."""

import argparse
import importlib.util
from pathlib import Path

from fedmpi.errors import ProtocolError, UsageError
from fedmpi.net import Channel
from fedmpi.spn.protocol import FIRST_HOST, SERVER, Setup, Stop


def role_of(rank: int) -> str:
    """What a rank does, for messages to people."""
    return "server" if rank == SERVER else "host"


def require_torch() -> None:
    """Raise UsageError where torch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('torch must be installed for spn, got none: pip install "fedmpi[torch]"')


def follow(ch: Channel, argv: list[str]) -> None:
    """Host of clients: load their rows, and train them until the server stops it.

    Code is imported for --model only where it stands on this rank's own command line.
    """
    order = ch.recv_any(SERVER, (Setup, Stop), patient=True)
    if not isinstance(order, Setup):
        return
    require_torch()
    from fedmpi.learn import threads_per_rank
    from fedmpi.spn.client import Clients
    from fedmpi.spn.job import Job
    from fedmpi.spn.protocol import host

    job = Job.from_json(order.job)
    own_model = own_options(argv).model
    if ":" in job.params.model and job.params.model != own_model:
        raise ProtocolError(f"--model must stand on every rank's command line, got {own_model} and {job.params.model}")
    if not order.timeout_seconds > 0:
        raise ProtocolError(f"the server's timeout must be positive, got {order.timeout_seconds}")
    ch.timeout_seconds = 2 * order.timeout_seconds  # so that the server names whom everybody is waiting for
    hosts = ch.size - FIRST_HOST
    clients = job.params.clients or hosts
    host(ch, Clients.load(job, ch.rank - FIRST_HOST, hosts, clients, threads_per_rank(ch.size)))


def own_options(argv: list[str]) -> argparse.Namespace:
    """What every rank takes from its own command line: --record-views, --out, --model.

    No rank writes where another tells it to, or runs code because another says so.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--record-views", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model")
    return parser.parse_known_args(argv)[0]


def views_folder(argv: list[str]) -> Path | None:
    """Where a rank that was started with --record-views and --out writes what it received."""
    known = own_options(argv)
    return known.out / "views" if known.record_views and known.out else None
