"""Degree reduction by resharing [Ben-Or, Goldwasser and Wigderson 1988; So et al. 2021, appendix D]."""

from typing import Annotated

from fedmpi.core import FieldArray
from fedmpi.mpc.party import Party
from fedmpi.net import Message, UInt32
from fedmpi.net.meaning import judged


class SubShare(Message, tag=21):
    """Party i → party j: j's share of i's share, shape (L,)."""

    values: Annotated[UInt32, judged("fedmpi.mpc.party:Party.checked")]


def reduce_bgw(party: Party, product: FieldArray) -> FieldArray:
    """Shares of degree T of what is shared with degree 2T.

    Each of the first 2T + 1 parties shares its share; everybody recombines what it received: the secret is a
    linear combination of 2T + 1 shares, so its shares are the same combination of the shares' shares.

    Parameters
    ----------
    product : FieldArray, shape (L,)
        This party's shares of degree 2T.

    Returns
    -------
    FieldArray, shape (L,)

    Notes
    -----
    n - 1 messages of 4L bytes from each of 2T + 1 parties: O(n²). Wrong subshares are not noticed, whatever
    `Party.byzantine`: the shares' shares have nothing in common that could be checked.
    """
    ch, degree = party.ch, 2 * party.threshold
    dealers = party.first(degree + 1)
    received: dict[int, FieldArray] = {}
    if ch.rank in dealers:
        shares = party.sharing.share(product, party.uniform)
        shares.flags.writeable = False  # lets the channel send them without a copy
        for rank, values in zip(party.ranks, shares, strict=True):
            if rank == ch.rank:
                received[rank] = values
            else:
                ch.send(rank, SubShare(values))
    others = [rank for rank in dealers if rank != ch.rank]
    for rank, message in ch.gather(others, SubShare, shapes={"values": product.shape}).items():
        received[rank] = party.checked(message.values, rank)
    return party.recombine(received, degree)
