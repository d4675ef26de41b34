"""One row of the audit's table: who attacked what, and what came of it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedmpi.attacks.membership import RATES, Membership
from fedmpi.audit.bounds import Game

Images = Mapping[str, NDArray[np.floating]]
"""Title → a strip of images, shape (n, channels, height, width), in [0, 1]."""

Curves = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Name → rates of false and of true positives."""

PICTURED = 8
"""Rows in a picture."""

RARE = 0.01
"""A number of successes that guessing has less often than so counts as a break."""


TOO_FEW = "too few attempts to tell"

PARTLY = "PARTLY: pictures can be recognized"

UNPROMISED = 1.0
"""Where no ε is promised, a bound above this one counts as a break."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What an adversary got of one kind of secret, over some attempts."""

    system: str
    method: str
    adversary: str
    saw: str
    attack: str
    claim: str
    """What the paper says of it."""
    protects: bool | None
    """Whether the claim is that the adversary gets nothing; if not, the attack has to work. None: nothing is said."""
    measure: str
    """What the scores are."""
    scores: tuple[float, ...]
    """One of each attempt."""
    successes: int
    chance: float = 0.0
    """Part of the attempts in which guessing succeeds."""
    seeds: frozenset[int] = frozenset()
    images: Images = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)
    target: str = "rows"
    """What the adversary wants."""
    recognized: int = 0
    """Further attempts of which a person recognizes the picture."""
    game: Game | None = None
    """Where an ε is tried: the attempts to tell two neighbouring inputs apart."""
    membership: Membership | None = None
    """Where rows are asked for that were trained on: the scores of all rows."""

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two findings rows of one kind."""
        return self.system, self.method, self.adversary, self.saw, self.attack

    @property
    def attempts(self) -> int:
        """How many there were."""
        return self.game.attempts if self.game else len(self.scores)

    @property
    def part(self) -> float:
        """Of the attempts that succeeded."""
        return self.successes / self.attempts if self.attempts else 0.0

    @property
    def broken(self) -> bool:
        """Whether the adversary was better than guessing; or than the ε allows that was printed."""
        if self.game:
            return self.game.bound > (self.game.epsilon if math.isfinite(self.game.epsilon) else UNPROMISED)
        if not self.successes:
            return False
        return bool(stats.binom.sf(self.successes - 1, len(self.scores), self.chance) < RARE)

    @property
    def telling(self) -> bool:
        """Whether there are attempts enough: had all of them succeeded, would that be rarer than guessing?"""
        n = len(self.scores)
        return bool(self.game) or bool(stats.binom.sf(n - 1, n, self.chance) < RARE)

    @property
    def verdict(self) -> str:
        """What it says of the claim."""
        if not self.broken and not self.telling:
            return TOO_FEW
        if not self.broken and self.recognized and self.protects is not False:
            return PARTLY
        if self.protects is None:
            return "broken" if self.broken else "not broken by this attack"
        if self.protects and self.game and not self.broken and self.game.epsilon >= self.game.reach:
            return "too few attempts to refute it"
        if self.protects:
            return "DOES NOT SURVIVE" if self.broken else "survives this attack"
        return "broken, as it must be" if self.broken else "THE CONTROL FAILED"

    @property
    def cells(self) -> dict[str, str]:
        """The row, by the names of its columns."""
        printed, shown = "", ""
        if self.game:
            promised = self.game.epsilon
            printed = f"{promised:.3g} (δ = {self.game.delta:g})" if math.isfinite(promised) else "none"
            shown = f"{self.game.bound:.3g} (so many attempts show {self.game.reach:.3g} at most)"
        return {
            "system": self.system,
            "method": self.method,
            "adversary": self.adversary,
            "saw": self.saw,
            "attack": self.attack,
            "to get": self.target,
            "successes": f"{self.successes} of {self.attempts}"
            + (f", {self.recognized} more seen" if self.recognized else ""),
            "median": str(self.membership) if self.membership else f"{self.measure} {self.score:.2g}",
            "ε printed": printed,
            "ε is at least": shown,
            "claim": self.claim,
            "verdict": self.verdict,
        }

    @property
    def score(self) -> float:
        """The median of the scores."""
        return float(np.median(self.scores))


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One row for each kind: attempts of several runs added up, the pictures of the first; in order of the methods."""
    rows: dict[tuple[str, ...], Finding] = {}
    for one in findings:
        first = rows.get(one.key)
        rows[one.key] = one if first is None else _added(first, one)
    methods = list(dict.fromkeys((one.system, one.method) for one in rows.values()))
    return sorted(rows.values(), key=lambda one: methods.index((one.system, one.method)))


def tried(row: Finding, game: Game) -> Finding:
    """A row about an ε, with what came of the attempts."""
    right = game.right
    return replace(row, scores=(right / max(game.attempts, 1),), successes=right, chance=0.5, game=game)


def told(row: Finding, scores: Membership, rate: float = RATES[0]) -> Finding:
    """A row about membership: a member is an attempt, and found where few others have such a score."""
    count, found = len(scores.inside), scores.found(rate)
    return replace(
        row,
        scores=tuple(scores.inside.tolist()),
        successes=found if count else 0,
        chance=scores.chance(rate),
        membership=scores,
    )


def _added(first: Finding, one: Finding) -> Finding:
    if first.game and one.game:
        return replace(tried(first, first.game.joined(one.game)), seeds=first.seeds | one.seeds)
    if first.membership and one.membership:
        return replace(told(first, first.membership.joined(one.membership)), seeds=first.seeds | one.seeds)
    return replace(
        first,
        scores=first.scores + one.scores,
        successes=first.successes + one.successes,
        recognized=first.recognized + one.recognized,
        seeds=first.seeds | one.seeds,
    )


def as_images(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows as images (n, channels, height, width): flat ones as squares, or else as one line each."""
    if rows.ndim == 4:
        return rows
    side = math.isqrt(rows.shape[1])
    return rows.reshape(len(rows), 1, -1, side if side**2 == rows.shape[1] else rows.shape[1])
