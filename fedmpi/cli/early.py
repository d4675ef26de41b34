"""Signals before a run has ranks: one line, and the exit code of a run that was stopped."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

_CODES = {"SIGINT": 143, "SIGTERM": 143, "SIGHUP": 143, "SIGQUIT": 143, "SIGUSR1": 0}


def _leave(number: int, _: object) -> NoReturn:
    name = signal.Signals(number).name
    with contextlib.suppress(OSError):  # the terminal has been closed
        os.write(2, f"fedmpi: stopped by {'Ctrl-C' if name == 'SIGINT' else name}, before it began\n".encode())
    sys.exit(_CODES[name])


def heed() -> dict[int, Any]:
    """Heed signals from now on, but those that are ignored, as with nohup; the handlers before."""
    wanted = [signal.Signals[name] for name in _CODES]
    return {n: signal.signal(n, _leave) for n in wanted if signal.getsignal(n) is not signal.SIG_IGN}


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """For the time of a block."""
    before = heed()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
