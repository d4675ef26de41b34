"""A worker's whole life, whatever the method of training."""

from fedmpi.codedml.baseline import GroupSetup, member
from fedmpi.codedml.dealing import MASTER
from fedmpi.codedml.faults import NO_FAULTS, Faults, faults_of
from fedmpi.codedml.protocol import Setup, worker
from fedmpi.machines.placement import tell_host
from fedmpi.net import Channel
from fedmpi.net.orders import Leave
from fedmpi.runs.own_options import OwnOptions


def follow(ch: Channel, own: OwnOptions) -> None:
    """Worker of a command line, with the faults that its own part of it tells it to have."""
    serve(ch, faults_of(ch.rank, own.inject))


def serve(ch: Channel, faults: Faults = NO_FAULTS) -> None:
    """Worker: one training after another, until the master sends it home."""
    tell_host(ch)
    held = None
    while True:
        ch.tolerated = range(1, ch.size)  # who else is there is the master's business
        order = ch.recv_any(MASTER, (Setup, GroupSetup, Leave), patient=True)
        if isinstance(order, Setup):
            kept, held = (held if order.again else None), None  # old data gives way before new data comes
            held = worker(ch, order, faults, kept)
        elif isinstance(order, GroupSetup):
            held = None
            member(ch, order)
        else:
            return
