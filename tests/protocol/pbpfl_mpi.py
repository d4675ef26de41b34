"""``mpirun -n 4 python pbpfl_mpi.py …``: the command line of PBPFL with a host that dies."""

import os
import signal
from typing import Any

from fedmpi.federated.masked import Masked
from fedmpi.net.mpi import job
from fedmpi.pbpfl import SYSTEM
from fedmpi.pbpfl.messages import Terms


def main() -> None:
    """Let rank 2 die when it is about to send the terms of round 2."""
    with job(role_of=SYSTEM.role_of) as ch:
        send = ch.send

        def dying(dest: int, message: Any) -> None:
            if ch.rank == 2 and isinstance(message, Terms | Masked) and message.round == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            send(dest, message)

        ch.send = dying  # type: ignore[method-assign]
        SYSTEM.play(ch)


if __name__ == "__main__":
    main()
