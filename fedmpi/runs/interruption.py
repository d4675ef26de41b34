"""SIGTERM and SIGUSR1, which Slurm and spot machines send some time before they pull the plug."""

import signal
from collections.abc import Callable
from types import FrameType

from fedmpi.errors import Interrupted
from fedmpi.net.job_folder import read_reason

_EXIT_CODES = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGUSR1: 0}


def heed_signals() -> Callable[[], None]:
    """Note the signals from now on, instead of dying from them.

    Returns
    -------
    callable
        Raises `Interrupted` once one has come; exit code 143 after SIGTERM, 0 after SIGUSR1.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    def check() -> None:
        if received:
            name = read_reason() or signal.Signals(received[0]).name
            raise Interrupted(f"stopped by {name}", _EXIT_CODES[signal.Signals(received[0])])

    for number in _EXIT_CODES:
        signal.signal(number, note)
    return check
