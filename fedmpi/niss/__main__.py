"""``mpirun -n 8 python -m fedmpi.niss``: rank 0 is the server, rank 1 the tracker, on all others live clients."""

import sys

from fedmpi.encryption import encryption
from fedmpi.federation import SERVER
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.net.placement import tell_host
from fedmpi.niss.protocol import TRACKER
from fedmpi.niss.service import PACKAGES, role_of, serve
from fedmpi.own_options import OwnOptions, own_options
from fedmpi.roles import require, take_role


def lead(ch: Channel, argv: list[str]) -> None:
    """Server."""
    require("niss", *PACKAGES)
    from fedmpi.niss.command import run
    from fedmpi.runs.placement import Apart, check_placement

    servers = Apart("server and the tracker", (SERVER, TRACKER))
    check_placement(ch, [servers], strict=own_options(argv).strict_placement)
    run(ch, argv)


def follow(ch: Channel, own: OwnOptions) -> None:
    """Tracker or host of clients."""
    if ch.rank == TRACKER:
        tell_host(ch)
    serve(ch, own.model)


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    take_role(ch, lead, follow)


if __name__ == "__main__":
    with job(role_of=role_of, wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
