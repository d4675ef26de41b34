"""``mpirun -n 11 python -m fedmpi.spn --clients 10``: rank 0 is the server, on all others live clients."""

import signal
import sys

from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.spn.protocol import SERVER
from fedmpi.spn.service import follow, require_torch, role_of, views_folder


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    views = views_folder(sys.argv[1:])
    ch.record_views = views is not None
    if ch.rank == SERVER:
        require_torch()
        from fedmpi.runs.interruption import heed_signals
        from fedmpi.spn.command import run

        ch.on_pause = heed_signals()
        run(ch, sys.argv[1:])
    else:
        for number in (signal.SIGTERM, signal.SIGUSR1):  # who sends them to one rank sends them to all
            signal.signal(number, signal.SIG_IGN)
        follow(ch, sys.argv[1:])
    if views is not None:
        ch.save_views(views)


if __name__ == "__main__":
    with job(role_of=role_of, wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
