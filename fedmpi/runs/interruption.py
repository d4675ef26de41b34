"""SIGTERM and SIGUSR1, which Slurm and spot machines send some time before they pull the plug."""

import signal
from collections.abc import Callable
from types import FrameType

from fedmpi.errors import Interrupted, PeerFailed
from fedmpi.net.job_folder import read_reason, told

_EXIT_CODES = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGUSR1: 0}


def heed_signals() -> Callable[[], None]:
    """Note the signals from now on, instead of dying from them.

    Returns
    -------
    callable
        Raises `Interrupted` once one has come; exit code 143 after SIGTERM, 0 after SIGUSR1. After a SIGTERM for which
        the job's launcher has given no reason it is 4: mpirun's own, which clears up after a death (Open MPI 4, Slurm).
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    def check() -> None:
        if received:
            number, reason = signal.Signals(received[0]), read_reason()
            if number == signal.SIGTERM and reason is None and told():
                line = (
                    "all ranks must last as long as the job, got SIGTERM from what started them, as when one has died"
                )
                raise Interrupted(line, PeerFailed.exit_code)
            raise Interrupted(f"stopped by {reason or number.name}", _EXIT_CODES[number])

    for number in _EXIT_CODES:
        signal.signal(number, note)
    return check
