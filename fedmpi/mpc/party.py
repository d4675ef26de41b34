"""A member of a group that computes on shares; sharing and opening."""

from collections.abc import Callable, Sequence

from fedmpi.core import FieldArray, PrimeField, Shamir
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.net import Channel, Message, UInt32

TAGS = range(20, 30)
"""Message tags of this package, so that a system's own do not collide with them."""


class Share(Message, tag=20):
    """Dealer → party, or party → party when a value is opened: a share, in the shape of the value."""

    values: UInt32


class Party:
    """What one member of a group knows.

    Parameters
    ----------
    ch : Channel
    field : PrimeField
    ranks : sequence of int
        The members, in the order of their points 1 … n; this rank is one of them.
    threshold : int
        T.
    uniform : callable
        shape → fresh secret uniform elements of F_p.

    Raises
    ------
    UsageError
        Unless 1 ≤ T < n/2: a product of two shares has degree 2T and needs 2T + 1 parties.
    """

    def __init__(
        self,
        ch: Channel,
        field: PrimeField,
        ranks: Sequence[int],
        threshold: int,
        uniform: Callable[[tuple[int, ...]], FieldArray],
    ):
        if not 1 <= threshold < len(ranks) / 2:
            raise UsageError(f"the threshold must have 1 ≤ T < n/2, got T={threshold}, n={len(ranks)}")
        self.ch, self.field, self.ranks, self.threshold, self.uniform = ch, field, list(ranks), threshold, uniform
        self.index = self.ranks.index(ch.rank)
        self.sharing = Shamir(field, len(ranks), threshold)
        self.sharing_2t = Shamir(field, len(ranks), 2 * threshold)

    @property
    def others(self) -> list[int]:
        """Ranks of the other members."""
        return [rank for rank in self.ranks if rank != self.ch.rank]

    def first(self, count: int) -> list[int]:
        """Ranks of the first `count` members."""
        return self.ranks[:count]

    def recombine(self, values: dict[int, FieldArray], degree: int) -> FieldArray:
        """The secret from rank → share of degree + 1 members."""
        return self.sharing.reconstruct({self.ranks.index(rank): v for rank, v in values.items()}, degree)

    def checked(self, values: FieldArray, rank: int) -> FieldArray:
        """Received field elements, refused unless they are in [0, p): the kernels rely on it."""
        if not self.field.contains(values):
            raise ProtocolError(f"shares from rank {rank} must be below {self.field.p}, got {values.max()}")
        return values


def share(party: Party, dealer: int, shape: tuple[int, ...], secret: FieldArray | None = None) -> FieldArray:
    """A member of the group shares an array; every member gets its share of degree T.

    Parameters
    ----------
    dealer : int
        Rank of the dealer, which gives the `secret`.
    shape : tuple of int
        Shape of the secret, known to all.
    """
    if party.ch.rank != dealer:
        return party.checked(party.ch.recv(dealer, Share, shapes={"values": shape}).values, dealer)
    assert secret is not None
    shares = party.sharing.share(secret, party.uniform)
    for rank, values in zip(party.ranks, shares, strict=True):
        if rank != dealer:
            party.ch.send(rank, Share(values))
    own: FieldArray = shares[party.index]
    return own


def open_(party: Party, values: FieldArray, degree: int | None = None) -> FieldArray:
    """Everybody learns the secret behind everybody's shares; the degree is T by default."""
    degree = party.threshold if degree is None else degree
    senders = party.first(degree + 1)
    if party.ch.rank in senders:
        for rank in party.others:
            party.ch.send(rank, Share(values))
    shares = party.ch.gather([s for s in senders if s != party.ch.rank], Share, shapes={"values": values.shape})
    known = {rank: party.checked(message.values, rank) for rank, message in shares.items()}
    if party.ch.rank in senders:
        known[party.ch.rank] = values
    return party.recombine(known, degree)
