"""Was a row trained on? LiRA, with a few reference models, and how sure one may be of what it finds.

The adversary has the final model and rows of the same kind that nobody trained on. It trains reference models on some
of them: how well these do on a row says how easy it is, for who has not seen it [Carlini et al. 2022, offline].
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedmpi.attacks.inference import Roc, loss_threshold
from fedmpi.errors import UsageError

CONFIDENCE = 0.95
"""Of the intervals."""

SURE = 0.99
"""Of the bound on false positives that a verdict rests on."""

RATES = (0.01, 0.001)
"""Of false positives."""

Vector = NDArray[np.float64]


def lira(losses: ArrayLike, references: ArrayLike, unseen: ArrayLike, unseen_references: ArrayLike) -> Vector:
    """How much each row looks like one that was trained on, shape (n,), in deviations of rows that were not.

    Parameters
    ----------
    losses : array, shape (n,)
        −log of the probability of each row's label, of the model that is attacked.
    references : array, shape (models, n)
        The same of models that have not seen the rows.
    unseen, unseen_references : array, shapes (m,), (models, m)
        The same of rows that no model has seen, and of which the adversary knows it.

    Raises
    ------
    UsageError
        If there is no reference model for all rows, or fewer than three unseen rows.

    Notes
    -----
    φ(x) less what is expected of it, over one deviation for all rows, as the paper has it for few models. What is
    expected is a line in the mean of the reference models: the one that fits best where the model has not seen the
    rows. Few models are uncertain, and none is trained quite as the one that is attacked; the line has what they are
    good for.
    """
    (own, means), (other, other_means) = (
        (logits(one), np.atleast_2d(logits(several)).mean(axis=0))
        for one, several in ((losses, references), (unseen, unseen_references))
    )
    if own.shape != means.shape or other.shape != other_means.shape or len(other) < 3:
        raise UsageError(
            f"reference models must tell of the same rows, and of 3 unseen ones at least, got {means.shape}, "
            f"{own.shape} and {other_means.shape}, {other.shape}"
        )
    spread = float(other_means.var())
    slope = float(np.cov(other_means, other, bias=True)[0, 1]) / spread if spread > 0 else 0.0
    rest = other - slope * other_means
    scores: Vector = (own - slope * means - rest.mean()) / (float(rest.std()) or 1.0)
    return scores


def logits(losses: ArrayLike) -> Vector:
    """φ = log(p/(1 - p)) of probabilities whose -log is given: nearly normal over models [Carlini et al. 2022]."""
    values = np.maximum(np.asarray(losses, np.float64), 1e-12)
    found: Vector = -values - np.log(-np.expm1(-values))
    return found


@dataclass(frozen=True, eq=False)
class Membership:
    """Scores of rows, which are large where a row looks like one that was trained on."""

    inside: Vector
    """Of rows that were."""
    outside: Vector
    """Of rows that were not."""

    def joined(self, other: "Membership") -> "Membership":
        """Those of two models together."""
        return Membership(*(np.concatenate(pair) for pair in zip(self.both, other.both, strict=True)))

    def exchanged(self, rng: np.random.Generator) -> "Membership":
        """The same scores, with members and others drawn anew: nothing is to be found there."""
        mixed = rng.permutation(np.concatenate(self.both))
        return Membership(*np.split(mixed, [len(self.inside)]))

    @property
    def both(self) -> tuple[Vector, Vector]:
        """Members, and others."""
        return self.inside, self.outside

    @cached_property
    def roc(self) -> Roc:
        """Over all thresholds."""
        return loss_threshold(-self.inside, -self.outside)

    @property
    def area(self) -> float:
        """Under the curve: 0.5 for guessing."""
        return self.roc.area

    @property
    def area_interval(self) -> tuple[float, float]:
        """Of the area [DeLong, DeLong and Clarke-Pearson 1988], within [0, 1]."""
        ranks = stats.rankdata(np.concatenate(self.both))
        n, m = len(self.inside), len(self.outside)
        above = (ranks[:n] - stats.rankdata(self.inside)) / m  # part of the others below each member
        below = 1 - (ranks[n:] - stats.rankdata(self.outside)) / n
        variance = sum(part.var(ddof=1) / len(part) for part in (above, below) if len(part) > 1)
        reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance)
        return max(0.0, self.area - reach), min(1.0, self.area + reach)

    def threshold(self, rate: float) -> float:
        """The lowest score above which no larger part of the others is than `rate`."""
        others = np.sort(self.outside)[::-1]
        return float(others[math.floor(rate * len(others) + 1e-9)]) if len(others) else -math.inf

    def found(self, rate: float) -> int:
        """Members above the threshold."""
        return int((self.inside > self.threshold(rate)).sum())

    def interval(self, rate: float) -> tuple[float, float]:
        """Clopper and Pearson's of the part of members that are found."""
        k, n = self.found(rate), len(self.inside)
        tail = (1 - CONFIDENCE) / 2
        low = float(stats.beta.ppf(tail, k, n - k + 1)) if k else 0.0
        return low, float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0

    def chance(self, rate: float) -> float:
        """What the part of others above the threshold is not above, with a confidence of `SURE`."""
        n = len(self.outside)
        k = int((self.outside > self.threshold(rate)).sum())
        return float(stats.beta.ppf(SURE, k + 1, n - k)) if k < n else 1.0

    def tells(self, rate: float) -> bool:
        """Whether there are others enough for such a rate: at least one of them could be above the threshold."""
        return len(self.outside) * rate >= 1

    def __str__(self) -> str:
        """For the table."""
        found = []
        for rate in RATES:
            low, high = self.interval(rate)
            part = f"{self.found(rate) / len(self.inside):.3f} [{low:.3f}, {high:.3f}]"
            found.append(f"{part if self.tells(rate) else 'too few to tell'} at {100 * rate:g} %")
        low, high = self.area_interval
        return f"true positives {', '.join(found)} false ones; AUC {self.area:.3f} [{low:.3f}, {high:.3f}]"
