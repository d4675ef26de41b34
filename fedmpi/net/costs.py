"""What a rank tells the master at the end of a training: its share of result.json."""

import os
import resource

from fedmpi.net.channel import Channel
from fedmpi.net.message import Message

REPORT_SECONDS = 10.0
"""How long rank 0 waits at the end for what the others have to report: a model does not wait for one that hangs."""


class Report(Message, tag=125):
    """Any rank → master, at the end: what its part cost; seconds and bytes."""

    compute_seconds: float
    cpu_seconds: float
    bytes_sent: int
    bytes_received: int
    peak_memory_bytes: int
    host: str
    frames: str = ""
    """Of `fedmpi.net.frames`: what this rank sent and received in the first steps."""


def report(ch: Channel) -> Report:
    """The cost of this rank so far; `compute_seconds` are those of its phase "compute"."""
    return Report(
        compute_seconds=float(ch.meter.seconds["compute"]),
        cpu_seconds=ch.meter.cpu_seconds,
        bytes_sent=ch.meter.bytes_sent.total(),
        bytes_received=ch.meter.bytes_received.total(),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        host=os.uname().nodename,
        frames=ch.frames.told([ch.role_of(rank) for rank in range(ch.size)]),
    )


def gather_reports(ch: Channel) -> dict[int, Report]:
    """Rank 0: what the other ranks report, of those that do so in time."""
    return ch.gather_within(min(REPORT_SECONDS, ch.timeout_seconds), range(1, ch.size), Report)
