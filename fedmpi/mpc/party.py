"""A member of a group that computes on shares; sharing and opening."""

from collections.abc import Callable, Sequence
from typing import Annotated

from fedmpi.core import FieldArray, PrimeField, Shamir
from fedmpi.errors import DecodingError, ProtocolError, UsageError
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.meaning import judged

TAGS = range(20, 30)
"""Message tags of this package, so that a system's own do not collide with them."""


class Share(Message, tag=20):
    """Dealer → party, or party → party when a value is opened: a share, in the shape of the value."""

    values: Annotated[UInt32, judged("fedmpi.mpc.party:Party.checked")]


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
    byzantine : int, optional
        e, the number of liars to be caught. If it is not 0, every opening takes all n shares instead of the first
        degree + 1. At degree d, T or 2T, wrong shares of up to e parties are corrected if n ≥ d + 1 + 2e; if only
        n ≥ d + 1 + e they are noticed, and end the work (or corrected, as many as can be so that e are noticed).

    Attributes
    ----------
    liars : dict
        Rank → what it did, for each member whose share this rank had to correct.

    Raises
    ------
    UsageError
        Unless 1 ≤ T < n/2: a product of two shares has degree 2T and needs 2T + 1 parties. Unless 0 ≤ e < n - T:
        more liars are not even noticed when a value of degree T is opened.

    Notes
    -----
    With e > 0 this holds for `open_`, and for `reduce_bh08` if kings don't lie; one that opens different values to
    different parties is noticed. Not covered, whatever e: a king that opens the same wrong value to everybody; a
    wrong double sharing (offline); a wrong subshare in `reduce_bgw`; a dealer of `share` that deals another value,
    or shares that lie on no polynomial of degree T. They give wrong values, or put the blame on those who got the
    wrong shares; it takes verifiable secret sharing to exclude them. And at degree 2T a group of n = 2T + 1 has no
    share to spare. Privacy is promised against semi-honest parties only.
    """

    def __init__(
        self,
        ch: Channel,
        field: PrimeField,
        ranks: Sequence[int],
        threshold: int,
        uniform: Callable[[tuple[int, ...]], FieldArray],
        byzantine: int = 0,
    ):
        if not 1 <= threshold < len(ranks) / 2:
            raise UsageError(f"the threshold must have 1 ≤ T < n/2, got T={threshold}, n={len(ranks)}")
        if not 0 <= byzantine < len(ranks) - threshold:
            raise UsageError(
                f"the number of liars e must have 0 ≤ e < n - T, got e={byzantine}, n={len(ranks)}, T={threshold}"
            )
        self.ch, self.field, self.ranks, self.threshold, self.uniform = ch, field, list(ranks), threshold, uniform
        self.byzantine = byzantine
        self.liars: dict[int, str] = {}
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

    def openers(self, degree: int) -> list[int]:
        """Ranks of those who send their shares when a value of this degree is opened."""
        return self.ranks if self.byzantine else self.first(degree + 1)

    def recombine(self, values: dict[int, FieldArray], degree: int) -> FieldArray:
        """The secret from rank → share of degree + 1 members."""
        return self.sharing.reconstruct({self.ranks.index(rank): v for rank, v in values.items()}, degree)

    def corrected(self, values: dict[int, FieldArray], degree: int, what: str) -> FieldArray:
        """The secret from rank → share of all `openers`, of which up to e may lie about it.

        Raises
        ------
        DecodingError
            If somebody lied, and it can't be told who.
        """
        if not self.byzantine:
            return self.recombine(values, degree)
        shares = {self.ranks.index(rank): v for rank, v in values.items()}
        try:
            secret, wrong = self.sharing.reconstruct_checked(shares, degree, self.byzantine, self.uniform)
        except DecodingError as error:
            raise DecodingError(f"{what} from ranks {self.ranks}: {error}") from None
        for i in sorted(wrong):
            self.liars.setdefault(self.ranks[i], f"sent a wrong {what}")
        return secret

    def checked(self, values: FieldArray, rank: int) -> FieldArray:
        """Received field elements, refused unless they are in [0, p): the kernels rely on it."""
        if not self.field.contains(values):
            raise ProtocolError(f"field elements from rank {rank} must be below {self.field.p}, got {values.max()}")
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
    """Everybody learns the secret behind everybody's shares; the degree is T by default.

    Raises
    ------
    DecodingError
        If up to e parties lie, and it can't be told who: see `Party`. With enough shares for that they are corrected.
    """
    degree = party.threshold if degree is None else degree
    senders = party.openers(degree)
    if party.ch.rank in senders:
        for rank in party.others:
            party.ch.send(rank, Share(values))
    shares = party.ch.gather([s for s in senders if s != party.ch.rank], Share, shapes={"values": values.shape})
    known = {rank: party.checked(message.values, rank) for rank, message in shares.items()}
    if party.ch.rank in senders:
        known[party.ch.rank] = values
    return party.corrected(known, degree, "share")
