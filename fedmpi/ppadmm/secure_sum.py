"""The secure SUM: S1 learns the sum of the participants' vectors, S2 learns who took part.

A round::

    S1 → i    Order         what to add up (protocol.py)
    i  → S1   MaskedUpdate  enc(v_i) + PRF(key_i, round), in Z_{2^64}
    i  → S2   Present       after S1's side has taken the update over
    S1 → S2   Heard         whose updates are here
    S2 → S1   MaskSum       the members P that S2 has seen, and Σ_{i ∈ P} PRF(key_i, round); or Void, or Refused

Why S1 can't ask twice, and can't choose the members, is said in README.md.
"""

from collections.abc import Callable, Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.fixed_point import encode, encode_wide
from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.masks import MaskStream, Words, mask_words
from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Message, UInt32, UInt64
from fedmpi.ppadmm.params import Params

PRIMARY, AUXILIARY = 0, 1
"""The ranks of S1 and S2; all further ranks are participants."""

VOID_ROUNDS = 3
"""After so many rounds in a row that can't be opened S2 ends the training."""


class MaskedUpdate(Message, tag=4):
    """Participant i → S1, each round: enc(v_i) + mask, shape (words,), uniform to S1."""

    round: int
    words: UInt64


class Present(Message, tag=6):
    """Participant i → S2, each round: my update is with S1."""

    round: int
    stage: int
    count: int


class Heard(Message, tag=7):
    """S1 → S2, each round: the ranks whose updates I hold, shape (ranks,)."""

    round: int
    stage: int
    count: int
    ranks: UInt32


class MaskSum(Message, tag=8):
    """S2 → S1, at most once a stage: the members, shape (ranks,), and the sum of their masks, shape (words,)."""

    round: int
    members: UInt32
    words: UInt64


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
    public: bytes


class ParticipantKey(Message, tag=12):
    """Participant i → S2, once an epoch: an X25519 public key, 32 bytes, and the words of an update."""

    epoch: int
    public: bytes
    count: int


class Done(Message, tag=13):
    """S1 → S2: there are no more rounds."""


class Ready(Message, tag=17):
    """S2 → S1, once: my keys are out, and with --precompute my masks are made."""


def participants(ch: Channel) -> range:
    """Their ranks."""
    return range(2, ch.size)


def as_array(ranks: Iterable[int]) -> NDArray[np.uint32]:
    """Ranks, for a message."""
    return np.array(sorted(ranks), np.uint32)


def _key_info(epoch: int, rank: int) -> bytes:
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
            for round in params.precomputed_rounds:
                masks.prepare(round, count)

    def send(self, round: int, stage: int, values: NDArray[np.float64], wide: NDArray[np.float64]) -> None:
        """Send a vector; `wide` values are kept with range and precision of two words.

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
        ch.send(AUXILIARY, Present(round, stage, len(words)))
        if self.params.epoch(round + 1) == self._epoch:
            with ch.phase("encode"):  # while the others still work
                self._stream(round).prepare(round + 1, self.count)

    def _stream(self, round: int) -> MaskStream:
        """The masks of the epoch of this round; at its start both sides make a new key."""
        epoch = self.params.epoch(round)
        if self._masks is None or epoch != self._epoch:
            while (announced := self.ch.recv(AUXILIARY, AuxiliaryKey)).epoch != epoch:
                pass  # of an epoch that this participant has slept through
            pair = self._new_pair()
            self.ch.send(AUXILIARY, ParticipantKey(epoch, pair.public, self.count))
            key = pair.shared(announced.public, info=_key_info(epoch, self.ch.rank), salt=self._salt)
            self._epoch, self._masks = epoch, MaskStream(key, self.params.mask)
        return self._masks


class SharedMasks:
    """S2's end of the masks of all participants.

    Parameters
    ----------
    ch : Channel
    params : Params
    salt, new_pair
        As for `Sender`.
    """

    def __init__(self, ch: Channel, params: Params, salt: bytes, new_pair: Callable[[], KeyPair]):
        self.ch, self.params = ch, params
        self._salt, self._new_pair = salt, new_pair
        self._pairs: dict[int, KeyPair] = {}
        self._keys: dict[int, bytes] = {}
        self._epoch = 0
        self._ready: dict[tuple[int, int], tuple[frozenset[int], Words]] = {}
        self.announce(0)
        if params.precompute:
            everybody = frozenset(participants(ch))
            counts = self._agree(everybody, ch.timeout_seconds)
            for round in params.precomputed_rounds:
                self.prepare(round, max(counts), everybody)

    def announce(self, round: int) -> None:
        """Send the keys of this round's epoch and the next to all, so that no participant waits for one."""
        epoch = self.params.epoch(round)
        for coming in range(epoch, epoch + 2) if self.params.rekey_every else (epoch,):
            if coming not in self._pairs:
                self._pairs[coming] = self._new_pair()
                for rank in participants(self.ch):
                    self.ch.send(rank, AuxiliaryKey(coming, self._pairs[coming].public))
        for old in [old for old in self._pairs if old < epoch]:
            del self._pairs[old]

    def keyed(self, round: int, ranks: Collection[int]) -> list[int]:
        """Make the keys of a round's epoch with the ranks that are present; returns those whose keys are here."""
        epoch = self.params.epoch(round)
        if epoch != self._epoch:
            self._epoch, self._keys = epoch, {}
        self._agree(ranks, self.params.deadline)
        return [rank for rank in ranks if rank in self._keys]

    def _agree(self, ranks: Collection[int], seconds: float) -> list[int]:
        """Make the keys with these participants that are not there yet; returns the words of their updates."""
        missing = [rank for rank in ranks if rank not in self._keys]
        keys = self.ch.gather_within(seconds, missing, ParticipantKey, epoch=self._epoch)
        for rank, key in keys.items():
            info = _key_info(self._epoch, rank)
            self._keys[rank] = self._pairs[self._epoch].shared(key.public, info=info, salt=self._salt)
        return [key.count for key in keys.values()]

    def prepare(self, round: int, count: int, members: Collection[int]) -> None:
        """Make the sum of a coming round ahead of time, for the members that are expected."""
        if self.params.epoch(round) == self._epoch and (round, count) not in self._ready:
            self._ready[round, count] = frozenset(members), self._sum(round, count, members)

    def total(self, round: int, count: int, members: Collection[int]) -> Words:
        """Σ PRF(key_i, round) over members that are `keyed`, shape (count,)."""
        expected, words = self._ready.pop((round, count), (frozenset[int](), np.zeros(count, np.uint64)))
        for entry in [entry for entry in self._ready if entry[0] <= round]:
            del self._ready[entry]
        if expected >= set(members):
            words -= self._sum(round, count, expected - set(members))
            return words
        return self._sum(round, count, members)

    def _sum(self, round: int, count: int, ranks: Iterable[int]) -> Words:
        words = np.zeros(count, np.uint64)
        for rank in ranks:
            words += mask_words(self.params.mask, self._keys[rank], round, count)
        return words


class Guard:
    """What S2 answers, and what it does not: one set a stage, decided on what it has seen itself.

    Parameters
    ----------
    params : Params
    everybody : collection of int
        The ranks of all participants.
    """

    def __init__(self, params: Params, everybody: Collection[int]):
        self.on_dropout = params.on_dropout
        self.fewest = params.fewest(len(everybody))
        self.members = set(everybody)
        self.allowed = set(everybody)
        self._round = self._stage = -1
        self._voids = 0

    def admit(self, heard: Heard) -> None:
        """Refuse a question about a round that is over, or about values that have been opened.

        Raises
        ------
        ProtocolError
        """
        if heard.round != self._round + 1 or heard.stage != self._stage + 1:
            raise ProtocolError(
                f"S1 must ask for round {self._round + 1} and stage {self._stage + 1}, once, "
                f"got round {heard.round} and stage {heard.stage}"
            )
        self._round += 1

    def decide(self, heard: Collection[int], present: Collection[int]) -> Message | set[int]:
        """The members of the round, or Void, or Refused.

        Parameters
        ----------
        heard : collection of int
            Whose updates S1 says it holds. It can void a round with it, not choose the members.
        present : collection of int
            Who told S2 that they take part.
        """
        members = set(present) & self.allowed
        if len(members) < self.fewest:
            return self._refused(f"at least {self.fewest} participants must be present, got {len(members)}")
        if not members <= set(heard):
            self._voids += 1
            if self._voids >= VOID_ROUNDS:
                lost = sorted(members - set(heard))
                return self._refused(f"the updates of all who are present must reach S1, got none of ranks {lost}")
            return Void(self._round)
        if self.on_dropout == "stop" and members < self.members:
            return self._refused(f"all participants must stay, got none of ranks {sorted(self.members - members)}")
        if self.on_dropout != "rejoin":
            self.allowed = members
        self.members, self._stage, self._voids = members, self._stage + 1, 0
        return members

    def _refused(self, reason: str) -> Refused:
        return Refused(self._round, reason)


def auxiliary_server(ch: Channel, params: Params, salt: bytes, new_pair: Callable[[], KeyPair] = KeyPair) -> None:
    """S2: add up the masks of those who are present. It sees no update, masked or not.

    Parameters
    ----------
    ch : Channel
    params : Params
    salt : bytes
        Of the keys; see `Sender`.
    new_pair : callable
        Makes key pairs.
    """
    with ch.phase("offline"):
        masks = SharedMasks(ch, params, salt, new_pair)
        ch.send(PRIMARY, Ready())
    guard = Guard(params, participants(ch))
    if params.on_dropout != "stop":
        ch.tolerated = participants(ch)
    while isinstance(heard := ch.recv_any(PRIMARY, (Heard, Done), patient=True), Heard):
        guard.admit(heard)
        claimed = [rank for rank in participants(ch) if rank in heard.ranks]
        present = masks.keyed(heard.round, see(ch, heard, claimed, params.deadline))
        verdict = guard.decide(claimed, present)
        if isinstance(verdict, Message):
            ch.send(PRIMARY, verdict)
            continue
        with ch.phase("compute"):
            words = masks.total(heard.round, heard.count, verdict)
            words.flags.writeable = False
        ch.send(PRIMARY, MaskSum(heard.round, as_array(verdict), words))
        with ch.phase("compute"):  # while the participants work
            masks.announce(heard.round + 1)
            masks.prepare(heard.round + 1, heard.count, verdict)


def see(ch: Channel, heard: Heard, claimed: Collection[int], seconds: float) -> list[int]:
    """S2: the participants that said themselves that they take part in a round.

    Parameters
    ----------
    claimed : collection of int
        Whose updates S1 holds: they are waited for. Others count if they have spoken by then.
    """
    others = [rank for rank in participants(ch) if rank not in claimed]
    present = list[int]()
    for ranks, patience in ((claimed, seconds), (others, 0.0)):
        present += ch.gather_within(patience, ranks, Present, round=heard.round, stage=heard.stage, count=heard.count)
    return present


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
        total = np.zeros(count, np.uint64)
        for rank in members:
            total += updates[rank].words
        total -= answer.words
    return total, members
