"""What it costs ranks that share a machine to take their data, and to wait for a message and answer it.

``mpirun -n RANKS python -m fedmpi.bench.ranks.together`` is what `fedmpi.bench.together` starts.
"""

import json
import time
from typing import Annotated

import numpy as np

from fedmpi.codedml.dealing import CHUNK_BYTES, CodedData, bits_of, receive_data
from fedmpi.core import DEFAULT_PRIME, Residues
from fedmpi.core.packing import pack
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.meaning import PART, anything
from fedmpi.net.mpi import job

ROUNDS, PIECES = 30, 40
COLUMNS, PIECE_ROWS = 3000, 30
ROUND_SECONDS, IDLE_SECONDS = 0.01, 0.3
SWEPT_BYTES = 8 << 20
"""A worker reads so much between two messages, as it does to compute: what messages need is out of the caches then."""


class Parcel(Message, tag=1):
    """Rank 0 → everybody, and back."""

    values: Annotated[UInt32, anything("a measurement's own")]


class Spent(Message, tag=3):
    """Everybody → rank 0, at the end: processor seconds of an element of the data, of waking up for a message and of
    answering it, and of a second's wait.
    """

    element: Annotated[float, PART]
    wake: Annotated[float, PART]
    answer: Annotated[float, PART]
    waiting: Annotated[float, PART]


def lead(ch: Channel) -> dict[str, float]:
    """Rank 0: data in pieces, messages to and from everybody as in an iteration, and silence."""
    others, small = range(1, ch.size), _still(np.zeros(COLUMNS, np.uint32))
    field = Residues((DEFAULT_PRIME,)).fields[0]
    piece = CodedData(PIECE_ROWS, _still(pack(np.zeros(PIECE_ROWS * COLUMNS, np.uint32), bits_of(field))))
    for _ in range(PIECES):
        ch.flush(CHUNK_BYTES)
        for rank in others:
            ch.send(rank, piece)
    ch.gather(others, Parcel)
    spent = 0.0
    for _ in range(ROUNDS):
        time.sleep(ROUND_SECONDS)
        begun = time.thread_time()
        for rank in others:
            ch.send(rank, Parcel(small))
        ch.gather(others, Parcel)
        spent += time.thread_time() - begun
    ch.flush(0)
    time.sleep(IDLE_SECONDS)
    for rank in others:
        ch.send(rank, Parcel(small))
    told = ch.gather(others, Spent).values()
    names = ("element", "wake", "answer", "waiting")
    means = {name: sum(getattr(one, name) for one in told) / len(told) for name in names}
    return {"message": spent / (2 * ROUNDS * len(others)), **means}


def follow(ch: Channel) -> None:
    """All others."""
    small, swept = _still(np.zeros(COLUMNS, np.uint32)), np.ones(SWEPT_BYTES // 8, np.int64)
    begun = time.thread_time()
    receive_data(ch, Residues((DEFAULT_PRIME,)), PIECES * PIECE_ROWS, COLUMNS, Parcel)
    element = (time.thread_time() - begun) / (PIECES * PIECE_ROWS * COLUMNS)
    ch.send(0, Parcel(small))
    wake = answer = 0.0
    for _ in range(ROUNDS):
        begun = time.thread_time()
        ch.recv(0, Parcel)
        wake += time.thread_time() - begun
        swept.sum()
        begun = time.thread_time()
        ch.send(0, Parcel(small))
        answer += time.thread_time() - begun
    start, begun = time.perf_counter(), time.thread_time()
    ch.recv(0, Parcel)
    waiting = (time.thread_time() - begun) / (time.perf_counter() - start)
    ch.send(0, Spent(element, wake / ROUNDS, answer / ROUNDS, waiting))


def _still(words: UInt32) -> UInt32:
    words.flags.writeable = False  # sent without a copy
    return words


if __name__ == "__main__":
    with job() as channel:
        if channel.rank:
            follow(channel)
        else:
            print(json.dumps(lead(channel)))
