"""The whole life of a rank on which clients live."""

import argparse
import importlib.util
from pathlib import Path

from fedmpi.errors import ProtocolError, UsageError
from fedmpi.net import Channel
from fedmpi.pbpfl.protocol import SERVER, Setup, Stop


def role_of(rank: int) -> str:
    """What a rank does, for messages to people."""
    return "server" if rank == SERVER else "host"


def require_torch() -> None:
    """Raise UsageError where torch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('torch must be installed for pbpfl, got none: pip install "fedmpi[torch]"')


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

    job = Job.from_json(order.job)
    if ":" in job.params.model and job.params.model != own_model:
        raise ProtocolError(f"--model must stand on every rank's command line, got {own_model} and {job.params.model}")
    if not order.timeout_seconds > 0:
        raise ProtocolError(f"the server's timeout must be positive, got {order.timeout_seconds}")
    ch.timeout_seconds = 2 * order.timeout_seconds  # so that the server names whom everybody is waiting for
    hosts = ch.size - 1
    clients = job.params.clients or hosts
    host(ch, job.params, Clients.load(job, order.last, ch.rank - 1, hosts, clients, threads_per_rank(ch.size)))


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
