"""Products per second of the degree reductions, every party an MPI rank.

``mpirun -n PARTIES python -m fedmpi.bench.ranks.mpc PROTOCOL PRODUCTS`` is what `fedmpi bench mpc` starts.
"""

import json
import sys
import time

import numpy as np

from fedmpi.core import PrimeField
from fedmpi.crypto.random import FieldRandom
from fedmpi.errors import ProtocolError
from fedmpi.mpc import Party, double_sharings, open_, reduce_bgw, reduce_bh08, share
from fedmpi.net import Channel, Message
from fedmpi.net.mpi import job

ROUNDS = 5


class Tick(Message, tag=1):
    """Everybody → rank 0 → everybody: here; begin."""


def together(ch: Channel) -> float:
    """Wait for all ranks, and return the time."""
    if ch.rank == 0:
        ch.gather(range(1, ch.size), Tick)
        for rank in range(1, ch.size):
            ch.send(rank, Tick())
    else:
        ch.send(0, Tick())
        ch.recv(0, Tick)
    return time.perf_counter()


def measure(ch: Channel, protocol: str, products: int) -> dict[str, float]:
    """Multiply two shared vectors several times; the fastest round counts. Every result is checked."""
    field = PrimeField()
    party = Party(ch, field, range(ch.size), (ch.size - 1) // 2, FieldRandom(field.p))
    secrets = FieldRandom(field.p)((2, products))  # those of rank 0 count
    a, b = (share(party, 0, (products,), secret) for secret in secrets)
    online, offline, sent = [], [], 0
    for _ in range(ROUNDS):
        start = together(ch)
        if protocol == "bh08":
            doubles = double_sharings(party, products)
            offline.append(together(ch) - start)
        before, start = ch.meter.bytes_sent.total(), together(ch)
        product = field.multiply(a, b)
        c = reduce_bgw(party, product) if protocol == "bgw" else reduce_bh08(party, product, doubles)
        sent = ch.meter.bytes_sent.total() - before
        online.append(together(ch) - start)
        opened = open_(party, c)
        if ch.rank == 0 and not np.array_equal(opened, field.multiply(secrets[0], secrets[1])):
            raise ProtocolError("the opened products must equal those of the secrets, got others")
    rates = {"products_per_second": products / min(online), "bytes_per_product": sent / products}
    return rates | ({"offline_products_per_second": products / min(offline)} if offline else {})


if __name__ == "__main__":
    with job() as channel:
        figures = measure(channel, sys.argv[1], int(sys.argv[2]))
        if channel.rank == 0:
            print(json.dumps(figures))
