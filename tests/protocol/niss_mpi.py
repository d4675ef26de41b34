"""``mpirun -n 6 python niss_mpi.py SCENARIO FOLDER …``: the command line of NISS with ranks that are watched or die."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.niss import SYSTEM
from fedmpi.niss.protocol import Uploads


def killed(ch: Channel) -> None:
    """A host that dies when it has shared its noise in round 2."""
    send = ch.send

    def dying(dest: int, message: Any) -> None:
        if isinstance(message, Uploads) and message.round == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        send(dest, message)

    ch.send = dying  # type: ignore[method-assign]
    SYSTEM.play(ch)


def main() -> None:
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    with job(role_of=SYSTEM.role_of) as ch:
        if scenario == "killed" and ch.rank == 3:
            killed(ch)
        else:
            SYSTEM.play(ch)
        if scenario == "modules":
            (folder / f"modules-{ch.rank}.json").write_text(json.dumps(sorted(sys.modules)))


if __name__ == "__main__":
    main()
