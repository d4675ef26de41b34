"""S2, the auxiliary server: it adds up the masks of those who are present, and decides whom a sum may show."""

from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.masks import Words, mask_words
from fedmpi.errors import ProtocolError
from fedmpi.net import Channel, Message
from fedmpi.net.costs import report
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.secure_sum import (
    PRIMARY,
    AuxiliaryKey,
    Done,
    Heard,
    MaskSum,
    ParticipantKey,
    Present,
    Refused,
    Void,
    as_array,
    key_info,
    participants,
)

VOID_ROUNDS = 3
"""After so many rounds in a row that can't be opened S2 ends the training."""


class Ready(Message, tag=17):
    """S2 → S1, once: my keys are out, and with --precompute my masks are made."""


def auxiliary_server(
    ch: Channel,
    params: Params,
    salt: bytes,
    new_pair: Callable[[], KeyPair] = KeyPair,
    first_stage: int = 0,
    members: Collection[int] | None = None,
) -> None:
    """S2: add up the masks of those who are present. It sees no update, masked or not; idle without --method ppadmm.

    Parameters
    ----------
    ch : Channel
    params : Params
    salt : bytes
        Of the keys; see `Sender`.
    new_pair : callable
        Makes key pairs.
    first_stage : int
        Where a run that is resumed goes on.
    members : collection of int, optional
        The participants who were still there then. Default: all.
    """
    ch.tolerated = () if params.on_dropout == "stop" else participants(ch)
    if params.method == "ppadmm":
        with ch.phase("offline"):
            masks = SharedMasks(ch, params, salt, new_pair)
            ch.send(PRIMARY, Ready())
        answer(ch, params, masks, Guard(params, participants(ch), first_stage, members))
    else:
        ch.recv_any(PRIMARY, (Done,), patient=True)
    ch.send(PRIMARY, report(ch))


def answer(ch: Channel, params: Params, masks: "SharedMasks", guard: "Guard") -> None:
    """S2: open one sum after another, until there are no more rounds."""
    while isinstance(heard := ch.recv_any(PRIMARY, (Heard, Done), patient=True), Heard):
        guard.admit(heard)
        claimed = [rank for rank in participants(ch) if rank in heard.ranks]
        said = see(ch, heard, claimed, params.deadline)
        present = masks.keyed(heard.round, [*said])
        verdict = guard.decide(claimed, {rank: said[rank] for rank in present})
        if isinstance(verdict, Message):
            ch.send(PRIMARY, verdict)
            continue
        with ch.phase("compute"):
            words = masks.total(heard.round, heard.count, verdict)
            words.flags.writeable = False  # lets the channel send them without a copy
        ch.send(PRIMARY, MaskSum(heard.round, as_array(verdict), words))
        with ch.phase("compute"):  # while the participants work
            masks.announce(heard.round + 1)
            masks.prepare(heard.round + 1, heard.count, verdict)


def see(ch: Channel, heard: Heard, claimed: Collection[int], seconds: float) -> dict[int, Present]:
    """S2: what the participants said themselves that take part in a round.

    Parameters
    ----------
    claimed : collection of int
        Whose updates S1 holds: they are waited for. Others count if they have spoken by then.
    """
    others = [rank for rank in participants(ch) if rank not in claimed]
    present = dict[int, Present]()
    for ranks, patience in ((claimed, seconds), (others, 0.0)):
        present |= ch.gather_within(patience, ranks, Present, round=heard.round, stage=heard.stage, count=heard.count)
    return present


class Guard:
    """What S2 answers, and what it does not: one set a stage, decided on what it has seen itself.

    Parameters
    ----------
    params : Params
    everybody : collection of int
        The ranks of all participants.
    first_stage, members
        As for `auxiliary_server`.
    """

    def __init__(
        self,
        params: Params,
        everybody: Collection[int],
        first_stage: int = 0,
        members: Collection[int] | None = None,
    ):
        self.on_dropout = params.on_dropout
        self.fewest = params.fewest(len(everybody))
        self.members = set(everybody if members is None else members)
        self.allowed = set(everybody) if self.on_dropout == "rejoin" else set(self.members)
        self._round, self._stage = -1, first_stage - 1
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

    def decide(self, heard: Collection[int], present: Mapping[int, Present]) -> Message | set[int]:
        """The members of the round, or Void, or Refused.

        Parameters
        ----------
        heard : collection of int
            Whose updates S1 says it holds. It can void a round with it, not choose the members.
        present : mapping
            Who told S2 that they take part, and what S1 has told them.
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
        if lie := self.lie(members, present):
            return self._refused(lie)
        if self.on_dropout == "stop" and members < self.members:
            return self._refused(f"all participants must stay, got none of ranks {sorted(self.members - members)}")
        if self.on_dropout != "rejoin":
            self.allowed = members
        self.members, self._stage, self._voids = members, self._stage + 1, 0
        return members

    def lie(self, members: Collection[int], present: Mapping[int, Present]) -> str:
        """What S1 has told the members that it must not; empty if all is in order.

        With another ρ or z than the others have, one member's vector could be told from the sum. Who is told that its
        vector was not in the last sum sends the same again for the same z: with one member fewer, that one's is the
        difference.
        """
        if len({present[rank].order for rank in members}) > 1:
            return "S1 must give all participants the same order, got different ones"
        wrong = [rank for rank in sorted(members) if present[rank].counted != (rank in self.members)]
        return f"S1 must say truly who was in the last sum, got something else told to ranks {wrong}" if wrong else ""

    def _refused(self, reason: str) -> Refused:
        return Refused(self._round, reason)


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
            self._precompute()

    def _precompute(self) -> None:
        everybody = participants(self.ch)
        counts = self._agree(everybody, self.ch.leader_seconds)
        fewest = len(everybody) if self.params.on_dropout == "stop" else self.params.fewest(len(everybody))
        if len(counts) < fewest or len(set(counts)) > 1:
            raise ProtocolError(f"{fewest} participants must send keys, and one number of words, got {counts}")
        for round in self.params.precomputed_rounds:
            self.prepare(round, counts[0], frozenset(self._keys))

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
            info = key_info(self._epoch, rank)
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
