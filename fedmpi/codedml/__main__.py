"""``mpirun -n 50 python -m fedmpi.codedml``: rank 0 is the master, all others are workers."""

import sys

from fedmpi.codedml.service import dismiss, serve, views_folder
from fedmpi.net import Channel
from fedmpi.net.mpi import job


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    views = views_folder(sys.argv[1:])
    ch.record_views = views is not None
    if ch.rank == 0:
        from fedmpi.codedml.command import run

        run(ch, sys.argv[1:])
        dismiss(ch)
    else:
        serve(ch)
    if views is not None:
        ch.save_views(views)


if __name__ == "__main__":
    with job() as channel:
        role(channel)
