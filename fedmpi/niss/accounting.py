"""Privacy spent so far, by the accountants of Opacus, seen by two adversaries.

``upload``: who sees one client's uploads, as the server does; their noise has at least the variance σ_k², if no more
than the part ρ of the others collude with it. The server picks the clients, so nothing is gained by sampling: q = 1.
``model``: who sees the published models only. Their noise is what did not cancel, with variance Στ_k²σ_k², and a
client takes part with probability q = m/K. Without such noise ε is infinite.
"""

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError

if TYPE_CHECKING:
    from fedmpi.niss.params import Params

PRV_LIMIT = 500.0
"""Above this ε the grid of the PRV accountant fills the memory; the bound of the RDP accountant is taken."""

Spending = tuple[tuple[float, float, int], ...]
"""(σ/Δ, q, times) of what was released."""


@lru_cache(maxsize=1024)
def epsilon_of(accountant: str, spending: Spending, delta: float) -> float:
    """ε of Gaussian mechanisms composed.

    Parameters
    ----------
    accountant : str
        rdp (Rényi differential privacy) or prv (privacy-loss random variables; tighter, and slower).
    spending : tuple of (noise multiplier, sample rate, times)
    delta : float
    """
    from opacus.accountants import PRVAccountant, RDPAccountant

    spending = tuple(entry for entry in spending if entry[2])
    if not spending:
        return 0.0
    if any(noise <= 0 for noise, _, _ in spending):
        return float("inf")
    used = RDPAccountant() if accountant == "rdp" else PRVAccountant()
    used.history = list(spending)
    if accountant == "prv" and (bound := epsilon_of("rdp", spending, delta)) > PRV_LIMIT:
        return bound
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of the range of orders, and of logarithms of 0
        try:
            return float(used.get_epsilon(delta))
        except (ValueError, RuntimeError, MemoryError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"the {accountant} accountant must be able to compose the noise, got {reason}") from None


def _quiet() -> Any:
    return np.errstate(all="ignore")


@dataclass(frozen=True)
class Ledger:
    """What was released: by the client that uploaded most often, and of the model."""

    multiplier: float
    """Least σ_k/Δ_k of an upload; 0 without noise."""
    uploads: int
    """Of the client that uploaded most often."""
    models: Spending
    """(noise in the model over the largest Δ_k, m/K, rounds)."""
    delta: float

    @classmethod
    def of(
        cls, multiplier: float, uploads: Iterable[int], noise: Iterable[float], sample_rate: float, delta: float
    ) -> "Ledger":
        """From the uploads of each client, and the noise of each round."""
        # Rounded down to 4 digits: rounds that differ in the last bits count as alike.
        counts = Counter(_down(value) for value in noise)
        models = tuple((value, sample_rate, times) for value, times in sorted(counts.items()))
        return cls(multiplier, max(uploads, default=0), models, delta)

    @classmethod
    def of_training(
        cls, params: "Params", rows: NDArray[np.int64], uploads: NDArray[np.int64], noise: Iterable[float]
    ) -> "Ledger":
        """From the rows d_k of every client, the uploads of each, and the noise of each round."""
        one = int(rows[0])  # σ_k/Δ_k is the same for every p_k and d_k, but with --noise-std
        multiplier = params.std(1.0, one) / params.sensitivity(1.0, one)
        m = params.clients_per_round(len(rows))
        if params.noise_std is not None:
            # Δ_k of the worst client in the worst round: among those with the fewest rows
            others = int(np.sort(rows)[: m - 1].sum())
            largest = max(params.sensitivity(d / (d + others), d) for d in set(rows.tolist()))
            multiplier = params.noise_std / largest
        return cls.of(multiplier, uploads.tolist(), noise, m / len(rows), params.delta)

    def upload(self, accountant: str, more: int = 0) -> float:
        """ε of the uploads of one client, after `more` further ones."""
        return epsilon_of(accountant, ((self.multiplier, 1.0, self.uploads + more),), self.delta)

    def model(self, accountant: str) -> float:
        """ε of the published models."""
        return epsilon_of(accountant, self.models, self.delta)


def _down(value: float) -> float:
    return float(f"{value * (1 - 5e-4):.4g}")


def finite(value: float) -> float | None:
    """For JSON, which has no infinity: null means that nothing is promised."""
    return value if value < float("inf") else None
