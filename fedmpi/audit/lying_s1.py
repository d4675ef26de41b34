"""PPADMM: an S1 that lies to participants, and what it learns without a lie of a participant that leaves."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.finding import Finding
from fedmpi.audit.recording import Seen, read_view
from fedmpi.audit.servers import finding
from fedmpi.core.fixed_point import decode
from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.masks import mask_words
from fedmpi.errors import FedmpiError
from fedmpi.net import Channel, run_local
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.params import FIRST_ITERATION, Params
from fedmpi.ppadmm.protocol import Own, participant, primary_server
from fedmpi.ppadmm.rounds import Order
from fedmpi.ppadmm.secure_sum import PRIMARY, key_info
from fedmpi.ppadmm.service import salt_of

PARTICIPANTS, ROWS, COLUMNS = 4, 24, 8

VICTIMS = range(2, 2 + PARTICIPANTS)
"""Their ranks: each is the victim in its turn."""

BEGUN = 4
"""The iteration in which S1 lies."""

LEFT = 20
"""The iteration that is the last of a participant that leaves."""

LIE = "an S1 that lies learns no participant's update: S2 opens only what all have been told alike"
DEPARTURE = "not promised: S1 has the update of one that leaves nearly, by subtraction, unless --on-dropout stop"
STOPPED = "with --on-dropout stop nothing is opened once a participant has left"

READ, NEARLY = 1e-3, 0.05
"""Relative errors that count as having read an update; and nearly, as the documents say."""

DEADLINE_SECONDS, TIMEOUT_SECONDS = 2.0, 60.0

Vector = NDArray[np.float64]


class _Gone(FedmpiError):
    """What a participant leaves for."""


@dataclass(eq=False)
class Training:
    """One training on threads, of which an honest S2 decides what is opened."""

    params: Params
    parts: list[tuple[Vector, Vector]]
    victim: int
    """Rank."""
    lie: Callable[[int, Order], Order | None] = lambda dest, order: order
    """(rank, order) → what S1 tells in its place; None: nothing."""
    leaves: int | None = None
    """The iteration for which the victim is no longer there."""
    pairs: list[KeyPair] = field(default_factory=list)

    def play(self, folder: Path) -> None:
        """Until its end, or until S2 ends it."""
        salt = salt_of(self.params)

        def primary(ch: Channel) -> None:
            send = ch.send

            def told(dest: int, message: Any) -> None:
                order = self.lie(dest, message) if isinstance(message, Order) else message
                if order is not None:
                    send(dest, order)

            ch.send = told  # type: ignore[method-assign]
            with _views_of(ch, folder):
                primary_server(ch, self.params)

        def member(ch: Channel) -> None:
            own = Own(*self.parts[ch.rank - 2], salt)
            if ch.rank == self.victim:
                own = replace(own, new_pair=self._new_pair)
                self._leave_in_time(ch)
            with _views_of(ch, folder):
                try:
                    participant(ch, self.params, own)
                except _Gone as error:
                    ch.fail(error)

        def auxiliary(ch: Channel) -> None:
            auxiliary_server(ch, self.params, salt)

        with contextlib.suppress(FedmpiError):
            roles = [primary, auxiliary, *[member] * len(self.parts)]
            run_local(roles, timeout_seconds=TIMEOUT_SECONDS, record_views=True)

    def _new_pair(self) -> KeyPair:
        self.pairs.append(KeyPair())
        return self.pairs[-1]

    def _leave_in_time(self, ch: Channel) -> None:
        receive = ch.recv_latest

        def recv_latest(*arguments: Any, **options: Any) -> Any:
            order = receive(*arguments, **options)
            if isinstance(order, Order) and self.leaves is not None and order.stage == FIRST_ITERATION + self.leaves:
                raise _Gone("has left")
            return order

        ch.recv_latest = recv_latest  # type: ignore[method-assign]


@contextlib.contextmanager
def _views_of(ch: Channel, folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        ch.save_views(folder)


def findings(seed: int) -> Iterator[Finding]:
    """Each participant is the victim of each lie in its turn, and leaves in its turn."""
    for name in LIES:
        yield lied_to(seed, name)
    yield departures(seed, "continue")
    yield departures(seed, "stop")


def lied_to(seed: int, name: str, victims: Sequence[int] = VICTIMS) -> Finding:
    """How near S1 comes to each participant's update by one of the `LIES`."""
    lie = LIES[name]
    params = Params(iterations=BEGUN + 3, tolerance=0, deadline=DEADLINE_SECONDS)
    errors = []
    for victim in victims:
        told, asked = dict[int, Order](), FIRST_ITERATION + BEGUN
        training = Training(params, problem(seed), victim, partial(lie.tell, told, asked, victim))
        with TemporaryDirectory(prefix="fedmpi-") as folder:
            training.play(Path(folder))
            opened, true = sums(Path(folder)), truth(training, Path(folder))
        read = lie.read(opened, told, asked)
        errors.append(inf if read is None else distance(read, true[asked - lie.back]))
    return row(seed, "S1, which lies", "sums of updates (on threads)", name, LIE, errors, READ, protects=True)


def departures(seed: int, on_dropout: Literal["continue", "stop"]) -> Finding:
    """How near S1 comes to the last update of each participant that leaves."""
    protects = on_dropout == "stop"
    claim = STOPPED if protects else DEPARTURE
    params = Params(iterations=LEFT + 3, tolerance=0, deadline=DEADLINE_SECONDS, on_dropout=on_dropout)
    errors = []
    for victim in VICTIMS:
        training = Training(params, problem(seed), victim, leaves=LEFT)
        with TemporaryDirectory(prefix="fedmpi-") as folder:
            training.play(Path(folder))
            opened, true = sums(Path(folder)), truth(training, Path(folder))
        after = FIRST_ITERATION + LEFT
        guess = difference(opened, after)
        errors.append(inf if guess is None else distance(guess, true[after - 1]))
    saw, method = "sums of updates (on threads)", f"difference of two sums, --on-dropout {on_dropout}"
    return row(seed, "S1, and a participant leaves", saw, method, claim, errors, NEARLY, protects=protects)


def difference(opened: dict[int, Vector], after: int) -> Vector | None:
    """What the sum has lost with a participant, less what it changed the iteration before (N - 1 of N parts of it)."""
    if after not in opened:
        return None
    before, last = opened[after - 2], opened[after - 1]
    guess: Vector = last - (opened[after] - (last - before) * (PARTICIPANTS - 1) / PARTICIPANTS)
    return guess


def problem(seed: int) -> list[tuple[Vector, Vector]]:
    """Rows and targets of each participant."""
    rng = np.random.default_rng(seed)
    model = rng.normal(size=COLUMNS)
    rows = [rng.normal(size=(ROWS, COLUMNS)) for _ in range(PARTICIPANTS)]
    return [(A, A @ model + rng.normal(size=ROWS)) for A in rows]


def sums(folder: Path) -> dict[int, Vector]:
    """Stage → the sum of the updates that S2 opened for S1; with an honest S2 a round is a stage."""
    words: dict[tuple[int, int], NDArray[np.uint64]] = {}
    found = {}
    for seen in read_view(folder / f"rank-{PRIMARY}.npz", "MaskedUpdate", "MaskSum"):
        t = int(seen["round"])
        if seen.kind == "MaskedUpdate":
            words[t, seen.source] = seen["words"]
        elif t >= FIRST_ITERATION:
            total = np.sum([words[t, int(rank)] for rank in seen["members"]], axis=0, dtype=np.uint64)
            found[t] = narrow(total - seen["words"])
    return found


def truth(training: Training, folder: Path) -> dict[int, Vector]:
    """Stage → the victim's update, by its own key; S1 has it under a mask."""
    params, rank = training.params, training.victim
    (public,) = (seen["public"] for seen in read_view(folder / f"rank-{rank}.npz", "AuxiliaryKey"))
    key = training.pairs[0].shared(public.tobytes(), info=key_info(0, rank), salt=salt_of(params))
    updates: list[Seen] = read_view(folder / f"rank-{PRIMARY}.npz", "MaskedUpdate")
    return {
        t: narrow(seen["words"] - mask_words(params.mask, key, t, len(seen["words"])))
        for seen in updates
        if seen.source == rank and (t := int(seen["round"])) >= FIRST_ITERATION
    }


def narrow(words: NDArray[np.uint64]) -> Vector:
    """x_i + u_i, or a sum of them."""
    return decode(words[:COLUMNS], Params().fraction_bits)


def distance(guess: Vector, true: Vector) -> float:
    """Relative."""
    return float(np.linalg.norm(guess - true) / np.linalg.norm(true))


@dataclass(frozen=True)
class Lie:
    """What S1 tells in a stage, and how it reads the victim's update then."""

    tell: Callable[[dict[int, Order], int, int, int, Order], Order | None]
    """(stage → order, the stage of the lie, victim, rank, order) → what the rank is told."""
    read: Callable[[dict[int, Vector], dict[int, Order], int], Vector | None]
    """(stage → sum, stage → order, the stage of the lie) → an update; None where nothing was opened."""
    back: int = 0
    """The update is that of so many stages before."""


def _repeat(told: dict[int, Order], asked: int, victim: int, dest: int, order: Order) -> Order | None:
    told[order.stage] = order
    if order.stage != asked:
        return order
    return None if dest == victim else replace(told[asked - 1], round=order.round, stage=asked, counted=False)


def _subtracted(opened: dict[int, Vector], told: dict[int, Order], asked: int) -> Vector | None:
    return opened[asked - 1] - opened[asked] if asked in opened else None


def _pinned(told: dict[int, Order], asked: int, victim: int, dest: int, order: Order) -> Order:
    told[order.stage] = order
    return order if order.stage != asked or dest == victim else replace(order, rho=1e13)


def _rest(opened: dict[int, Vector], told: dict[int, Order], asked: int) -> Vector | None:
    return opened[asked] - (PARTICIPANTS - 1) * told[asked].values if asked in opened else None


LIES = {
    "the same z again, not counted, for all but one": Lie(_repeat, _subtracted, back=1),
    "another ρ for all but one": Lie(_pinned, _rest),
}


def row(
    seed: int, adversary: str, saw: str, attack: str, claim: str, errors: list[float], success: float, *, protects: bool
) -> Finding:
    """A row of the table, of errors that are a success below some value."""
    broken = [error < success for error in errors]
    return finding(seed, adversary, saw, attack, "relative error", errors, broken, protects=protects, claim=claim)
