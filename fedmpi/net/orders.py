"""What rank 0 decides for all ranks of every system: that they go home, and that the job ends."""

from fedmpi.errors import UsageError
from fedmpi.net.channel import Channel
from fedmpi.net.message import Message


class Leave(Message, tag=122):
    """Rank 0 → any other: there is no more training, or was none; go home."""


def dismiss(ch: Channel) -> None:
    """Rank 0: send all others home."""
    for rank in range(1, ch.size):
        ch.send(rank, Leave())


def refuse_broken_rules(ch: Channel) -> None:
    """Rank 0: end the job for a rank whose data, files or values break a rule. They are for people to mend.

    Raises
    ------
    PeerFailed
    """
    for failed in ch.departed.values():
        if failed.exit_code == UsageError.exit_code:
            raise failed
