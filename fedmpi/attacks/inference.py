"""Membership and tracing: whose data was it, and was it there at all [Fan et al. 2020, Algorithms 5 and 6]."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError


def membership_distance(found: NDArray[np.integer], true: NDArray[np.integer]) -> float:
    """dist_m: the share of labels that were not recovered (Algorithm 5), in [0, 1]."""
    if np.shape(found) != np.shape(true) or not np.size(true):
        raise UsageError(f"labels must have one shape and be there, got {np.shape(found)} and {np.shape(true)}")
    return float(np.mean(np.asarray(found) != np.asarray(true)))


def trace(
    reconstructed: NDArray[np.floating],
    owners: NDArray[np.integer],
    queries: NDArray[np.floating],
) -> NDArray[np.int64]:
    """To which participant each query belongs: the owner of the nearest reconstructed image (Algorithm 6).

    Parameters
    ----------
    reconstructed : array, shape (R, …)
    owners : array of int, shape (R,)
        The participant from whose gradient each was reconstructed.
    queries : array, shape (Q, …)
        Known images, whose owners are asked for.

    Returns
    -------
    array of int, shape (Q,)
    """
    a = np.asarray(reconstructed, np.float64).reshape(len(reconstructed), -1)
    b = np.asarray(queries, np.float64).reshape(len(queries), -1)
    if not len(a) or len(owners) != len(a) or a.shape[1] != b.shape[1]:
        raise UsageError(
            f"reconstructions must have owners and the queries' size, got {a.shape}, {len(owners)}, {b.shape}"
        )
    squares = (a**2).sum(1)
    nearest = np.array([int((squares - 2 * (a @ query)).argmin()) for query in b], np.int64)
    return np.asarray(owners, np.int64)[nearest]


def tracing_distance(found: NDArray[np.integer], true: NDArray[np.integer]) -> float:
    """dist_t: the share of queries that were traced to another participant than their own, in [0, 1]."""
    return membership_distance(found, true)


@dataclass(frozen=True, eq=False)
class Roc:
    """Error rates of a threshold attack over all thresholds, from the strictest one."""

    false_positive: NDArray[np.float64]
    true_positive: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Under the curve: 0.5 for guessing."""
        return float(np.trapezoid(self.true_positive, self.false_positive))

    def true_positive_at(self, false_positive: float = 0.01) -> float:
        """The true positive rate at the largest rate of false positives not above this one."""
        return float(self.true_positive[self.false_positive <= false_positive + 1e-12].max())


def loss_threshold(members: NDArray[np.floating], others: NDArray[np.floating]) -> Roc:
    """Say "member" of a row whose loss is below a threshold [Yeom et al. 2018], for every threshold.

    Parameters
    ----------
    members, others : array
        Losses of the model on rows it was trained on, and on other rows.
    """
    inside, outside = np.asarray(members, np.float64), np.asarray(others, np.float64)
    if not inside.size or not outside.size:
        raise UsageError(f"losses of both kinds must be there, got {inside.size} and {outside.size}")
    thresholds = np.unique(np.concatenate([inside, outside]))
    rates = [np.searchsorted(np.sort(values), thresholds, side="right") / values.size for values in (outside, inside)]
    return Roc(np.concatenate([[0.0], rates[0]]), np.concatenate([[0.0], rates[1]]))
