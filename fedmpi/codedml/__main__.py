"""``mpirun -n 50 python -m fedmpi.codedml``: rank 0 is the master, all others are workers."""

import signal
import sys

from fedmpi.codedml.faults import faults_of
from fedmpi.codedml.service import dismiss, own_options, serve, views_folder
from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    views = views_folder(sys.argv[1:])
    ch.record_views = views is not None
    if ch.rank == 0:
        from fedmpi.codedml.command import run
        from fedmpi.runs.interruption import heed_signals

        ch.on_pause = heed_signals()
        run(ch, sys.argv[1:])
        dismiss(ch)
    else:
        for number in (signal.SIGTERM, signal.SIGUSR1):  # who sends them to one rank sends them to all
            signal.signal(number, signal.SIG_IGN)
        serve(ch, faults_of(ch.rank, own_options(sys.argv[1:]).inject))
    if views is not None:
        ch.save_views(views)


if __name__ == "__main__":
    with job(wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
