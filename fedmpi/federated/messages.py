"""How a training of clients begins and ends: the server tells their hosts what is trained, and hears what it cost.

A host is a rank on which clients live: client k lives on the (k mod hosts)-th host.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.net import Channel, Message
from fedmpi.net.costs import Report, gather_reports, report
from fedmpi.net.message import UInt8, UInt32, UInt64, bytes_of
from fedmpi.net.orders import dismiss

SERVER = 0


class Setup(Message, tag=120):
    """Server → host, once: parameters and data set as JSON, public; the digest of the data set if all have one."""

    job: UInt8
    timeout_seconds: float
    digest: bytes


class Ready(Message, tag=121):
    """Host → server, once: the numbers of rows of its clients."""

    clients: UInt32
    rows: UInt64


def setup(ch: Channel, job: str, clients: int, first_host: int = 1, digest: bytes = b"") -> NDArray[np.int64]:
    """Server: tell the hosts what is to be done, and hear who holds how many rows, shape (K,).

    Raises
    ------
    ProtocolError
        If a host does not hold just its own clients.
    """
    hosts = range(first_host, ch.size)
    for rank in hosts:
        ch.send(rank, Setup(bytes_of(job), ch.timeout_seconds, digest))
    rows = np.zeros(clients, np.int64)
    for rank, ready in ch.gather(hosts, Ready).items():
        expected = np.arange(rank - first_host, clients, len(hosts))
        if not np.array_equal(ready.clients, expected) or ready.rows.shape != expected.shape or not ready.rows.all():
            raise ProtocolError(f"Ready from rank {rank} must name its clients, each with rows, got {ready.clients}")
        rows[expected] = ready.rows
    ch.tolerated = hosts
    return rows


def be_ready(ch: Channel, rows: Mapping[int, int], first_host: int = 1) -> None:
    """Host: name its clients, and how many rows each has."""
    ch.send(SERVER, Ready(np.array([*rows], np.uint32), np.array([*rows.values()], np.uint64)))
    ch.tolerated = range(first_host, ch.size)


def stop(ch: Channel) -> dict[int, Report]:
    """Server: end the training, and return what the others report."""
    with ch.phase("close"):
        dismiss(ch)
        return gather_reports(ch)


def leave(ch: Channel) -> None:
    """Any other: report at the end."""
    ch.send(SERVER, report(ch))
