"""``mpirun -n 50 python -m fedmpi.codedml``: rank 0 is the master, all others are workers."""

import sys

from fedmpi.codedml.protocol import dismiss, serve
from fedmpi.net import Channel
from fedmpi.net.mpi import job


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    if ch.rank != 0:
        serve(ch)
        return
    from fedmpi.codedml.command import run

    run(ch, sys.argv[1:])
    dismiss(ch)


if __name__ == "__main__":
    with job() as channel:
        role(channel)
