"""``mpirun -n 11 python -m fedmpi.spn --clients 10``: rank 0 is the server, on all others live clients."""

import sys

from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.own_options import OwnOptions
from fedmpi.roles import require, take_role
from fedmpi.spn.service import role_of, serve


def lead(ch: Channel, argv: list[str]) -> None:
    """Server."""
    require("spn", "torch")
    from fedmpi.spn.command import run

    run(ch, argv)


def follow(ch: Channel, own: OwnOptions) -> None:
    """Host of clients."""
    serve(ch, own.model)


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    take_role(ch, lead, follow)


if __name__ == "__main__":
    with job(role_of=role_of, wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
