"""``mpirun -n 8 python -m fedmpi.niss``: rank 0 is the server, rank 1 the tracker, on all others live clients."""

import signal
import sys

from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.net.placement import tell_host
from fedmpi.niss.protocol import SERVER, TRACKER
from fedmpi.niss.service import follow, require_torch, role_of, views_folder


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    views = views_folder(sys.argv[1:])
    ch.record_views = views is not None
    if ch.rank == SERVER:
        require_torch()
        from fedmpi.niss.command import run
        from fedmpi.runs.interruption import heed_signals
        from fedmpi.runs.placement import Apart, check_placement

        servers = Apart("server and the tracker", (SERVER, TRACKER))
        check_placement(ch, [servers], strict="--strict-placement" in sys.argv)
        ch.on_pause = heed_signals()
        run(ch, sys.argv[1:])
    else:
        for number in (signal.SIGTERM, signal.SIGUSR1):  # who sends them to one rank sends them to all
            signal.signal(number, signal.SIG_IGN)
        if ch.rank == TRACKER:
            tell_host(ch)
        follow(ch, sys.argv[1:])
    if views is not None:
        ch.save_views(views)


if __name__ == "__main__":
    with job(role_of=role_of, wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
