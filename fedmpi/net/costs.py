"""What a rank tells the master at the end of a training: its share of result.json."""

import os
import resource
import sys
from typing import Annotated

from fedmpi.errors import PeerFailed
from fedmpi.net.channel import LINGER_SECONDS, Channel
from fedmpi.net.meaning import PART, judged
from fedmpi.net.message import Message
from fedmpi.net.siblings import wake_the_frozen

REPORT_SECONDS = 10.0
"""How long rank 0 waits at the end for what the others have to report: a model does not wait for one that hangs."""


class Report(Message, tag=125):
    """Any rank → master, at the end: what its part cost; seconds and bytes."""

    compute_seconds: Annotated[float, PART]
    cpu_seconds: Annotated[float, PART]
    bytes_sent: int
    bytes_received: int
    peak_memory_bytes: int
    host: str
    frames: Annotated[str, judged("fedmpi.net.frames:read_told")] = ""
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
    """Rank 0: what the other ranks report, of those that do so in time; the others depart, as nobody is needed now.

    Who is frozen is woken for it, and named.
    """
    for rank in wake_the_frozen():
        who = f"rank {rank} ({ch.role_of(rank)})"
        print(f"fedmpi: warning: {who} was stopped by a signal; it goes on, to leave", file=sys.stderr, flush=True)
    before, ch.tolerated = ch.tolerated, range(1, ch.size)
    seconds, silent = min(REPORT_SECONDS, ch.timeout_seconds), set(ch.silent)
    reports = ch.gather_within(seconds, [rank for rank in ch.tolerated if rank not in silent], Report)
    reports |= ch.gather_within(LINGER_SECONDS, silent, Report)
    for rank in set(ch.tolerated) - reports.keys() - ch.departed.keys():
        ch.depart(PeerFailed(rank, ch.role_of(rank), "sent no report at the end"))
    ch.tolerated = before
    return reports
