"""From an adversary's guesses to a lower bound on ε: what no true ε can be below, if they are right too often.

Somebody hides one of two inputs, neighbours of each other, and the adversary guesses which it was. (ε, δ)-differential
privacy allows TPR ≤ e^ε FPR + δ, and the same of the other side [Kairouz, Oh and Viswanath 2015]. Rates are known as
well as attempts can tell, from Clopper and Pearson's intervals [Jagielski, Ullman and Oprea 2020; Nasr et al. 2021].
Many canaries in one run are as many attempts, where their noise is drawn apart [Steinke, Nasr and Jagielski 2023].
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.99
"""A bound is above the true ε in at most one of a hundred audits."""

THRESHOLDS = 200
"""That are tried on one half of the attempts; what is best there is judged on the other half."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Game:
    """Attempts to tell two neighbouring inputs apart, by scores that are large where the canary is taken to be in.

    Attempts of one kind are independent of each other; those of the two kinds may be made from the same noise.
    """

    out: Vector
    """Scores where the canary was not in, shape (n,)."""
    inside: Vector
    """Scores where it was."""
    epsilon: float
    """What was promised; infinite where nothing was."""
    delta: float

    @property
    def attempts(self) -> int:
        """How many guesses were judged, of both kinds: half of what was played."""
        return len(self.out[1::2]) + len(self.inside[1::2])

    @property
    def right(self) -> int:
        """How many of them were right, at the threshold that is right most often on the other half."""
        out, inside = np.sort(self.out[::2]), np.sort(self.inside[::2])
        both = np.sort(np.concatenate([out, inside]))
        tried = (both[1:] + both[:-1]) / 2 if len(both) > 1 else np.zeros(1)
        below = np.searchsorted(out, tried) / max(len(out), 1) - np.searchsorted(inside, tried) / max(len(inside), 1)
        threshold = tried[int(np.argmax(below))]
        return int((self.out[1::2] < threshold).sum() + (self.inside[1::2] >= threshold).sum())

    @cached_property
    def bound(self) -> float:
        """The ε that is exceeded with `CONFIDENCE`; 0 where the attempts show nothing."""
        return lower_bound(self.out, self.inside, self.delta)

    @property
    def reach(self) -> float:
        """The largest ε that so many attempts can show, were all guesses right."""
        perfect = _bounds(
            np.zeros_like(self.out[1::2]), np.ones_like(self.inside[1::2]), np.ones(1), self.delta, CONFIDENCE
        )
        return max(float(perfect[0]), 0.0)

    def joined(self, other: "Game") -> "Game":
        """With the attempts of another run of the same kind."""
        out, inside = (np.concatenate(both) for both in ((self.out, other.out), (self.inside, other.inside)))
        return Game(out, inside, max(self.epsilon, other.epsilon), max(self.delta, other.delta))


def lower_bound(out: Vector, inside: Vector, delta: float, confidence: float = CONFIDENCE) -> float:
    """An ε that the mechanism exceeds, with some confidence; 0 where nothing is shown.

    Parameters
    ----------
    out, inside : array
        Scores without and with the canary, of independent attempts.
    delta : float
    confidence : float

    Notes
    -----
    The threshold, and the side, are those with the largest bound on every second attempt, where the bounds of all
    thresholds hold together; the bound is that of the others, so that the choice costs no confidence. Both rates hold
    together, each with half of what may go wrong.
    """
    sides = []
    for negative, positive in ((out, inside), (-inside, -out)):
        thresholds = _tried(negative[::2], positive[::2])
        strict = 1 - (1 - confidence) / len(thresholds)  # of so many, one far out would look best by chance
        bounds = _bounds(negative[::2], positive[::2], thresholds, delta, strict)
        best = int(np.argmax(bounds))
        judged = _bounds(negative[1::2], positive[1::2], thresholds[[best]], delta, confidence)
        sides.append((float(bounds[best]), float(judged[0])))
    return max(max(sides)[1], 0.0)


def clopper_pearson(successes: ArrayLike, attempts: int, alpha: float) -> tuple[Vector, Vector]:
    """The lower and upper limits of rates, each wrong with probability α at most."""
    k = np.asarray(successes)
    low = np.where(k > 0, stats.beta.ppf(alpha, np.maximum(k, 1), attempts - k + 1), 0.0)
    high = np.where(k < attempts, stats.beta.ppf(1 - alpha, k + 1, np.maximum(attempts - k, 1)), 1.0)
    return low, high


def _bounds(negative: Vector, positive: Vector, thresholds: Vector, delta: float, confidence: float) -> Vector:
    """Of each threshold, at and above which an attempt is taken for a positive one."""
    hits, alarms = (len(x) - np.searchsorted(np.sort(x), thresholds) for x in (positive, negative))
    alpha = (1 - confidence) / 2
    hit = clopper_pearson(hits, len(positive), alpha)[0] - delta
    alarm = clopper_pearson(alarms, len(negative), alpha)[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(hit > 0, np.log(hit / alarm), -np.inf)


def _tried(negative: Vector, positive: Vector) -> Vector:
    """Thresholds worth trying: scores of both kinds, most of them far out, where few are."""
    both = np.sort(np.concatenate([negative, positive]))
    if not len(both):
        return np.zeros(1)
    tail = np.unique(np.geomspace(1, len(both), THRESHOLDS // 2).astype(int)) - 1
    tried: Vector = np.unique(both[np.concatenate([tail, len(both) - 1 - tail])])
    return tried
