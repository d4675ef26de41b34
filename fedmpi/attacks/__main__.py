"""``mpirun -n 4 python -m fedmpi.attacks``: rank 0 leads, and all ranks attack."""

import importlib.util
import sys

from fedmpi.encryption import encryption
from fedmpi.errors import UsageError
from fedmpi.net import Channel
from fedmpi.net.mpi import job


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('torch must be installed for attacks, got none: pip install "fedmpi[torch]"')
    if ch.rank == 0:
        from fedmpi.attacks.command import run

        run(ch, sys.argv[1:])
    else:
        from fedmpi.attacks.protocol import follow

        follow(ch)


if __name__ == "__main__":
    with job(role_of=lambda rank: "leader" if rank == 0 else "attacker", wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
