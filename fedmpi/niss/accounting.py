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
from fedmpi.niss.mechanism import ORDERS, epsilon_for

if TYPE_CHECKING:
    from fedmpi.niss.params import Params

PRV_LIMIT = 500.0
"""Above this ε the grid of the PRV accountant fills the memory; the bound of the RDP accountant is taken."""

ACCOUNTANTS = ("rdp", "prv")


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
    # What Gaussian mechanisms compose to is one of them. Opacus 1.6.0's PRV accountant composes by a discrete Fourier
    # transform, whose rounding puts ε below the truth for many of them at small δ (3.23 for 3.45: 10⁶, δ = 1e-12).
    used.history = [(multiplier / times**0.5, 1.0, 1)]
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


@dataclass(frozen=True, eq=False)
class Ledger:
    """What was released, of each client; ε is that of the client for which it is largest."""

    multipliers: NDArray[np.float64]
    """Least σ_k/Δ_k of a client's uploads, shape (K,); 0 without noise."""
    counts: NDArray[np.int64]
    """Uploads of each client, shape (K,)."""
    said: NDArray[np.float64]
    """Σ (Δ/σ)² over the models in whose rounds a client took part, shape (K,); infinite where one had no noise."""
    delta: float

    @property
    def worst(self) -> int:
        """The client whose uploads say most of it: with equal noise, that which uploaded most often."""
        with _quiet():
            said = np.where(self.counts > 0, self.counts / self.multipliers**2, 0.0)
        return int(np.argmax(said)) if len(said) else 0

    @property
    def multiplier(self) -> float:
        """σ_k/Δ_k of an upload of that client."""
        return float(self.multipliers[self.worst])

    @property
    def uploads(self) -> int:
        """How many that client made."""
        return int(self.counts[self.worst])

    @property
    def model_multiplier(self) -> float:
        """σ/Δ of one release of a model that says as much of a client as all those in whose rounds it took part.

        It is that of the client for which that is most: 0 where one had no noise, infinite where there were none.
        """
        most = float(self.said.max(initial=0.0))
        return most**-0.5 if most else float("inf")

    @classmethod
    def of(
        cls,
        multipliers: float | Sequence[float] | NDArray[np.float64],
        noise: Sequence[float],
        members: Sequence[NDArray[Any]],
        clients: int,
        delta: float,
    ) -> "Ledger":
        """From what each round left.

        Parameters
        ----------
        multipliers : float or array
            Least σ_k/Δ_k of an upload, of all clients or of each; 0 without noise.
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
        return cls(np.broadcast_to(np.asarray(multipliers, float), (clients,)), uploads, said, delta)

    @classmethod
    def of_training(
        cls, params: "Params", rows: NDArray[np.int64], noise: Sequence[float], members: Sequence[NDArray[Any]], h: int
    ) -> "Ledger":
        """From the rows d_k of every client, the noise of each round, who was in it, and the numbers h in an upload."""
        if (together := params.distributed(len(rows), h)) is not None:
            return cls.of(together.promised, noise, members, len(rows), params.delta)
        # In the worst round of a client: among those with the fewest rows.
        others = int(np.sort(rows)[: params.clients_per_round(len(rows)) - 1].sum())
        multipliers: float | list[float]
        if params.budgets is None:
            multipliers = min(multiplier_of(params, d, others) for d in set(rows.tolist()))
        else:
            multipliers = [multiplier_of(params.of(k), d, others) for k, d in enumerate(rows.tolist())]
        return cls.of(multipliers, noise, members, len(rows), params.accounted_delta)

    def upload(self, accountant: str) -> float:
        """ε of the uploads of one client."""
        return epsilon_of(accountant, self.multiplier, self.uploads, self.delta)

    def model(self, accountant: str) -> float:
        """ε of the published models."""
        return epsilon_of(accountant, self.model_multiplier, 1, self.delta)

    def of_client(self, client: int) -> tuple[float, float]:
        """ε of a client's uploads, and of the models in whose rounds it took part: exact, for Gaussian noise.

        Gaussian mechanisms compose to one, whose ε is that of Balle and Wang (2018).
        """
        with _quiet():
            upload = self.multipliers[client] / np.sqrt(self.counts[client])
            model = self.said[client] ** -0.5
        return epsilon_for(float(upload), self.delta), epsilon_for(float(model), self.delta)


def multiplier_of(params: "Params", rows: int, others: int) -> float:
    """σ_k/Δ_k of a client with so many rows, where the others of its round have so many: the same for all, but with
    --noise-std.
    """
    sensitivity = params.sensitivity(1.0 if params.noise_std is None else rows / (rows + others or 1), rows)
    return params.std(1.0, rows) / sensitivity if sensitivity else float("inf")  # no rows tell nothing


def noise_of_model(params: "Params", rows: NDArray[np.int64], clients: NDArray[Any], K: int, h: int) -> float:
    """What a round of clients with so many rows leaves in the model over the largest Δ_k, if none is lost.

    0 with --paper-noise: sums of products are not Gaussian, and quiet in some coordinates.

    Parameters
    ----------
    K, h : int
        All clients, and the numbers in an upload.
    """
    if params.paper_noise:
        return 0.0
    if (together := params.distributed(K, h)) is not None:
        return together.multiplier(len(clients))
    p = weights(rows)
    each = [(params.of(k), w, d) for k, w, d in zip(clients.tolist(), p.tolist(), rows.tolist(), strict=True)]
    m, variances = len(rows), [own.std(w, d) ** 2 for own, w, d in each]
    wanted = max(share_count(variance, params.unit_variance, params.share_count or 0) for variance in variances)
    shares = min(wanted, params.partners(m))
    left = sum(own.leftover(m, shares) * variance for (own, _, _), variance in zip(each, variances, strict=True))
    return float(left**0.5 / max(params.sensitivity(w, d) for _, w, d in each))


def finite(value: float) -> float | None:
    """For JSON, which has no infinity: null means that nothing is promised."""
    return value if value < float("inf") else None
