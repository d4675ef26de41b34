"""What rank 0 orders the other ranks of every system: to go home."""

from fedmpi.net.channel import Channel
from fedmpi.net.message import Message


class Leave(Message, tag=122):
    """Rank 0 → any other: there is no more training, or was none; go home."""


def dismiss(ch: Channel) -> None:
    """Rank 0: send all others home."""
    for rank in range(1, ch.size):
        ch.send(rank, Leave())
