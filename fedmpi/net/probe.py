"""Latency and bandwidth between all ranks: ``mpirun … python -m fedmpi.net.probe`` prints them as JSON.

In every round each rank has one partner, so that all links are measured in as many rounds as there are ranks. Links
that share a bottleneck share it here too, as they do in a run.
"""

import json
import os
import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from fedmpi.net.channel import Channel
from fedmpi.net.meaning import PART, anything
from fedmpi.net.message import Float64, Message, UInt8

PINGS = 20
PARCELS = 3
PARCEL_BYTES = 4 << 20


class Ping(Message, tag=1):
    """Between two partners."""

    payload: Annotated[UInt8, anything("only its size counts")]


class Row(Message, tag=2):
    """Any rank → rank 0: seconds one way, and bytes per second, to every rank; 0 to itself."""

    host: str
    latency: Annotated[Float64, PART]
    bandwidth: Annotated[Float64, PART]


def partners(rank: int, size: int) -> Iterator[int]:
    """Whom a rank meets in each round; the circle method, in which everybody meets everybody once."""
    places = size + size % 2
    for turn in range(places - 1):
        if rank == places - 1:
            partner = turn * (places // 2) % (places - 1)
        else:
            partner = (turn - rank) % (places - 1)
            if partner == rank:
                partner = places - 1
        if partner < size:
            yield partner


def measure(ch: Channel, partner: int) -> tuple[float, float]:
    """Seconds one way, and bytes per second, to a partner who answers."""
    small, large = Ping(np.empty(0, np.uint8)), Ping(np.zeros(PARCEL_BYTES, np.uint8))
    trips: list[float] = []
    parcels: list[float] = []
    for times, message, count in ((trips, small, PINGS), (parcels, large, PARCELS)):
        for _ in range(count):
            start = time.perf_counter()
            ch.send(partner, message)
            ch.recv(partner, Ping)
            times.append(time.perf_counter() - start)
    latency = min(trips) / 2
    return latency, PARCEL_BYTES / max(min(parcels) - latency, 1e-9)


def answer(ch: Channel, partner: int) -> None:
    """The other side of `measure`."""
    for _ in range(PINGS + PARCELS):
        ch.recv(partner, Ping)
        ch.send(partner, Ping(np.empty(0, np.uint8)))


def probe(ch: Channel) -> list[Row]:
    """Measure all links; the rows of all ranks, at rank 0."""
    row = Row(os.uname().nodename, np.zeros(ch.size), np.zeros(ch.size))
    latency, bandwidth = row.latency.copy(), row.bandwidth.copy()
    for partner in partners(ch.rank, ch.size):
        for first in sorted((ch.rank, partner)):
            if first == ch.rank:
                latency[partner], bandwidth[partner] = measure(ch, partner)
            else:
                answer(ch, partner)
    row = Row(row.host, latency, bandwidth)
    if ch.rank != 0:
        ch.send(0, row)
        return []
    shapes = {"latency": (ch.size,), "bandwidth": (ch.size,)}
    return [row, *(ch.recv(rank, Row, shapes=shapes) for rank in range(1, ch.size))]


def as_json(rows: list[Row]) -> str:
    """One object: hosts, and two matrices."""
    return json.dumps(
        {
            "hosts": [row.host for row in rows],
            "latency_seconds": [row.latency.tolist() for row in rows],
            "bytes_per_second": [row.bandwidth.tolist() for row in rows],
        }
    )


if __name__ == "__main__":
    from fedmpi.net.mpi import job

    with job(timeout_seconds=60.0) as channel:
        if rows := probe(channel):
            print(as_json(rows))
