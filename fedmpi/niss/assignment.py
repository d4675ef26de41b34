"""The tracker's arithmetic: who sends a share to whom, and what noise stays when clients drop out."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, pi

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Kept:
    """How much noise of its own a client adds that nothing cancels: enough that colluders leave σ_k² of it hidden.

    Who colludes with the server knows the shares that its clients sent and received, which are drawn at random: more
    of a client's shares may be among them than the part ρ. The number that it is planned for is exceeded with a
    probability that is part of δ.
    """

    tau2: float
    """τ², where it was given: the variance over σ_k²."""
    collusion: float
    """ρ, where it was not."""
    delta: float
    """Of the mechanism; `SPENT` of it is that of having more shares known than planned for, in all rounds."""
    coalitions: int

    def partners(self, m: int) -> int:
        """Clients that one of the m of a round can share noise with, if its coalition has its part of them."""
        return -(-m // self.coalitions) - 1

    def known(self, shares: int, m: int, round_: int) -> int:
        """Of so many shares to random others, or from them: how many colluders know, at most."""
        others = max(self.partners(m), shares)
        colluders = floor(self.collusion * others + 1e-9)
        if not colluders or not shares:
            return 0
        from scipy.stats import hypergeom

        tail = SPENT * self.delta * 6 / (pi * (round_ + 1)) ** 2  # adds up to SPENT·δ over all rounds
        return int(hypergeom.isf(tail / 2, others, colluders, shares))  # half for those sent, half for those received

    def variance(self, own: float, shares: int, received: Collection[float], m: int, round_: int) -> float:
        """What a client adds.

        Parameters
        ----------
        own : float
            σ_k².
        shares : int
            That it sends, each with an equal part of σ_k².
        received : collection of float
            The variances of those that it receives; none counts for more than one that it sends.
        m, round_ : int
            Clients in the round, and its number.
        """
        if not shares or not own:
            return 0.0  # it keeps all of its noise
        if not self.collusion:
            return self.tau2 * own
        known = self.known(shares, m, round_)
        unknown = sorted(min(variance, own / shares) for variance in received)[: max(len(received) - known, 0)]
        return max(own - own * (shares - known) / shares - sum(unknown), 0.0)


SPENT = 0.1
"""The part of δ that the chance of a bad draw of colluders may take."""


@dataclass(frozen=True)
class Assignment:
    """Shares of one round."""

    edges: list[tuple[int, int]]
    """(sender, receiver) of each share."""
    counts: dict[int, int]
    """Client → v: it sends and receives exactly so many shares."""

    def kept(
        self, variances: Mapping[int, float], rule: Callable[[int], Kept], m: int, round_: int
    ) -> dict[int, float]:
        """The variance of what each client adds that nothing cancels, by a rule for each client."""
        received: dict[int, list[float]] = {k: [] for k in self.counts}
        for sender, receiver in self.edges:
            received[receiver].append(variances[sender] / self.counts[sender])
        return {k: rule(k).variance(variances[k], v, received[k], m, round_) for k, v in self.counts.items()}

    def leftover(
        self,
        variances: Mapping[int, float],
        arrived: Collection[int],
        tau2: float | Callable[[int], float] = 0.0,
        kept: Mapping[int, float] | None = None,
    ) -> float:
        """Variance of a coordinate of the sum of all noise in the uploads that arrived.

        Σ over shares of σ_k²/v times: τ² if both ends arrived (Lemma 1), 1 if only the sender did, 1 + τ² if only the
        receiver did; and σ_k² of arrived clients that had nobody to share with. Where clients add noise of their own
        in place of distorting what they receive τ is 0 there, and that noise counts beside it.

        Parameters
        ----------
        variances : mapping
            Client → σ_k².
        arrived : collection of int
        tau2 : float or callable
            τ² of --paper-noise: of all clients, or client → τ_k² of what it receives.
        kept : mapping, optional
            Client → variance of what it adds that nothing cancels.
        """
        here, of = set(arrived), tau2 if callable(tau2) else lambda receiver: tau2
        total = sum(variances[k] for k, count in self.counts.items() if count == 0 and k in here)
        total += sum((kept or {}).get(k, 0.0) for k in here)
        for sender, receiver in self.edges:
            part = variances[sender] / self.counts[sender]
            if receiver in here:
                total += part * (of(receiver) if sender in here else 1 + of(receiver))
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
