"""``mpirun -n 12 python -m fedmpi.ppadmm``: rank 0 is S1, rank 1 S2, all others are participants."""

import sys

from fedmpi.encryption import encryption
from fedmpi.net import Channel
from fedmpi.net.mpi import job
from fedmpi.net.placement import tell_host
from fedmpi.own_options import OwnOptions, own_options
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY
from fedmpi.ppadmm.service import dismiss, role_of, serve
from fedmpi.roles import take_role


def lead(ch: Channel, argv: list[str]) -> None:
    """Primary server."""
    from fedmpi.ppadmm.command import run
    from fedmpi.runs.placement import Apart, check_placement

    servers = Apart("servers S1 and S2", (PRIMARY, AUXILIARY))
    check_placement(ch, [servers], strict=own_options(argv).strict_placement)
    run(ch, argv)
    dismiss(ch)


def follow(ch: Channel, own: OwnOptions) -> None:
    """Auxiliary server or participant."""
    if ch.rank == AUXILIARY:
        tell_host(ch)
    serve(ch, own.run)


def role(ch: Channel) -> None:
    """Map this rank to its role."""
    take_role(ch, lead, follow)


if __name__ == "__main__":
    with job(role_of=role_of, wrap=encryption(sys.argv[1:])) as channel:
        role(channel)
