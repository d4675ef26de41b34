"""What NISS is run with."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError
from fedmpi.learn.local_training import LocalTraining
from fedmpi.niss.assignment import SPENT, Kept, share_count
from fedmpi.niss.budgets import budgets
from fedmpi.niss.distributed import Distributed
from fedmpi.niss.mechanism import noise_multiplier
from fedmpi.rules import at_least, flag, positive
from fedmpi.securesum.double_masking import DoubleMasking
from fedmpi.securesum.lightsecagg import LightSecAgg
from fedmpi.securesum.scheme import Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

FRACTION, FEWEST = 0.3, 10
"""Part of the clients in a round, and how many there are at least, where --fraction is not given."""


@dataclass(frozen=True)
class Params:
    """Parameters of NISS [Yang et al. 2021, section VI-A].

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    method: Literal["niss", "dp-fedavg", "distributed-dp", "fedavg"] = "niss"
    """niss: noise that cancels (Algorithm 2). dp-fedavg: noise that stays (Algorithm 1). distributed-dp: less of it, as
    much as the sum needs that --secure-sum opens (Kairouz et al. 2021). fedavg: no noise."""
    model: str = "mlp"
    """mlp (2 x 200 units), logistic, cnn, or package.module:Class, called with (input_shape, classes)."""
    clients: int | None = None
    """Clients K, spread evenly over the ranks that host them. Default: one per rank."""
    fraction: float | None = None
    """C: m = max(C·K, 1) clients are drawn for a round. Default: 0.3, but at least 10 clients, or all if there are
    fewer: the noise of a client that has few others to share it with is not hidden, or stays."""
    rounds: int = 30
    """Rounds of training. T in the paper."""
    epochs: int = 5
    """Passes over its rows that a client makes in a round. E in the paper."""
    batch_size: int = 10
    """Rows of a batch. B in the paper."""
    learning_rate: float = 0.01
    """Step size η."""
    momentum: float = 0.0
    """Momentum μ of local gradient descent, from zero in each round."""
    partition: Literal["iid", "shards", "dirichlet"] = "iid"
    """How the rows are spread: evenly, two shards of rows sorted by label each, or Dirichlet(α) for each label."""
    dirichlet_alpha: float = 0.5
    """α of --partition dirichlet: small values give clients few labels."""
    split_by: str | None = None
    """Column whose values say whose a row is. Default: rows are dealt out by --partition."""
    clip: float = 3.0
    """ζ: the Euclidean norm that gradients (or updates) are clipped to; inf: none, for fedavg."""
    clipping: Literal["gradient", "update"] = "gradient"
    """What is clipped: the gradient of each batch, as in the paper, or the whole update, which needs less noise."""
    epsilon: float = 10.0
    """niss, dp-fedavg: ε of one upload; distributed-dp: of the sum of a round, against whoever knows the noise of
    --colluding clients. A client chooses its noise by it. All uploads of a client together cost more, the more there
    are: --max-epsilon is a limit on that."""
    delta: float = 1e-4
    """niss, dp-fedavg, distributed-dp: δ of the mechanism and of the accounting."""
    mechanism: Literal["analytic", "classic"] = "analytic"
    """niss, dp-fedavg: from (ε, δ) to noise, exact (Balle and Wang 2018), or by the paper's Theorem 1, which holds for
    ε < 1 only."""
    noise_std: float | None = None
    """niss, dp-fedavg, distributed-dp: standard deviation σ of the noise of each coordinate. Of every upload, in place
    of --epsilon and --mechanism. Default: what these give."""
    budgets: str | None = None
    """niss, dp-fedavg: a CSV file with a line for each client, in their order, below one that names columns of
    epsilon, noise_std and tau_squared: a client's own values of these options. An empty cell leaves that of the run.
    Default: that of the run for all."""
    unit_variance: float = 0.01
    """niss: σ², a client splits its noise in v = ⌈σ_k²/σ²⌉ shares."""
    share_count: int | None = None
    """niss: v itself, in place of --unit-variance. Default: what that gives."""
    collusion: float = 0.0
    """niss: ρ, the part of the other clients of a round that may collude with the server; every client keeps as much
    noise as that takes."""
    tau_squared: float | None = None
    """niss: τ², the variance of the noise that a client adds and nothing cancels, over that of its own, in place of
    --collusion. Default: what that gives."""
    paper_noise: bool = False
    """niss: unsafe, multiply received shares by random factors, with τ² = max(2ρ - 1, 0), as the paper does. Some
    coordinates carry little noise then, and by chance more neighbours may collude than ρ of them."""
    coalitions: int = 1
    """niss: groups of clients (k mod their number) that trust one another, and share noise among themselves only."""
    shares: Literal["seeds", "vectors"] = "seeds"
    """niss: how shares travel: 32-byte seeds, or h numbers as in the paper; both sealed."""
    secure_sum: Literal["none", "double", "lightsecagg"] = "none"
    """Whether the server sees each upload, or the sum of those of a round only. double: double masking (Bonawitz et al.
    2017). lightsecagg: LightSecAgg (So et al. 2022), where lost clients cost the server next to nothing."""
    threshold: int | None = None
    """So many clients must be left in a round, and as many together could unmask one. With --secure-sum. Default: 7 of
    10 clients of a round."""
    colluding: int | None = None
    """--secure-sum lightsecagg: so many clients T may tell the server all they know, and it still learns the sum only;
    T < U. With double that holds for T = U - 1. distributed-dp, with either: so many may tell their noise. Default:
    half of the clients of a round."""
    dropout: float = 0.0
    """For experiments: the probability that a client is lost in a round. It is lost between sharing its noise and its
    upload."""
    accountant: Literal["rdp", "prv"] = "rdp"
    """Of the ε that is shown and stops a run; result.json has both. distributed-dp has rdp only."""
    max_epsilon: float | None = None
    """niss, dp-fedavg, distributed-dp: stop before the uploads of some client, or the models where noise is to stay,
    would spend more than this ε in all. Default: no limit."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the clients' computation. Sums are float64."""
    device: str = "cpu"
    """Where clients compute: cpu, cuda, cuda:1, …; auto: each rank takes the GPU of its place on its machine."""

    def __post_init__(self) -> None:
        at_least(
            self, clients=1, rounds=1, share_count=1, threshold=2, colluding=1, coalitions=1, noise_std=0, tau_squared=0
        )
        positive(self, "unit_variance", "dirichlet_alpha", "epsilon", "max_epsilon")
        if not self.clip > 0 or (self.clip == float("inf") and self.method != "fedavg"):
            raise UsageError(f"--clip must be positive, and finite unless --method is fedavg, got {self.clip}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(f"--fraction must be in (0, 1], for a round has m ≤ K clients, got {self.fraction}")
        if not 0 < self.delta < 1:
            raise UsageError(f"--delta must be in (0, 1), got {self.delta}")
        for name in ("collusion", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{flag(name)} must be in [0, 1], got {getattr(self, name)}")
        if self.tau_squared is not None and self.collusion:
            raise UsageError("--tau-squared and --collusion must not be given together: one follows from the other")
        if self.secure_sum == "none" and (self.threshold is not None or self.colluding is not None):
            raise UsageError("--threshold and --colluding must be given with --secure-sum, got none")
        if self.method == "distributed-dp":
            self._check_distributed()
        elif self.secure_sum == "double" and self.colluding is not None:
            raise UsageError(
                "--colluding must be given with --secure-sum lightsecagg: with double it is --threshold - 1"
            )
        if self.budgets is not None and "\n" in self.budgets:
            self._check_budgets(budgets(self.budgets))
        _ = self.training

    def _check_distributed(self) -> None:
        if self.secure_sum == "none":
            raise UsageError(
                "--method distributed-dp must have a --secure-sum: one client's noise hides little, got none"
            )
        if self.clipping != "update":
            raise UsageError(f"--method distributed-dp must have --clipping update, got {self.clipping}")
        if self.budgets is not None:
            raise UsageError("--method distributed-dp must have the same noise for all clients, got --budgets")
        if self.mechanism != "analytic" or self.accountant != "rdp":
            raise UsageError(
                "--method distributed-dp must be without --mechanism and with --accountant rdp: its noise is discrete, "
                f"got {self.mechanism} and {self.accountant}"
            )

    def _check_budgets(self, of: "tuple[Mapping[str, float], ...]") -> None:
        if self.clients is not None and len(of) != self.clients:
            raise UsageError(f"--budgets must have a line for each of {self.clients} clients, got {len(of)}")
        if self.method == "fedavg" or (self.method != "niss" and any("tau_squared" in own for own in of)):
            raise UsageError(f"--budgets must be of options that --method {self.method} has, got noise that it has not")

    def of(self, client: int) -> "Params":
        """What a client is run with: all of this, but for what it has a budget of its own for."""
        return self if self.budgets is None else _of(self, client)

    @property
    def training(self) -> LocalTraining:
        """How a client trains in a round."""
        clip = self.clip if self.clipping == "gradient" else float("inf")
        return LocalTraining(self.epochs, self.batch_size, self.learning_rate, self.momentum, clip)

    @property
    def tau2(self) -> float:
        """τ², as given; else by Theorem 3 max(2ρ - 1, 0), which holds for --paper-noise and many shares."""
        return max(2 * self.collusion - 1, 0.0) if self.tau_squared is None else self.tau_squared

    @property
    def kept(self) -> Kept:
        """How much noise nothing cancels."""
        return Kept(self.tau_squared or 0.0, self.collusion, self.delta, self.coalitions)

    def own_tau2s(self, clients: int) -> NDArray[np.float64]:
        """τ_k² of each client that has its own, NaN for the others; empty without --budgets."""
        if self.budgets is None:
            return np.zeros(0)
        return np.array([budgets(self.budgets)[k].get("tau_squared", np.nan) for k in range(clients)])

    @property
    def accounted_delta(self) -> float:
        """δ of the Gaussian mechanism: without what a bad draw of colluders may take."""
        planned = self.method == "niss" and self.collusion > 0 and not self.paper_noise
        return self.delta * (1 - SPENT) if planned else self.delta

    def leftover(self, m: int, shares: int) -> float:
        """Var of the aggregated noise over Σσ_k², for m clients alike: τ² (Theorem 2), 1 without sharing, or 0.

        Parameters
        ----------
        m : int
            Clients of a round.
        shares : int
            v, at most as many as there are partners.
        """
        if self.method != "niss":
            return 0.0 if self.method == "fedavg" else 1.0
        if not shares:
            return 1.0
        if self.paper_noise:
            return self.tau2
        return self.kept.variance(1.0, shares, [1 / shares] * shares, m, 0)

    def clients_per_round(self, clients: int) -> int:
        """Number of clients in a round: m = max(⌊C·K⌋, 1), or what --fraction says that there are without it."""
        if self.fraction is None:
            return max(int(FRACTION * clients + 1e-9), min(clients, FEWEST))
        return max(int(self.fraction * clients + 1e-9), 1)

    def summing(self, clients: int, h: int) -> Scheme | None:
        """How the uploads of a round, of h numbers each, are added up in secret; None: they are not.

        Raises
        ------
        UsageError
            If a round of K clients is too small for it.
        """
        if self.secure_sum == "none":
            return None
        m, least = self.clients_per_round(clients), self.least(clients)
        if not 2 <= least <= m:
            raise UsageError(f"--secure-sum must have at least {least} clients in a round, got {m}")
        if self.secure_sum == "double":
            return DoubleMasking(clients, least, h)
        return LightSecAgg(clients, least, self.in_league(clients), h)

    def least(self, clients: int) -> int:
        """U, of K clients."""
        m = self.clients_per_round(clients)
        return max(m - m * 3 // 10, 2) if self.threshold is None else self.threshold

    def in_league(self, clients: int) -> int:
        """T, of K clients."""
        half = self.clients_per_round(clients) // 2
        return min(half, self.least(clients) - 1) if self.colluding is None else self.colluding

    def distributed(self, clients: int, h: int) -> Distributed | None:
        """The noise that the clients of a round make together, in updates of h numbers; None: they do not.

        Raises
        ------
        UsageError, HeadroomError
            As `summing`, or if the noise is out of range.
        """
        if self.method != "distributed-dp":
            return None
        return _distributed(self, clients, h)

    def sensitivity(self, weight: float, rows: int) -> float:
        """Δ_k: how far two data sets of a client can take p_k w apart, in the Euclidean norm.

        2 p_k η ζ E ⌈d_k/B⌉ / (1 - μ) if gradients are clipped, 2 p_k ζ if the update is.

        Parameters
        ----------
        weight : float
            p_k.
        rows : int
            d_k.
        """
        if self.clipping == "update":
            return 2 * weight * self.clip
        reach = self.learning_rate * self.clip * self.training.steps(rows) / (1 - self.momentum)
        return 2 * weight * reach

    def std(self, weight: float, rows: int) -> float:
        """σ_k, per coordinate, of a client with weight p_k and d_k rows."""
        if self.method == "fedavg":
            return 0.0
        if self.noise_std is not None:
            return self.noise_std
        return self.sensitivity(weight, rows) * noise_multiplier(self.epsilon, self.accounted_delta, self.mechanism)

    def partners(self, m: int) -> int:
        """Clients that one of the m of a round can share noise with, if its coalition has its part of them."""
        return self.kept.partners(m)

    def shares_wanted(self, clients: int, rows: int) -> int:
        """Number of shares v, for K clients with equally many of the rows: of the one that wants most."""
        weight, each = 1 / self.clients_per_round(clients), -(-rows // clients)
        stds = {self.of(k).std(weight, each) for k in (range(clients) if self.budgets else range(1))}
        return share_count(max(stds) ** 2, self.unit_variance, self.share_count or 0)


@lru_cache
def _distributed(params: Params, clients: int, h: int) -> Distributed:
    scheme, m = params.summing(clients, h), params.clients_per_round(clients)
    assert scheme is not None
    own = (params.in_league(clients), h, params.clip, params.noise_std, params.epsilon, params.delta)
    return Distributed(scheme, m, *own)


@lru_cache(maxsize=1 << 16)
def _of(params: Params, client: int) -> Params:
    own: dict[str, Any] = dict(budgets(params.budgets or "")[client])
    if "tau_squared" in own:
        own["collusion"] = 0.0  # it follows from the other
    if "epsilon" in own and "noise_std" not in own:
        own["noise_std"] = None
    return replace(params, budgets=None, **own)
