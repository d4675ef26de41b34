"""Sums that are opened only if all members are there: masks of pairs cancel [Bonawitz et al. 2017, section 4.0.1].

Of numbers in Z_{2^512}, once. Where a member is lost nothing is opened, and nothing of the others is known.
"""

import struct
from collections.abc import Mapping

import numpy as np

from fedmpi.core.exact import WORDS, Words, add
from fedmpi.crypto.keys import KEY_BYTES, KeyPair
from fedmpi.crypto.masks import mask_words
from fedmpi.errors import ProtocolError

__all__ = ["KEY_BYTES", "Member"]


class Member:
    """One member of one sum.

    Parameters
    ----------
    number : int
        0 ≤ number < members.
    """

    def __init__(self, number: int):
        self.number = number
        self._pair: KeyPair | None = KeyPair()
        self.public = self._pair.public
        """What everybody may know, `KEY_BYTES`."""

    def mask(self, words: Words, publics: Mapping[int, bytes], label: bytes) -> Words:
        """The words, shape (n, 8), hidden from everybody who has no key of a pair of them.

        Parameters
        ----------
        publics : mapping
            Member → public key, of all members.
        label : bytes
            What all members agree on; with another one masks do not cancel.

        Raises
        ------
        ProtocolError
            If the own key is not among them.
        ValueError
            The second time: a mask is used once.
        """
        pair, self._pair = self._pair, None
        if pair is None:
            raise ValueError("a member must mask one vector, got a second: a mask is used once")
        if publics.get(self.number) != self.public:
            raise ProtocolError(f"the keys of all members must hold that of member {self.number}, got another")
        for v, public in publics.items():
            if v != self.number:
                mask = pair_mask(pair, self.number, v, public, label, words)
                words = add(words, mask, 1 if self.number < v else -1)
        return words


def pair_mask(pair: KeyPair, u: int, v: int, public: bytes, label: bytes, like: Words) -> Words:
    """Uniform words, the same for both ends of a pair."""
    info = b"fedmpi pair mask" + struct.pack(">II", min(u, v), max(u, v))
    drawn: Words = mask_words("aes-ctr", pair.shared(public, info=info, salt=label), 0, like.size)
    return drawn.astype(np.uint64, copy=False).reshape(-1, WORDS)
