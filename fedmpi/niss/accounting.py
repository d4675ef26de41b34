"""Privacy spent so far, by the accountants of Opacus, seen by two adversaries.

``upload``: who sees one client's uploads, as the server does; their noise has at least the variance σ_k², if no more
than the part ρ of the others collude with it. The server picks the clients, so nothing is gained by sampling: q = 1.
``model``: who sees the published models only. Their noise is what did not cancel, with variance Στ_k²σ_k². Nothing is
gained by sampling here either: the clients of a round follow from the public seed, so that anybody can tell in which
rounds a client took part. In those q = 1, and the others cost it nothing. Without such noise ε is infinite.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError
from fedmpi.learn import weights
from fedmpi.niss.assignment import share_count

if TYPE_CHECKING:
    from fedmpi.niss.params import Params

PRV_LIMIT = 500.0
"""Above this ε the grid of the PRV accountant fills the memory; the bound of the RDP accountant is taken."""

ACCOUNTANTS = ("rdp", "prv")
ORDERS = tuple(sorted({*(1 + k / 10 for k in range(1, 100)), *range(11, 64), *np.geomspace(64, 1024, 33).round()}))
"""Of the RDP accountant. With orders up to 63 alone, as Opacus has them, no ε below 0.1 can be seen at δ = 1e-5."""


@lru_cache(maxsize=1024)
def epsilon_of(accountant: str, multiplier: float, times: int, delta: float) -> float:
    """ε of Gaussian mechanisms composed, by everybody's whole data (no sampling).

    Parameters
    ----------
    accountant : str
        rdp (Rényi differential privacy) or prv (privacy-loss random variables; tighter, and slower).
    multiplier : float
        σ/Δ of each; 0: no noise.
    times : int
        How many there are.
    delta : float

    Raises
    ------
    UsageError
        If the accountant can't compute it.
    """
    from opacus.accountants import PRVAccountant, RDPAccountant

    if not times or multiplier == float("inf"):
        return 0.0
    if multiplier <= 0:
        return float("inf")
    used = RDPAccountant() if accountant == "rdp" else PRVAccountant()
    used.history = [(multiplier, 1.0, times)]
    if accountant == "prv" and (bound := epsilon_of("rdp", multiplier, times, delta)) > PRV_LIMIT:
        return bound
    orders = {"alphas": ORDERS} if accountant == "rdp" else {}
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of the range of orders, and of logarithms of 0
        try:
            return max(float(used.get_epsilon(delta, **orders)), 0.0)
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
    model_multiplier: float
    """σ/Δ of one release of a model that says as much of a client as all those in whose rounds it took part, of the
    client for which that is most; 0 where one had no noise, infinite where there were none."""
    delta: float

    @classmethod
    def of(
        cls, multiplier: float, noise: Sequence[float], members: Sequence[NDArray[Any]], clients: int, delta: float
    ) -> "Ledger":
        """From what each round left.

        Parameters
        ----------
        multiplier : float
            Least σ_k/Δ_k of an upload; 0 without noise.
        noise : sequence of float
            Of each round: the noise in the model over the largest Δ_k.
        members : sequence of array of int
            Of each round: the clients that were asked.
        clients : int
            K.
        """
        uploads, said = np.zeros(clients, np.int64), np.zeros(clients)
        for z, chosen in zip(noise, members, strict=True):
            uploads[chosen] += 1
            # Gaussian mechanisms compose as their squares 1/z² add up: in μ-GDP, and in RDP at every order
            said[chosen] += np.inf if z <= 0 else z**-2.0
        most = float(said.max(initial=0.0))
        return cls(multiplier, int(uploads.max(initial=0)), most**-0.5 if most else float("inf"), delta)

    @classmethod
    def of_training(
        cls, params: "Params", rows: NDArray[np.int64], noise: Sequence[float], members: Sequence[NDArray[Any]]
    ) -> "Ledger":
        """From the rows d_k of every client, the noise of each round and who was in it."""
        one = int(rows[0])  # σ_k/Δ_k is the same for every p_k and d_k, but with --noise-std
        multiplier = params.std(1.0, one) / params.sensitivity(1.0, one)
        m = params.clients_per_round(len(rows))
        if params.noise_std is not None:
            # Δ_k of the worst client in the worst round: among those with the fewest rows
            others = int(np.sort(rows)[: m - 1].sum())
            largest = max(params.sensitivity(d / (d + others), d) for d in set(rows.tolist()))
            multiplier = params.noise_std / largest
        return cls.of(multiplier, noise, members, len(rows), params.accounted_delta)

    def upload(self, accountant: str) -> float:
        """ε of the uploads of one client."""
        return epsilon_of(accountant, self.multiplier, self.uploads, self.delta)

    def model(self, accountant: str) -> float:
        """ε of the published models."""
        return epsilon_of(accountant, self.model_multiplier, 1, self.delta)


def noise_of_model(params: "Params", rows: NDArray[np.int64]) -> float:
    """What a round of clients with so many rows leaves in the model over the largest Δ_k, if none is lost."""
    p = weights(rows)
    each = [(params.std(w, d), params.sensitivity(w, d)) for w, d in zip(p.tolist(), rows.tolist(), strict=True)]
    m, wanted = len(rows), (share_count(std**2, params.unit_variance, params.share_count or 0) for std, _ in each)
    variance = params.leftover(m, min(max(wanted), params.partners(m))) * sum(std**2 for std, _ in each)
    return float(variance**0.5 / max(sensitivity for _, sensitivity in each))


def finite(value: float) -> float | None:
    """For JSON, which has no infinity: null means that nothing is promised."""
    return value if value < float("inf") else None
