"""The tracker's arithmetic: who sends a share to whom, and what noise stays when clients drop out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Assignment:
    """Shares of one round."""

    edges: list[tuple[int, int]]
    """(sender, receiver) of each share."""
    counts: dict[int, int]
    """Client → v: it sends and receives exactly so many shares."""

    def leftover(self, variances: Mapping[int, float], arrived: Collection[int], tau2: float) -> float:
        """Variance of a coordinate of the sum of all noise in the uploads that arrived.

        Σ over shares of σ_k²/v times: τ² if both ends arrived (Lemma 1), 1 if only the sender did, 1 + τ² if only the
        receiver did; and σ_k² of arrived clients that had nobody to share with.

        Parameters
        ----------
        variances : mapping
            Client → σ_k².
        arrived : collection of int
        tau2 : float
            τ².
        """
        here = set(arrived)
        total = sum(variances[k] for k, count in self.counts.items() if count == 0 and k in here)
        for sender, receiver in self.edges:
            part = variances[sender] / self.counts[sender]
            if receiver in here:
                total += part * (tau2 if sender in here else 1 + tau2)
            elif sender in here:
                total += part
        return total


def share_count(variance: float, unit_variance: float, fixed: int = 0) -> int:
    """Number of shares v = max(1, ⌈σ_k²/σ²⌉) that a noise of variance σ_k² is split in, or a fixed number."""
    return fixed or max(1, ceil(variance / unit_variance))


def assign(
    coalitions: Sequence[Sequence[int]],
    wanted: Mapping[int, int],
    permutation: Callable[[int], NDArray[np.integer]],
) -> Assignment:
    """Choose distinct receivers for the shares of every client, so that everybody sends and receives exactly v.

    The clients of a coalition are put in a random circle, and each sends to the v that follow it. v is the largest
    number that one of the coalition wants, but at most the number of its other clients.

    Parameters
    ----------
    coalitions : sequence of sequence of int
        Live clients that may share with one another.
    wanted : mapping
        Client → the number of shares it wants to send.
    permutation : callable
        n → a secret random order of 0 … n-1.
    """
    edges: list[tuple[int, int]] = []
    counts: dict[int, int] = {}
    for members in coalitions:
        circle = [members[i] for i in permutation(len(members))]
        v = min(max((wanted[k] for k in members), default=0), len(members) - 1)
        for i, sender in enumerate(circle):
            counts[sender] = v
            edges += [(sender, circle[(i + step) % len(circle)]) for step in range(1, v + 1)]
    return Assignment(edges, counts)
