"""From a rank to its role: what the programs of all systems begin and end with."""

import importlib.util
import signal
import sys
from collections.abc import Callable

from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.own_options import OwnOptions, own_options

Lead = Callable[[Channel, list[str]], None]
"""What rank 0 does, given its channel and its command line."""

Follow = Callable[[Channel, OwnOptions], None]
"""What another rank does, given its channel and what it believes of its own command line."""


def take_role(ch: Channel, lead: Lead, follow: Follow) -> None:
    """Rank 0 leads, and heeds signals; all others follow it. What a rank received is written, if it was told to.

    A signal that is sent to the job reaches every rank: the leader alone decides what becomes of it.
    """
    argv = sys.argv[1:]
    own = own_options(argv)
    ch.record_views = own.views is not None
    if ch.rank == 0:
        from fedmpi.runs.interruption import heed_signals
        from fedmpi.runs.progress import end_live_line

        ch.on_pause = heed_signals()
        try:
            lead(ch, argv)
        finally:
            end_live_line()  # of a run that an error or a signal ends
    else:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        follow(ch, own)
    if own.views is not None:
        ch.save_views(own.views)


def require(system: str, *packages: str) -> None:
    """Raise UsageError where a package that a system needs is missing."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f'{name} must be installed for {system}, got none: pip install "fedmpi[torch]"')
