"""``mpirun -n 4 python -m fedmpi.attacks``: rank 0 leads, and all ranks attack."""

import sys

from fedmpi.machines.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.system import require


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    require("attacks", "torch")
    if ch.rank == 0:
        from fedmpi.attacks.command import run

        run(ch, sys.argv[1:])
    else:
        from fedmpi.attacks.protocol import follow

        follow(ch)


if __name__ == "__main__":
    with job(role_of=lambda rank: "leader" if rank == 0 else "attacker", wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
