"""A worker's whole life, whatever the method of training."""

from fedmpi.codedml.baseline import GroupSetup, member
from fedmpi.codedml.faults import NO_FAULTS, Faults
from fedmpi.codedml.protocol import MASTER, Setup, worker
from fedmpi.net import Channel, Message
from fedmpi.net.placement import tell_host


class Leave(Message, tag=6):
    """Master → worker: no more training; go home."""


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


def dismiss(ch: Channel) -> None:
    """Master: send all workers home."""
    for rank in range(1, ch.size):
        ch.send(rank, Leave())
