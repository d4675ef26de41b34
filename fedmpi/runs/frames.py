"""frames.jsonl: the frames of a run's setup and first steps, for `fedmpi report`."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedmpi.net import Channel
from fedmpi.net.costs import Report
from fedmpi.net.frames import END, START, read_told


def frame_lines(ch: Channel, reports: Mapping[int, Report]) -> Iterator[dict[str, Any]]:
    """One object for each frame of rank 0, and one for each kind of frame that another rank sent or received.

    Parameters
    ----------
    ch : Channel
        Of rank 0.
    reports : mapping
        Rank → what it told at the end.

    Yields
    ------
    dict
        `by`, the rank that saw it; `step`, "start", "end" or a number; `type`; `from` and `to`, roles. Of rank 0's
        own frames `rank`, the other end, and `bytes` too. The objects of one rank are in its own order.
    """
    roles = [ch.role_of(rank) for rank in range(ch.size)]
    for line in ch.frames.lines:
        yield _object(0, roles, line.sent, roles[line.peer], line.type, line.step) | {
            "rank": line.peer,
            "bytes": line.size,
        }
    for rank, report in sorted(reports.items()):
        for told in read_told(report.frames, roles):
            yield _object(rank, roles, *told)


def _object(by: int, roles: list[str], sent: bool, role: str, kind: str, step: int) -> dict[str, Any]:
    ends = (roles[by], role) if sent else (role, roles[by])
    return {
        "by": by,
        "step": {START: "start", END: "end"}.get(step, step),
        "type": kind,
        "from": ends[0],
        "to": ends[1],
    }
