"""Degree reduction with double sharings and a king.

[Beerliová-Trubíniová and Hirt 2008; Damgård and Nielsen 2007; So et al. 2021, appendix D]
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated

import numpy as np

from fedmpi.core import FieldArray
from fedmpi.core.hyperinvertible import hyperinvertible
from fedmpi.errors import ProtocolError
from fedmpi.mpc.party import Party
from fedmpi.net import Message, UInt8, UInt32
from fedmpi.net.meaning import judged


class DoubleShare(Message, tag=22):
    """Dealer → party, offline: shares of the same random values at degree T and 2T, shapes (B,)."""

    low: Annotated[UInt32, judged("fedmpi.mpc.party:Party.checked")]
    high: Annotated[UInt32, judged("fedmpi.mpc.party:Party.checked")]


class Masked(Message, tag=23):
    """Party → king: its shares of x - ρ at degree 2T, of the king's block."""

    values: Annotated[UInt32, judged("fedmpi.mpc.party:Party.checked")]


class Opened(Message, tag=24):
    """King → party: x - ρ of the king's block."""

    values: Annotated[UInt32, judged("fedmpi.mpc.party:Party.checked")]


class OpenedDigests(Message, tag=25):
    """Party → party, where liars are to be caught: SHA-256 of each block that was opened, shape (kings, 32)."""

    digests: Annotated[UInt8, judged("fedmpi.mpc.bh08:compare_opened")]


class DoubleSharings:
    """Unused shares of random ρ at degree T and 2T. Each is handed out once: a second use would show a difference.

    Parameters
    ----------
    low, high : FieldArray, shape (count,)
    """

    def __init__(self, low: FieldArray, high: FieldArray):
        self._low, self._high, self._next = low, high, 0

    def take(self, count: int) -> tuple[FieldArray, FieldArray]:
        """The next `count` shares [ρ]_T, [ρ]_2T. Raises ValueError when too few are left."""
        start, self._next = self._next, self._next + count
        if self._next > len(self._low):
            raise ValueError(f"double sharings must suffice: {len(self._low)} were made, {self._next} are asked for")
        return self._low[start : self._next], self._high[start : self._next]


def double_sharings(party: Party, count: int) -> DoubleSharings:
    """Make `count` double sharings, without a trusted dealer (offline).

    Every party deals B = ⌈count / (n - T)⌉ random values at both degrees. A hyper-invertible matrix turns the n
    sharings, of which T dealers know their own, into n - T that nobody knows. A wrong dealing is not noticed.
    """
    ch, n = party.ch, len(party.ranks)
    good = n - party.threshold
    batch = -(-count // good)
    secrets = party.uniform((batch,))
    low = party.sharing.share(secrets, party.uniform)
    high = party.sharing_2t.share(secrets, party.uniform)
    for array in (low, high):
        array.flags.writeable = False  # lets the channel send them without a copy
    for j, rank in enumerate(party.ranks):
        if rank != ch.rank:
            ch.send(rank, DoubleShare(low[j], high[j]))
    received = ch.gather(party.others, DoubleShare, shapes={"low": (batch,), "high": (batch,)})
    lows, highs = [], []
    for rank in party.ranks:
        own = rank == ch.rank
        lows.append(low[party.index] if own else party.checked(received[rank].low, rank))
        highs.append(high[party.index] if own else party.checked(received[rank].high, rank))
    matrix = hyperinvertible(party.field, good, n)
    mixed_low, mixed_high = party.field.matmul(matrix, lows), party.field.matmul(matrix, highs)
    return DoubleSharings(mixed_low.reshape(-1)[:count], mixed_high.reshape(-1)[:count])


def reduce_bh08(party: Party, product: FieldArray, doubles: DoubleSharings) -> FieldArray:
    """Shares of degree T of what is shared with degree 2T, with the help of as many double sharings (online).

    The parties send x - ρ to a king, who opens it and tells everybody; adding [ρ]_T gives [x]_T. Each party is
    king of 1/n of the values, so that no one carries all the traffic.

    Parameters
    ----------
    product : FieldArray, shape (L,)
        This party's shares of degree 2T.
    doubles : DoubleSharings

    Returns
    -------
    FieldArray, shape (L,)

    Raises
    ------
    DecodingError
        If liars are to be caught, and somebody lied to this king who can't be named: see `Party`.
    ProtocolError
        If liars are to be caught, and a king opened different values to different parties.

    Notes
    -----
    A party sends at most 4L·(n-1)/n bytes to the kings, and as many as a king: below 8 bytes per value. Where liars
    are to be caught all n parties do, and each sends 32 bytes for each king to each other.
    """
    ch, degree, field = party.ch, 2 * party.threshold, party.field
    low, high = doubles.take(len(product))
    masked = field.subtract(product, high)
    masked.flags.writeable = False
    edges = [len(product) * k // len(party.ranks) for k in range(len(party.ranks) + 1)]
    blocks = {rank: slice(a, b) for rank, a, b in zip(party.ranks, edges, edges[1:], strict=False) if a < b}
    senders = party.openers(degree)
    if ch.rank in senders:
        for king, block in blocks.items():
            if king != ch.rank:
                ch.send(king, Masked(masked[block]))
    opened = np.empty_like(product)
    if ch.rank in blocks:
        block = blocks[ch.rank]
        answers = ch.gather(
            [s for s in senders if s != ch.rank], Masked, shapes={"values": (block.stop - block.start,)}
        )
        shares = {rank: party.checked(message.values, rank) for rank, message in answers.items()}
        if ch.rank in senders:
            shares[ch.rank] = masked[block]
        values = party.corrected(shares, degree, "share of x - ρ")
        values.flags.writeable = False
        opened[block] = values
        for rank in party.others:
            ch.send(rank, Opened(values))
    for king, block in blocks.items():
        if king != ch.rank:
            message = ch.recv(king, Opened, shapes={"values": (block.stop - block.start,)})
            opened[block] = party.checked(message.values, king)
    if party.byzantine and blocks:
        compare_opened(party, {king: opened[block] for king, block in blocks.items()})
    return field.add(low, opened)


def compare_opened(party: Party, opened: Mapping[int, FieldArray]) -> None:
    """Everybody tells everybody what it got from each king, as digests.

    Parameters
    ----------
    opened : mapping
        King → its block.

    Raises
    ------
    ProtocolError
        If others say that they got other values from a king. It names the king and them: it lied, or they do.
    """
    digests = np.array([np.frombuffer(sha256(block.tobytes()).digest(), np.uint8) for block in opened.values()])
    digests.flags.writeable = False
    for rank in party.others:
        party.ch.send(rank, OpenedDigests(digests))
    received = party.ch.gather(party.others, OpenedDigests, shapes={"digests": digests.shape})
    differing = []
    for k, king in enumerate(opened):
        if ranks := [rank for rank in party.others if (received[rank].digests[k] != digests[k]).any()]:
            differing.append(
                f"king (rank {king}) must open the same values to all parties, got others at ranks {ranks}"
            )
    if differing:
        raise ProtocolError("; ".join(differing))
