"""``mpirun -n 12 python -m fedmpi.ppadmm``: rank 0 is S1, rank 1 S2, all others are participants."""

import sys

from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.ppadmm.service import dismiss, role_of, serve, views_folder


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    views = views_folder(sys.argv[1:])
    ch.record_views = views is not None
    if ch.rank == 0:
        from fedmpi.ppadmm.command import run

        run(ch, sys.argv[1:])
        dismiss(ch)
    else:
        serve(ch)
    if views is not None:
        ch.save_views(views)


if __name__ == "__main__":
    with job(wrap=encryption(sys.argv[1:]), role_of=role_of) as channel:
        role(channel)
