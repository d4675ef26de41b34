"""``mpirun -n 12 python -m fedmpi.ppadmm``: rank 0 is S1, rank 1 S2, all others are participants."""

import signal
import sys

from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.net.placement import tell_host
from fedmpi.ppadmm.service import dismiss, own_options, role_of, serve


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    own = own_options(sys.argv[1:])
    ch.record_views = own.views is not None
    if ch.rank == 0:
        from fedmpi.ppadmm.command import run
        from fedmpi.runs.interruption import heed_signals
        from fedmpi.runs.placement import Apart, check_placement

        check_placement(ch, [Apart("servers S1 and S2", (0, 1))], strict="--strict-placement" in sys.argv)
        ch.on_pause = heed_signals()
        run(ch, sys.argv[1:])
        dismiss(ch)
    else:
        for number in (signal.SIGTERM, signal.SIGUSR1):  # who sends them to one rank sends them to all
            signal.signal(number, signal.SIG_IGN)
        if ch.rank == 1:
            tell_host(ch)
        serve(ch, own.run)
    if own.views is not None:
        ch.save_views(own.views)


if __name__ == "__main__":
    with job(wrap=encryption(sys.argv[1:]), role_of=role_of) as channel:
        role(channel)
