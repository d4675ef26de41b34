"""Which machine each rank runs on."""

import os
from collections.abc import Collection

from fedmpi.net.channel import Channel
from fedmpi.net.message import Message


class Host(Message, tag=123):
    """Any rank → rank 0, at the start: the name of its machine, as it says itself."""

    name: str


def tell_host(ch: Channel) -> None:
    """Ranks that `hosts_of_ranks` asks for, as their first message."""
    ch.send(0, Host(os.uname().nodename))


def hosts_of_ranks(ch: Channel, ranks: Collection[int], seconds: float) -> dict[int, str]:
    """Rank 0: its own machine, and those of other ranks that tell theirs in time."""
    told = ch.gather_within(seconds, ranks, Host)
    return {0: os.uname().nodename} | {rank: host.name for rank, host in told.items()}
