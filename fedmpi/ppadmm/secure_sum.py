"""The secure SUM: S1 learns the sum of the participants' vectors, S2 learns who took part.

A round::

    S1 → i    Order         what to add up (rounds.py)
    i  → S1   MaskedUpdate  enc(v_i) + PRF(key_i, round), in Z_{2^64}
    i  → S2   Present       after S1's side has taken the update over
    S1 → S2   Heard         whose updates are here
    S2 → S1   MaskSum       the members P that S2 has seen, and Σ_{i ∈ P} PRF(key_i, round); or Void, or Refused

Here are the messages, the participant's end and S1's; S2's is in auxiliary.py. Why S1 can't ask twice, and can't
choose the members, is said in README.md.
"""

from collections.abc import Callable, Iterable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.fixed_point import encode, encode_wide
from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.masks import MaskStream, Words
from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Message, UInt32, UInt64
from fedmpi.net.meaning import DISTINCT, UNIFORM, sized
from fedmpi.ppadmm.params import Params
from fedmpi.securesum.public_keys import PUBLIC_KEYS

PRIMARY, AUXILIARY = 0, 1
"""The ranks of S1 and S2; all further ranks are participants."""


class MaskedUpdate(Message, tag=4):
    """Participant i → S1, each round: enc(v_i) + mask, shape (words,), uniform to S1."""

    round: int
    words: Annotated[UInt64, UNIFORM]


class Present(Message, tag=6):
    """Participant i → S2, each round: my update, of so many words, is with S1.

    `order`: the digest of what S1 has told me, 32 bytes. `counted`: whether S1 told me that I was in the last sum.
    """

    round: int
    stage: int
    count: int
    counted: bool
    order: Annotated[bytes, sized(32)]


class Heard(Message, tag=7):
    """S1 → S2, each round: the ranks whose updates I hold, shape (ranks,)."""

    round: int
    stage: int
    count: int
    ranks: Annotated[UInt32, DISTINCT]


class MaskSum(Message, tag=8):
    """S2 → S1, at most once a stage: the members, shape (ranks,), and the sum of their masks, shape (words,)."""

    round: int
    members: Annotated[UInt32, DISTINCT]
    words: Annotated[UInt64, UNIFORM]


class Void(Message, tag=9):
    """S2 → S1: somebody whose update you lack is present; nothing is opened, ask for all of it again."""

    round: int


class Refused(Message, tag=10):
    """S2 → S1: I will not open this, nor anything after it."""

    round: int
    reason: str


class AuxiliaryKey(Message, tag=11):
    """S2 → participant i, once an epoch, ahead of it: an X25519 public key, 32 bytes."""

    epoch: int
    public: Annotated[bytes, PUBLIC_KEYS]


class ParticipantKey(Message, tag=12):
    """Participant i → S2, once an epoch: an X25519 public key, 32 bytes, and the words of an update."""

    epoch: int
    public: Annotated[bytes, PUBLIC_KEYS]
    count: int


class Done(Message, tag=13):
    """S1 → S2: there are no more rounds."""


def participants(ch: Channel) -> range:
    """Their ranks."""
    return range(2, ch.size)


def as_array(ranks: Iterable[int]) -> NDArray[np.uint32]:
    """Ranks, for a message."""
    return np.array(sorted(ranks), np.uint32)


def key_info(epoch: int, rank: int) -> bytes:
    """What the key of a participant and S2 is for; another one for every participant and epoch."""
    return f"fedmpi ppadmm masks, epoch {epoch}, participant {rank}".encode()


class Sender:
    """A participant's end: encodes, masks, sends.

    Parameters
    ----------
    ch : Channel
    params : Params
    count : int
        Words of an update.
    salt : bytes
        What all ranks agreed on: with any other parameters S2 has other keys, and no mask cancels.
    new_pair : callable
        Makes key pairs.
    """

    def __init__(self, ch: Channel, params: Params, count: int, salt: bytes, new_pair: Callable[[], KeyPair]):
        self.ch, self.params, self.count = ch, params, count
        self._salt, self._new_pair = salt, new_pair
        self._epoch = -1
        self._masks: MaskStream | None = None
        if params.precompute:
            masks = self._stream(0)
            masks.prepare(params.precomputed_rounds, count)

    def send(
        self, round: int, stage: int, told: tuple[bool, bytes], values: NDArray[np.float64], wide: NDArray[np.float64]
    ) -> None:
        """Send a vector; `wide` values are kept with the range and precision of several words.

        Parameters
        ----------
        round, stage : int
        told : tuple of bool and bytes
            As `Present` has them, for S2 to compare.
        values, wide : array of float64

        Raises
        ------
        HeadroomError
            If the sum could overflow; nothing is sent then.
        """
        ch, N = self.ch, len(participants(self.ch))
        with ch.phase("encode"):
            fixed = encode(values, self.params.fraction_bits, N, "x + u")
            words = np.concatenate([fixed, encode_wide(wide, N, "a total")])
            words += self._stream(round).take(round, len(words))
            words.flags.writeable = False  # lets the channel send them without a copy
        ch.send(PRIMARY, MaskedUpdate(round, words))
        ch.flush()
        ch.send(AUXILIARY, Present(round, stage, len(words), *told))
        coming = self.params.coming_rounds(round + 1, self.count)
        if self.params.epoch(coming.start) == self._epoch:
            with ch.phase("encode"):  # while the others still work
                self._stream(round).prepare(coming, self.count)

    def _stream(self, round: int) -> MaskStream:
        """The masks of the epoch of this round; at its start both sides make a new key."""
        epoch = self.params.epoch(round)
        if self._masks is None or epoch != self._epoch:
            while (announced := self.ch.recv(AUXILIARY, AuxiliaryKey)).epoch != epoch:
                pass  # of an epoch that this participant has slept through
            pair = self._new_pair()
            self.ch.send(AUXILIARY, ParticipantKey(epoch, pair.public, self.count))
            key = pair.shared(announced.public, info=key_info(epoch, self.ch.rank), salt=self._salt)
            self._epoch, self._masks = epoch, MaskStream(key, self.params.mask)
        return self._masks


def open_sum(
    ch: Channel, params: Params, round: int, stage: int, updates: dict[int, MaskedUpdate]
) -> tuple[Words, set[int]] | None:
    """S1: Σ enc(v_i) over the members that S2 has seen, shape (words,), and these members; None for a void round.

    Raises
    ------
    TooFewWorkers
        If S2 refuses.
    ProtocolError
        If S2 answers something else than it was asked.
    """
    if not updates:
        raise TooFewWorkers(f"a round must have updates, got none within {params.deadline:g} s")
    count = len(next(iter(updates.values())).words)
    ch.send(AUXILIARY, Heard(round, stage, count, as_array(updates)))
    with ch.phase("decode"):  # while S2 works
        total = np.zeros(count, np.uint64)
        for update in updates.values():
            total += update.words
    with ch.patience(ch.timeout_seconds + params.deadline):
        answer = ch.recv_any(AUXILIARY, (MaskSum, Void, Refused), shapes={"members": (None,), "words": (count,)})
    if isinstance(answer, Refused):
        raise TooFewWorkers(f"S2 refuses round {round}: {answer.reason}")
    if isinstance(answer, Void):
        return None
    assert isinstance(answer, MaskSum)
    members = {int(rank) for rank in answer.members}
    if answer.round != round or not members or not members <= updates.keys():
        raise ProtocolError(f"MaskSum must be of round {round} and of {sorted(updates)}, got {sorted(members)}")
    with ch.phase("decode"):
        for rank in updates.keys() - members:
            total -= updates[rank].words
        total -= answer.words
    return total, members
