"""``mpirun -n 50 python -m fedmpi.codedml``: rank 0 is the master, all others are workers."""

import sys

from fedmpi.codedml.faults import faults_of
from fedmpi.codedml.service import dismiss, serve
from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.own_options import OwnOptions
from fedmpi.roles import take_role


def lead(ch: Channel, argv: list[str]) -> None:
    """Master."""
    from fedmpi.codedml.command import run

    run(ch, argv)
    dismiss(ch)


def follow(ch: Channel, own: OwnOptions) -> None:
    """Worker."""
    serve(ch, faults_of(ch.rank, own.inject))


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    take_role(ch, lead, follow)


if __name__ == "__main__":
    with job(wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
