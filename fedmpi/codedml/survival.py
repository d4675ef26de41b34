"""What lets the master go on when workers are slow, dead or lying."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedmpi.core import FieldArray, LagrangeCode
from fedmpi.core.lagrange import Uniform
from fedmpi.core.reed_solomon import consistent, locate_errors
from fedmpi.errors import PeerFailed, TooFewWorkers
from fedmpi.net import Channel, Message

UNANSWERED = 4
"""Requests that a worker may leave unanswered before newer ones are held back."""


class Pacing:
    """Sends requests, one for each worker and iteration, and only the newest to a worker that falls behind.

    So neither side's memory grows with the backlog of a straggler.
    """

    def __init__(self, ch: Channel):
        self._ch = ch
        self._unanswered: defaultdict[int, set[int]] = defaultdict(set)
        self._held: dict[int, tuple[int, Message]] = {}

    def send(self, worker: int, iteration: int, request: Message) -> None:
        """Send a request, or hold it back until the worker has answered."""
        self._held[worker] = iteration, request
        self._release(worker)

    def heard(self, worker: int, answer: Mapping[str, Any]) -> None:
        """An answer has come: what is older than it will not be answered any more."""
        self._unanswered[worker] = {it for it in self._unanswered[worker] if it > answer["iteration"]}
        self._release(worker)

    def _release(self, worker: int) -> None:
        if worker in self._ch.departed:
            self._held.pop(worker, None)
        elif worker in self._held and len(self._unanswered[worker]) < UNANSWERED:
            iteration, request = self._held.pop(worker)
            self._unanswered[worker].add(iteration)
            self._ch.send(worker, request)


class Answers:
    """Collects the answers to one request after another, of which some may be lies, and decodes them.

    Parameters
    ----------
    ch : Channel
        Workers that lie depart.
    codes : sequence of LagrangeCode
        Of ranks 1 … N, one for each prime.
    byzantine : int
        A: so many workers may lie and the decoded values are still right.
    uniforms : sequence of callables
        For each prime: shape → secret uniform elements of its field.

    Notes
    -----
    R + A answers on one polynomial of degree R - 1 are right: R of them are honest, and determine it. Otherwise
    R + 2A answers tell which are wrong. A worker that is caught counts no longer among the A.
    """

    def __init__(self, ch: Channel, codes: Sequence[LagrangeCode], byzantine: int, uniforms: Sequence[Uniform]):
        self._ch, self._codes, self._uniforms = ch, codes, uniforms
        self._liars_left = byzantine
        self.departures: dict[int, int] = {}
        """Worker → the iteration in which it departed."""

    def gather(
        self, iteration: int, receive: Callable[[int, Mapping[int, Any]], dict[int, Any]], value: str
    ) -> dict[int, FieldArray]:
        """Right answers of R workers or more: worker (0 ≤ i < N) → array, whose first axis is that of the primes.

        Parameters
        ----------
        receive : callable
            (count, those that are here) → answers of `count` workers, by rank.
        value : str
            The field of an answer that holds its array.

        Raises
        ------
        TooFewWorkers
            If too few workers are left to be sure.
        DecodingError
            If more than A workers lie.
        """
        answers: dict[int, Any] = {}
        doubt = False
        try:
            while True:
                spare = (2 if doubt else 1) * self._liars_left
                answers = receive(self._codes[0].recovery_threshold + spare, answers)
                arrays = {rank - 1: getattr(answer, value) for rank, answer in answers.items()}
                if not self._exclude_impossible(arrays):
                    if self._agree(arrays):
                        return arrays
                    if doubt:
                        self._exclude_liars(arrays, iteration)
                    doubt = True
                answers = {rank: answer for rank, answer in answers.items() if rank not in self._ch.departed}
        except TooFewWorkers as error:
            raise TooFewWorkers(f"iteration {iteration}: {error}") from None
        finally:
            for rank in self._ch.departed:
                self.departures.setdefault(rank, iteration)

    def _agree(self, arrays: Mapping[int, FieldArray]) -> bool:
        if not self._liars_left:
            return True
        with self._ch.phase("check"):
            return all(
                consistent(code.field, *self._at_nodes(arrays, j), code.recovery_threshold - 1)
                for j, code in enumerate(self._codes)
            )

    def _exclude_impossible(self, arrays: Mapping[int, FieldArray]) -> bool:
        fields = [code.field for code in self._codes]
        impossible = [
            i
            for i, array in arrays.items()
            if not all(field.contains(part) for field, part in zip(fields, array, strict=True))
        ]
        for i in impossible:
            limit = min(field.p for field in fields)
            self._exclude(i, f"sent field elements that must be below {limit}, got {arrays[i].max()}")
        return bool(impossible)

    def _exclude_liars(self, arrays: Mapping[int, FieldArray], iteration: int) -> None:
        positions: set[int] = set()
        with self._ch.phase("check"):
            for j, (code, uniform) in enumerate(zip(self._codes, self._uniforms, strict=True)):
                degree = code.recovery_threshold - 1
                positions |= locate_errors(code.field, *self._at_nodes(arrays, j), degree, self._liars_left, uniform)
        for i in [list(arrays)[k] for k in sorted(positions)]:
            self._exclude(i, f"lied in iteration {iteration}")

    def _at_nodes(self, arrays: Mapping[int, FieldArray], j: int) -> tuple[list[int], list[FieldArray]]:
        return [self._codes[j].alphas[i] for i in arrays], [array[j] for array in arrays.values()]

    def _exclude(self, i: int, reason: str) -> None:
        rank = i + 1
        self._ch.depart(PeerFailed(rank, self._ch.role_of(rank), reason))
        self._liars_left = max(0, self._liars_left - 1)
