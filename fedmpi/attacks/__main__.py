"""``mpirun -n 4 python -m fedmpi.attacks``: rank 0 leads, and all ranks attack."""

import sys

from fedmpi.attacks.protocol import follow
from fedmpi.net import Channel
from fedmpi.net.mpi import job


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    if ch.rank == 0:
        from fedmpi.attacks.command import run

        run(ch, sys.argv[1:])
    else:
        follow(ch)


if __name__ == "__main__":
    with job(role_of=lambda rank: "leader" if rank == 0 else "attacker") as channel:
        role(channel)
