"""What an owner needs in all phases: shares out and in, numbers that are opened, random ones that nobody knows.

Letters as in `protocol`.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.copml.params import Params
from fedmpi.copml.quantized import column_sums, largest_eigenvalue, means_of
from fedmpi.copml.scale import Scale, residues
from fedmpi.copml.sharing import Once, Ring
from fedmpi.copml.truncation import contribution
from fedmpi.core import FieldArray
from fedmpi.core.residues import WIDE_PRIMES
from fedmpi.errors import ProtocolError
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.meaning import judged

LEADER = 0

SLICE_BYTES = 8 << 20
"""Of what an owner makes of its rows for all others at once: to write to memory that is new takes several times as long
as what is done in it, and the next slice uses this again."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """What owners send one another: elements modulo each prime, in a step of the protocol."""

    step: int
    values: Annotated[UInt32, judged("fedmpi.copml.member:Owner.checked")]


class RowShare(Message, Numbers, tag=4):
    """Owner p → owner, once for each slice of rows: [X̄_k] of p's in each block k, shape (q, K, rows, d)."""


class SumShare(Message, Numbers, tag=7):
    """Owner p → who holds [w̄], once: shares of its X̄_pᵀȲ_p and the largest eigenvalue of its X_pᵀX_p, (q, dC + 1)."""


class RandomShare(Message, Numbers, tag=8):
    """Owner → owner, offline: shares of random numbers of its own, shape (q, batch)."""


class MaskShare(Message, Numbers, tag=9):
    """Contributor → who holds [w̄], offline: shares of the low and high parts of its masks, shape (q, 2, count)."""


class OpenedShare(Message, Numbers, tag=10):
    """Who holds [w̄] → owner: its share of a number that all learn; of the sum of eigenvalues, and of w̄ at the end."""


class MeanShare(Message, Numbers, tag=18):
    """Owner p → who holds [w̄], once, with --center: shares of the sums of its columns, shape (q, d - 1)."""


class OpenedMeans(Message, Numbers, tag=19):
    """Who holds [w̄] → owner, once, with --center: a share of the sums of all rows, shape (q, d - 1)."""


def rows_at_once(owners: int, numbers: int) -> int:
    """In a slice, where each owner gets so many numbers of a row."""
    return max(1, SLICE_BYTES // (np.uint32().nbytes * len(WIDE_PRIMES) * owners * numbers))


@dataclass(frozen=True, eq=False)
class Start:
    """A model that all owners have learned, to go on from."""

    iteration: int
    w: NDArray[np.int64]
    """w̄, shape (d, C)."""


@dataclass(frozen=True)
class Task:
    """What is trained; all of it is public."""

    params: Params
    rows: Sequence[int]
    """Of each owner."""
    columns: int
    """d, the one of ones included."""
    outputs: int
    """C."""
    largest: float
    """At least the absolute value of every feature."""
    center: bool = False
    """Whether the means of all rows are subtracted."""
    start: Start | None = None
    every: int = 0
    """After so many iterations each w̄ is opened to all; 0: at the end alone."""

    @property
    def begun(self) -> int:
        """Iterations that an earlier run has done."""
        return self.start.iteration if self.start else 0

    @property
    def weights(self) -> NDArray[np.int64]:
        """w̄ to begin with, shape (d, C)."""
        return self.start.w if self.start else np.zeros((self.columns, self.outputs), np.int64)

    @property
    def left(self) -> int:
        """Iterations to do, each of which takes masks of its own."""
        return self.params.iterations - self.begun

    def opens(self, done: int) -> bool:
        """Whether w̄ is opened after so many iterations, of which the last is not."""
        return self.every > 0 and done % self.every == 0

    def scale(self) -> Scale:
        """The bits that all compute with."""
        threshold = self.params.sizes(len(self.rows)).get("T", 1)
        return Scale.choose(self.params, threshold, sum(self.rows), self.largest)


@dataclass(frozen=True, eq=False)
class Trained:
    """What an owner has at the end."""

    W: NDArray[np.float64]
    """Shape (d, C), of features that were not centred."""
    iterations: int
    scale: Scale
    step_bits: int
    """The step was 2^-step_bits."""
    seconds: float
    """From the first iteration to the last model."""
    total_seconds: float
    """From the first share of a row."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    """Of this owner's thread in the iterations."""
    total_cpu_seconds: float = 0.0
    """The same from the first share of a row."""


Watch = Callable[[int], bool]
"""The leader's: told the iterations that are done, it says whether to end with the next."""

Keep = Callable[[int, NDArray[np.int64]], None]
"""The leader's: told the iterations that are done, and the w̄ that was opened after them."""


class Owner:
    """One owner's part in what all phases need: shares out, shares in, numbers that are opened."""

    def __init__(self, ch: Channel, task: Task):
        self.ch, self.task = ch, task
        self.N, self.T = ch.size, task.params.sizes(ch.size)["T"]
        self.ring = Ring(residues(), self.N, self.T)
        self.scale = task.scale()
        self.others = [rank for rank in range(self.N) if rank != ch.rank]
        self.count = task.columns * task.outputs
        self.holders, self.helpers, self.helped = self.roles()
        self.liars: dict[int, str] = {}
        self._deals = 0

    def roles(self) -> tuple[Collection[int], Collection[int], Collection[int]]:
        """Who holds shares of w̄, who of them opens numbers to this owner, and to whom it opens them.

        It takes T + 1 to open a number, and N - R may be lost: so many hold, the first ones. Of them T + 1 are left
        with any R owners, and 2A more where A may lie, as N ≥ R + 2A. Products of shares take all; then an owner gets
        what is opened from the T before it in a circle.
        """
        own, N, T = self.ch.rank, self.N, self.T
        if self.task.params.method == "bgw":
            return range(N), [(own - k) % N for k in range(1, T + 1)], [(own + k) % N for k in range(1, T + 1)]
        holders = range(T + 1 + N - self.task.params.sizes(N)["R"])
        return holders, [rank for rank in holders if rank != own], self.others if own in holders else ()

    @property
    def holds(self) -> bool:
        """Whether this owner holds shares of w̄."""
        return self.ch.rank in self.holders

    @property
    def honest(self) -> list[int]:
        """The others who were not caught."""
        return [rank for rank in self.others if rank not in self.liars]

    @property
    def liars_left(self) -> int:
        """How many may still lie."""
        return max(0, self.task.params.byzantine - len(self.liars))

    def send(self, cls: type[Any], step: int, shares: FieldArray, to: Collection[int] | None = None) -> None:
        """Each other its own of N shares, shape (N, q, *s); all of them, or some."""
        for rank in self.others if to is None else to:
            if rank != self.ch.rank and rank not in self.ch.departed:
                self.ch.send(rank, cls(step, shares[rank]))

    def collect(
        self, cls: type[Any], step: int, shape: tuple[int, ...], sources: Collection[int], count: int | None = None
    ) -> dict[int, FieldArray]:
        """The shares of some owners, or of the first so many of them: owner → array (q, *shape)."""
        whole = (len(self.ring), *shape)
        wanted = len(sources) if count is None else count
        with self.ch.phase("wait"):
            found = self.ch.gather_first(wanted, sources, cls, shapes={"values": whole}, step=step)
        return {rank: self.checked(message.values, rank) for rank, message in found.items()}

    def checked(self, values: FieldArray, rank: int) -> FieldArray:
        """Refused unless each is below its prime: the kernels rely on it."""
        if not self.ring.residues.contains(values):
            limit = min(self.ring.residues.primes)
            raise ProtocolError(f"field elements from rank {rank} must be below {limit}, got {values.max()}")
        return values

    def open(
        self, cls: type[Any], step: int, share: FieldArray | None, shape: tuple[int, ...], *, to_all: bool = True
    ) -> FieldArray:
        """Everybody, or whoever holds shares, learns the number of this shape behind the shares of those who hold them.

        From the fastest T + 1, and 2 more for each liar.
        """
        if share is not None:
            share = np.ascontiguousarray(share)
            share.flags.writeable = False
            with self.ch.phase("communicate"):
                for rank in self.helped:
                    if rank not in self.ch.departed and (to_all or rank in self.holders):
                        self.ch.send(rank, cls(step, share))
        return self.opened(cls, step, share, shape)

    def opened(self, cls: type[Any], step: int, own: FieldArray | None, shape: tuple[int, ...]) -> FieldArray:
        """A number from this owner's share, if it holds one, and those that others sent."""
        mine = {} if own is None else {self.ch.rank: own}
        count = self.T + 1 - len(mine) + 2 * self.liars_left
        helpers = [rank for rank in self.helpers if rank not in self.liars]
        shares = mine | self.collect(cls, step, shape, helpers, count)
        with self.ch.phase("decode"):
            if not self.liars_left:
                return self.ring.open(shares)
            value, wrong = self.ring.open_checked(shares, self.liars_left)
            self.caught(wrong, step)
            return value

    def caught(self, ranks: Collection[int], step: int) -> None:
        """Count on somebody no more."""
        self.liars.update({rank: f"lied in iteration {step}" for rank in ranks if rank not in self.liars})

    def random(self, count: int, holders: Collection[int]) -> FieldArray:
        """[z] of so many uniform numbers that no T owners know, shape (q, count); nothing for who holds none."""
        step, self._deals = self._deals, self._deals + 1
        dealt = self.ring.deal(count)
        self.send(RandomShare, step, dealt, holders)
        if self.ch.rank not in holders:
            return np.zeros((len(self.ring), 0), np.uint32)
        found = {self.ch.rank: dealt[self.ch.rank]}
        found |= self.collect(RandomShare, step, (self.ring.batch(count),), self.others)
        return self.ring.extract([found[rank] for rank in range(self.N)], count)

    def swapped(
        self, cls: type[Any], rows: Sequence[int], lead: tuple[int, ...], made: Callable[[slice], FieldArray]
    ) -> Iterator[list[FieldArray]]:
        """What every owner makes of its rows for this one, slice by slice: of each who has such rows, in their order.

        Parameters
        ----------
        rows : sequence of int
            Of each owner.
        lead : tuple of int
            What each row stands in: K blocks, or nothing.
        made : callable
            Which of this owner's rows → what each owner gets, shape (N, q, *lead, rows, d).
        """
        own, some = self.ch.rank, rows_at_once(self.N, math.prod(lead) * self.task.columns)
        for step, start in enumerate(range(0, max(rows), some)):
            counts = [min(max(count - start, 0), some) for count in rows]
            found = {}
            if counts[own]:
                values = made(slice(start, start + counts[own]))
                self.send(cls, step, values)
                found[own] = values[own]
            for count in {*counts} - {0}:
                sources = [p for p in self.others if counts[p] == count]
                found |= self.collect(cls, step, (*lead, count, self.task.columns), sources)
            yield [found[p] for p in sorted(found)]

    def laid(self, parts: Iterable[FieldArray], rows: int) -> FieldArray:
        """Parts of so many rows together behind one another, shapes (q, some, d) → (q, rows, d)."""
        whole, end = np.empty((len(self.ring), rows, self.task.columns), np.uint32), 0
        for part in parts:
            start, end = end, end + part.shape[1]
            whole[:, start:end] = part
        return whole

    def total(self, cls: type[Any], own: NDArray[Any]) -> FieldArray | None:
        """[Σ_p own_p] of all owners' whole numbers, shape (n,) → (q, n), for those who hold shares."""
        shares = self.ring.share(self.ring.residues.from_signed(own))
        self.send(cls, 0, shares, self.holders)
        if not self.holds:
            return None
        total: FieldArray = shares[self.ch.rank]
        for share in self.collect(cls, 0, own.shape, self.others).values():
            total = self.ring.add(total, share)
        return total

    def means(self, real: NDArray[np.float64]) -> NDArray[np.float64]:
        """The means of the columns of all rows, which are opened: of each owner's part nobody learns but the sum."""
        own = column_sums(real)
        sums = self.open(OpenedMeans, 0, self.total(MeanShare, own), own.shape)
        return means_of(self.ring.residues.reals(sums, 0), sum(self.task.rows))

    def sums(self, X_bar: NDArray[Any], Y: NDArray[Any]) -> tuple[FieldArray | None, int]:
        """[X̄ᵀȲ] of all rows, shape (q, dC), and e of the step 2^-e, from the opened sum of eigenvalues."""
        correlation = X_bar.T.astype(np.float64) @ Y  # of whole numbers, exact below 2^53
        total = self.total(SumShare, np.append(correlation.reshape(-1), self.eigenvalue(X_bar)))
        last, rest = (None, None) if total is None else (total[:, -1:], total[:, :-1])
        largest = self.ring.residues.reals(self.open(OpenedShare, 0, last, (1,)), 0)
        return rest, self.scale.step_bits(float(largest[0]))

    def eigenvalue(self, X_bar: NDArray[Any]) -> int:
        """λ_max of this owner's X_pᵀX_p, in whole numbers: the sum over all owners is at least that of all rows."""
        return int(np.ceil(largest_eigenvalue(X_bar) * 4.0**-self.scale.data_bits))

    def truncation_masks(self, bits: int) -> tuple[Once, Once] | None:
        """[Σ l_j] and [Σ h_j] for all iterations, from contributions of the last T + 1 owners."""
        count, contributors = self.task.left * self.count, range(self.N - self.T - 1, self.N)
        total: FieldArray | None = None
        if self.ch.rank in contributors:
            shares = contribution(self.ring, count, bits, self.scale.mask_bits)
            self.send(MaskShare, 0, shares, self.holders)
            total = shares[self.ch.rank]
        if not self.holds:
            return None
        senders = [rank for rank in contributors if rank != self.ch.rank]
        for share in self.collect(MaskShare, 0, (2, count), senders).values():
            total = share if total is None else self.ring.add(total, share)
        assert total is not None
        return Once(total[:, 0]), Once(total[:, 1])

    def failures(self) -> list[dict[str, Any]]:
        """Who was lost or caught, as this owner saw it."""
        gone = {rank: failed.reason for rank, failed in self.ch.departed.items()} | self.liars
        return [{"rank": rank, "reason": reason} for rank, reason in sorted(gone.items())]
