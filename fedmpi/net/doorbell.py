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
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(b"\0" + self.name)

    def reach(self, names: Sequence[bytes]) -> bool:
        """Learn the names of all ranks, in their order; whether all of them can be rung from here."""
        self._addresses = [b"\0" + name for name in names]
        return all(self.ring(rank) for rank in range(len(names)))

    def ring(self, rank: int) -> bool:
        """Wake a rank, or let it find this ring when it next sleeps; whether it is there."""
        try:
            self._socket.sendto(b"", self._addresses[rank])
        except BlockingIOError:
            return True  # it has not yet answered some earlier rings, and will look
        except OSError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Sleep until somebody rings, or for so long; whether somebody rang."""
        if not select.select([self._socket], [], [], seconds)[0]:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        return True
