"""Wake-ups between the ranks of one machine, so that an idle rank sleeps until something is sent to it.

Open MPI has no call that sleeps until a message comes: who waits looks again and again. A ring says when to look. It
carries nothing and promises nothing: one that is lost costs the sleeper the rest of its nap.
"""

import contextlib
import secrets
import select
import socket
from collections.abc import Sequence

NAME_BYTES = 16

_HEARD = 1024
"""Rings that are taken for one."""


class Doorbell:
    """A datagram socket in Linux's abstract namespace, under a random name.

    Raises
    ------
    OSError
        Where there is no such namespace.
    """

    def __init__(self) -> None:
        self.name = secrets.token_bytes(NAME_BYTES)
        self._addresses: list[bytes] = []
        self._bell, self._hand = _datagrams(), _datagrams()
        self._bell.bind(b"\0" + self.name)
        self._rung = select.poll()
        self._rung.register(self._bell, select.POLLIN)

    def close(self) -> None:
        """Hear nothing any more, and wake nobody."""
        self._bell.close()
        self._hand.close()

    def reach(self, names: Sequence[bytes]) -> bool:
        """Learn the names of all ranks, in their order; whether all of them can be rung from here."""
        self._addresses = [b"\0" + name for name in names]
        return all(self.ring(rank) for rank in range(len(names)))

    def ring(self, rank: int) -> bool:
        """Wake a rank, or let it find this ring when it next sleeps; whether it is there."""
        for _ in range(2):
            try:
                self._hand.sendto(b"", self._addresses[rank])
                return True
            except BlockingIOError:
                # Too many rings wait: of this socket, with busy ranks, and a new one has room; or with this very
                # rank, which will find them.
                self._hand.close()
                self._hand = _datagrams()
            except OSError:
                return False
        return True

    def wait(self, seconds: float) -> bool:
        """Sleep until somebody rings, or for so long; whether somebody rang."""
        return bool(self._rung.poll(1e3 * seconds))

    def heard(self) -> bool:
        """Whether somebody rang; who rings from now on wakes this rank once more."""
        rings = 0
        with contextlib.suppress(BlockingIOError):
            while rings < _HEARD:
                self._bell.recv(1)
                rings += 1
        return rings > 0


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
