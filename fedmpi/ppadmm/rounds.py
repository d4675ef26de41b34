"""S1's end of every sum: who is asked, who is in it, and who is left out; under masks, or for comparison in the clear.

Everything is added up in stages, each in one round unless a round fails: stage 0 the moments, stage 1 the squares,
stage 2 + k iteration k.
"""

import hashlib
import math
import secrets
import struct
from collections.abc import Callable, Collection
from functools import partial
from typing import Annotated, Any

import numpy as np

from fedmpi.core.fixed_point import WIDE_BITS, decode, decode_wide, limit
from fedmpi.errors import FedmpiError, ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Float64, Message
from fedmpi.net.channel import no_judge
from fedmpi.net.meaning import LARGEST_FLOAT, PART, between, judged, sized
from fedmpi.net.orders import refuse_broken_rules
from fedmpi.ppadmm.admm import NORMS, Vector
from fedmpi.ppadmm.params import FIRST_ITERATION, SUMS, Params
from fedmpi.ppadmm.secure_sum import MaskedUpdate, open_sum, participants

NONCE_BYTES = 16
KEEP_SECONDS = 10.0
"""How long S1 waits at a premature end for the participants to write what they go on from."""


NO_NAN = between(-LARGEST_FLOAT, math.inf)
"""The scale of what is constant is infinite."""


class Order(Message, tag=3):
    """S1 → participant i, each round: what to send now, and what came of the last round.

    `counted`: whether i's vector was in the last sum. `asked`: whether i takes part in this round; else it may
    say that it is `Back`. `keep`: write a checkpoint after the dual step. `values` are, by stage: nothing; the means
    of features and target, shape (d + 1,); their scales, shape (d + 1,); then z, shape (d,). `rho` is that of the
    update; 0 before there is one. `nonce`: 16 random bytes, the same for all and for all rounds of a stage; without it
    S2 could try out what the digest is of.
    """

    round: int
    stage: int
    counted: bool
    asked: bool
    keep: bool
    rho: Annotated[float, PART]
    nonce: Annotated[bytes, sized(NONCE_BYTES)]
    values: Annotated[Float64, NO_NAN]

    @property
    def digest(self) -> bytes:
        """SHA-256 of what all who are added up must have been told alike: stage, ρ and values."""
        words = struct.pack("<qd", self.stage, self.rho)
        return hashlib.sha256(self.nonce + words + np.ascontiguousarray(self.values, "<f8").tobytes()).digest()


class ClearUpdate(Message, tag=5):
    """Participant i → S1, each round of --method admm: v_i as it is, shape (d + NORMS,). Not private."""

    round: int
    values: Annotated[Float64, judged("fedmpi.ppadmm.rounds:check_clear")]


class Back(Message, tag=14):
    """Participant i → S1: I was left out, and can take part again."""


class Finish(Message, tag=15):
    """S1 → participants: no more orders; the model comes behind."""


class Unkept(Message, tag=23):
    """Participant i → S1, before its update: the checkpoint of this stage could not be written; why."""

    stage: int
    reason: str


class Kept(Message, tag=21):
    """Participant i → S1: the checkpoint of this stage, for which there was no round, is written."""

    stage: int


def layout(stage: int, columns: int) -> tuple[int, int]:
    """How many numbers of a stage take one word, and how many behind them are wide."""
    if stage < FIRST_ITERATION:
        return 0, columns + 2 if stage == SUMS else columns + 1
    return columns, NORMS


def words_of(stage: int, columns: int) -> int:
    """Words of a masked update."""
    narrow, wide = layout(stage, columns)
    return narrow + len(WIDE_BITS) * wide


class Rounds:
    """S1's end of every sum.

    Parameters
    ----------
    ch : Channel
    params : Params
    columns : int
        d.
    members : collection of int
        The participants who take part.
    """

    def __init__(self, ch: Channel, params: Params, columns: int, members: Collection[int]):
        self.ch, self.params, self.columns = ch, params, columns
        self.members, self.away = set(members), set[int]()
        self.failures: list[dict[str, Any]] = []
        self.fewest = params.fewest(len(participants(ch)))
        self._round, self._nonce = -1, (-1, b"")
        if params.on_dropout != "stop":
            ch.tolerated = participants(ch)
        for rank in set(participants(ch)) - self.members:
            self._leave_one_out(rank)

    def add_up(
        self,
        stage: int,
        values: Vector,
        rho: float = 0.0,
        *,
        keep: bool = False,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> tuple[Vector, Vector]:
        """The sums of what the participants send in a stage: one number a feature, and the wide ones behind.

        Parameters
        ----------
        stage : int
        values : array
        rho : float
            For the `Order`, as values are.
        keep : bool
            Have all members write a checkpoint before they send anything.
        meanwhile : callable
            Called while the participants compute.
        """
        counted = set(self.members)
        while True:
            with self.ch.phase("communicate"):
                self._take_back()
                self._order(self.members | self.away, stage, counted, keep, rho, values)
            with self.ch.phase("evaluate"):
                meanwhile()
            opened = self._open_masked(stage) if self.params.method == "ppadmm" else self._open_clear(stage)
            if opened is not None:
                return opened
            meanwhile = lambda: None  # noqa: E731

    def keep(self, stage: int, values: Vector, rho: float, members: Collection[int]) -> bool:
        """Have the members write a checkpoint although no round comes; whether all of them did."""
        self.ch.on_pause, self.members = lambda: None, set[int]()  # nothing stops it, and nobody is asked any more
        try:
            self._order(members, stage, members, True, rho, values)
            kept = self.ch.gather_within(KEEP_SECONDS, members, Kept, stage=stage)
        except FedmpiError:
            return False
        return kept.keys() >= set(members)

    def unkept(self, stage: int) -> str:
        """Who could not write the checkpoint of a stage whose updates have come, and why; empty if all could."""
        said = self.ch.gather_within(0, self.members, Unkept, stage=stage)
        return "; ".join(f"participant (rank {rank}): {message.reason}" for rank, message in sorted(said.items()))

    def _order(
        self, ranks: Collection[int], stage: int, counted: Collection[int], keep: bool, rho: float, values: Vector
    ) -> None:
        self._round += 1
        if stage != self._nonce[0]:
            self._nonce = stage, secrets.token_bytes(NONCE_BYTES)
        values = values.copy()
        values.flags.writeable = False  # lets the channel send it without a copy
        for rank in sorted(set(ranks) - self.ch.departed.keys()):
            # One that is away and has not taken the last order gets no more of them.
            if rank not in self.away or not self.ch.transport.outstanding_bytes(rank):
                asked = rank in self.members
                self.ch.send(rank, Order(self._round, stage, rank in counted, asked, keep, rho, self._nonce[1], values))

    def _take_back(self) -> None:
        if self.away:
            back = self.ch.gather_within(0, self.away, Back)
            self.members |= back.keys()
            self.away -= back.keys()
            self.ch.silent -= back.keys()

    def _gather(
        self, cls: type[Any], name: str, count: int, judge: Callable[[int, Any], None] = no_judge
    ) -> dict[int, Any]:
        with self.ch.phase("wait"):
            updates: dict[int, Any] = self.ch.gather_within(
                self.params.deadline, self.members, cls, shapes={name: (count,)}, judge=judge, round=self._round
            )
        refuse_broken_rules(self.ch)
        return updates

    def _open_masked(self, stage: int) -> tuple[Vector, Vector] | None:
        narrow, _ = layout(stage, self.columns)
        updates: dict[int, MaskedUpdate] = self._gather(MaskedUpdate, "words", words_of(stage, self.columns))
        with self.ch.phase("wait"):
            opened = open_sum(self.ch, self.params, self._round, stage, updates)
        if opened is None:
            return None
        words, members = opened
        self._leave_out(members, stage)
        return decode(words[:narrow], self.params.fraction_bits), decode_wide(words[narrow:])

    def _open_clear(self, stage: int) -> tuple[Vector, Vector]:
        narrow, wide = layout(stage, self.columns)
        updates: dict[int, ClearUpdate] = self._gather(
            ClearUpdate, "values", narrow + wide, partial(check_clear, stage, narrow, self.params.fraction_bits)
        )
        check_present(self.params, self.fewest, self.members, updates)
        self._leave_out(set(updates), stage)
        total = np.zeros(narrow + wide)
        for rank in sorted(updates):
            total += updates[rank].values
        return total[:narrow], total[narrow:]

    def _leave_out(self, members: set[int], stage: int) -> None:
        """Go on with the members; the others are sent home, or may come back."""
        for rank in sorted(self.members - members):
            self.failures.append(absence(self.ch, rank, stage - FIRST_ITERATION))
            self._leave_one_out(rank)
        self.members = members
        self.ch.silent = set(participants(self.ch)) - members - self.ch.departed.keys()

    def _leave_one_out(self, rank: int) -> None:
        if self.params.on_dropout == "rejoin":
            self.away.add(rank)
        else:
            self.ch.send(rank, Finish())


def check_clear(stage: int, narrow: int, fraction_bits: int, rank: int, update: ClearUpdate) -> None:
    """Refuse what --method ppadmm could not have added up, and sums of rows and of squares that can be none.

    Raises
    ------
    ProtocolError
    """
    values, wide = update.values[:narrow], update.values[narrow:]
    parts = ((values, limit(fraction_bits, 1)), (wide, limit(WIDE_BITS[0], 1)))
    if not all(between(-most, most).holds(part) for part, most in parts):
        raise ProtocolError(f"values from rank {rank} must be finite and below {parts[0][1]:.3g}, got {update.values}")
    counted = wide[:1] if stage == SUMS else wide
    if not PART.holds(counted) or (stage == SUMS and not float(counted[0]).is_integer()):
        raise ProtocolError(f"rows and sums of squares from rank {rank} must not be negative, got {counted}")


def check_present(params: Params, fewest: int, members: Collection[int], present: Collection[int]) -> None:
    """Refuse to go on with too few, by the rules that S2 keeps where there are masks.

    Raises
    ------
    TooFewWorkers
    """
    lost = sorted(set(members) - set(present))
    if len(present) < fewest or (lost and params.on_dropout == "stop"):
        raise TooFewWorkers(f"at least {fewest} participants must answer, got {len(present)}; none of ranks {lost}")


def absence(ch: Channel, rank: int, iteration: int) -> dict[str, Any]:
    """Who is left out, when and why, for result.json."""
    failed = ch.departed.get(rank)
    return {"rank": rank, "iteration": iteration, "reason": failed.reason if failed else "missed the deadline"}
