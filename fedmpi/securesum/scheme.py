"""What every secure sum is to the protocol that carries it: a member's four steps, and the server's last one."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.crypto.envelope import seal, unseal
from fedmpi.crypto.keys import KEY_BYTES, KeyPair
from fedmpi.errors import ProtocolError

Words = NDArray[Any]
"""Unsigned integers in which sums wrap: what a vector is encoded in, and what hides it."""


class Member(ABC):
    """One member in one round. Make a new one for every round: a mask is used once.

    Parameters
    ----------
    number : int
        0 ≤ number < members.
    round : int
    threshold : int
        U.
    dealt : array
        What each member is to hold of this one's secrets, by number.
    """

    label: bytes
    """Of what is sealed, so that it is good for nothing else."""

    def __init__(self, number: int, round: int, threshold: int, dealt: NDArray[np.uint32]):
        self.number, self._round, self._threshold = number, round, threshold
        self._dealt: NDArray[np.uint32] | None = dealt
        self._sealing = KeyPair()
        self._publics: dict[int, bytes] = {}
        self._held: dict[int, NDArray[np.uint32]] = {number: dealt[number].copy()}
        self._masked = self._told = False

    @property
    def held(self) -> Mapping[int, NDArray[np.uint32]]:
        """Member → what this one holds of its secrets."""
        return self._held

    @property
    def public(self) -> bytes:
        """What everybody may know; it begins with the key that envelopes for this member are sealed with."""
        return self._sealing.public

    @abstractmethod
    def read(self, contents: bytes) -> NDArray[np.uint32]:
        """What an envelope holds; raises ProtocolError where no honest member can have sealed that."""

    @abstractmethod
    def mask(self, words: Words) -> Words:
        """The words of this member, hidden. Begins with `_mask_once`."""

    @abstractmethod
    def tell(self, survivors: frozenset[int]) -> NDArray[np.uint32]:
        """What this member tells the server, so that the survivors' sum can be unmasked. Begins with `_tell_once`."""

    def envelopes(self, publics: Mapping[int, bytes]) -> dict[int, bytes]:
        """What is sealed for each of the others that have shown their keys; it is then forgotten here.

        Raises
        ------
        ValueError
            The second time.
        """
        dealt, self._dealt = self._dealt, None
        if dealt is None:
            raise ValueError("a member must deal its secrets once, got a second list of keys")
        self._publics = dict(publics)
        return {
            v: seal(self._sealing, public[:KEY_BYTES], self._place(self.number, v), dealt[v].tobytes())
            for v, public in publics.items()
            if v != self.number
        }

    def accept(self, sender: int, envelope: bytes) -> None:
        """Open what another member sealed for this one.

        Raises
        ------
        ProtocolError
            If it was sealed by somebody else, or for something else.
        """
        if sender not in self._publics or sender == self.number:
            raise ProtocolError(f"an envelope must come from another member, got member {sender}")
        key, place = self._publics[sender][:KEY_BYTES], self._place(sender, self.number)
        self._held[sender] = self.read(unseal(self._sealing, key, place, envelope))

    def _mask_once(self) -> None:
        """Raise ValueError the second time, and ProtocolError if too few members have shared."""
        if self._masked:
            raise ValueError("a member must mask one vector, got a second: a mask is used once")
        self._masked = True
        if len(self._held) < self._threshold:
            raise ProtocolError(f"at least {self._threshold} members must share, got {len(self._held)}")

    def _tell_once(self, survivors: frozenset[int]) -> None:
        """Raise ProtocolError the second time, or for too few survivors, or for members that shared nothing."""
        if self._told:
            raise ProtocolError(f"members must be asked once in round {self._round}, got a second list of survivors")
        if len(survivors) < self._threshold or not survivors <= self._held.keys() or self.number not in survivors:
            raise ProtocolError(
                f"survivors must be at least {self._threshold} of {sorted(self._held)}, got {sorted(survivors)}"
            )
        self._told = True

    def _place(self, sender: int, receiver: int) -> bytes:
        return self.label + struct.pack(">QII", self._round, sender, receiver)


class Scheme(ABC):
    """One construction, for vectors of one length.

    Attributes
    ----------
    name : str
        As people choose it.
    threshold : int
        U: so many members must be left at the end.
    colluding : int
        T: so many members may tell an honest-but-curious server all they know, and it still learns the sum only.
    public_bytes, envelope_bytes : int
        What a member shows, and what it seals for each other member.
    words : int
        Of a hidden vector.
    dtype : numpy dtype
        Of the words.
    """

    name: str
    threshold: int
    colluding: int
    public_bytes: int
    envelope_bytes: int
    words: int
    dtype: np.dtype[Any]

    @abstractmethod
    def member(self, number: int, round: int) -> Member:
        """A fresh member."""

    @abstractmethod
    def told(self, sharers: int) -> int:
        """How many words a member tells where so many have shared."""

    @abstractmethod
    def check_hidden(self, row: Words) -> None:
        """Raise ProtocolError if words can be no hidden vector."""

    @abstractmethod
    def check_told(self, row: NDArray[np.uint32]) -> None:
        """Raise ProtocolError if no honest member can have told such words."""

    @abstractmethod
    def add(self, total: Words, row: Words) -> Words:
        """The sum of hidden vectors."""

    @abstractmethod
    def unmask(
        self,
        total: Words,
        round: int,
        publics: Mapping[int, bytes],
        survivors: frozenset[int],
        told: Mapping[int, NDArray[np.uint32]],
    ) -> Words:
        """The sum of the survivors' words from the sum of what they sent.

        Parameters
        ----------
        total : array
            Σ of the hidden words of the survivors.
        round : int
        publics : mapping
            All members that have shared, the lost included → what they have shown.
        survivors : set of int
        told : mapping
            Member → what it told.

        Raises
        ------
        ProtocolError
            If too few tell, or what they tell does not fit.
        """

    @abstractmethod
    def encode(self, values: NDArray[np.float64], bits: int, summands: int) -> Words:
        """⌊v·2^bits⌉ of each value, as words of which a sum of so many vectors is exact.

        Raises
        ------
        HeadroomError
            Naming a value that is too large, or not finite.
        """

    @abstractmethod
    def decode(self, words: Words, bits: int) -> NDArray[np.float64]:
        """The reals of a sum of encoded vectors."""
