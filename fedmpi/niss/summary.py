"""What a run says to people."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.federated.training import FederatedTraining
from fedmpi.learn import sample, weights
from fedmpi.niss.accounting import ACCOUNTANTS, Ledger, noise_of_model
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import FIRST_HOST, State

NAMES = {"double": "double masking", "lightsecagg": "LightSecAgg"}
"""Of secure sums, for people."""


class NissWords(FederatedTraining[Params, State]):
    """What a training tells people before it begins, in place of it (--dry-run), and when it is over."""

    def heading(self) -> list[str]:
        """What is about to run."""
        params, clients = self.params, self.clients
        m = params.clients_per_round(clients)
        noise = {
            "niss": f"noise in shares that cancel, τ² = {self.part_kept:g}",
            "dp-fedavg": "noise that stays",
            "distributed-dp": "noise that all make together, and that stays",
            "fedavg": "no noise: not private",
        }[params.method]
        lines = [f"{params.method} with K={clients} clients, m={m} in a round: {noise}", self.rows_line()]
        if params.budgets is not None:
            lines.append("each client has the noise that its line of --budgets asks for")
        wanted, partners = params.shares_wanted(clients, len(self.data.X_train)), params.partners(m)
        if params.method != "fedavg" and params.mechanism == "classic" and params.epsilon >= 1 and not params.noise_std:
            lines.append(f"WARNING: the classic mechanism is proved for epsilon below 1, got {params.epsilon:g}")
        if (scheme := params.summing(clients, len(self.flat))) is not None:
            lines.append(
                f"the server sees sums only, by {NAMES[scheme.name]}: at least {scheme.threshold} of the {m} clients "
                f"of a round must be left, and up to {scheme.colluding} may collude with an honest-but-curious server"
            )
        if (together := params.distributed(clients, len(self.flat))) is not None:
            U, T = together.scheme.threshold, together.colluding
            lines.append(
                f"ε counts the noise of {U - T} clients: {U} are left, of whom {T} may tell the server their own"
            )
        if params.method == "niss" and partners == 0:
            lines.append(f"WARNING: {self.alone()}")
        elif params.method == "niss" and wanted > partners:
            lines.append(f"{wanted} shares are wanted, but at most {partners} other clients are there: lowered to it")
        return lines

    @property
    def part_kept(self) -> float:
        """τ², for clients alike: the part of the noise in the sum that nothing cancels."""
        params, m = self.params, self.params.clients_per_round(self.clients)
        if params.method != "niss":
            return params.leftover(m, 1)
        shares = min(params.shares_wanted(self.clients, len(self.data.X_train)), params.partners(m))
        rows, each = -(-len(self.data.X_train) // self.clients), [params.of(k) for k in range(self.clients)]
        if params.budgets is None or not rows:
            return params.leftover(m, shares)
        variances = [own.std(1 / m, rows) ** 2 for own in each]  # of Theorem 2: Στ_k²σ_k² of Σσ_k²
        left = sum(own.leftover(m, shares) * variance for own, variance in zip(each, variances, strict=True))
        return left / (sum(variances) or 1.0)

    @property
    def accountants(self) -> tuple[str, ...]:
        """Those that hold for the noise: PRV is of Gaussian noise, not of a sum of discrete noise."""
        return ACCOUNTANTS if self.params.method != "distributed-dp" else ("rdp",)

    @property
    def together_told(self) -> dict[str, Any]:
        """What clients that make noise together agree on, for result.json."""
        together = self.params.distributed(self.clients, len(self.flat))
        if together is None:
            return {}
        known = {"noise_std": together.std, "grid": together.unit, "sensitivity": together.sensitivity}
        return {"distributed": known | {"survivors": together.scheme.threshold, "colluding": together.colluding}}

    def noise_left(self, rows: NDArray[np.int64], chosen: NDArray[Any]) -> float:
        """What a round of these clients leaves in the model, if none is lost; `rows` of all clients."""
        return noise_of_model(self.params, rows[chosen], chosen, self.clients, len(self.flat))

    @property
    def server_sees(self) -> str:
        """Of a round's uploads."""
        return "each client's update" if self.params.secure_sum == "none" else "the sum of each round's updates"

    def alone(self) -> str:
        """What is wrong where a round has one client, or coalitions of one."""
        m = self.params.clients_per_round(self.clients)
        return (
            "a client that is alone in its round shares noise with nobody, and all of it stays: "
            f"raise --fraction or --clients, got {m} of {self.clients} in {self.params.coalitions} coalitions"
        )

    def drawn(self, t: int) -> NDArray[np.uint32]:
        """The clients of a round: public."""
        return sample(self.job.seed, t, self.clients, self.params.clients_per_round(self.clients))

    def plan(self) -> list[str]:
        """Roles, bytes per round, and a forecast of ε, for clients of equal sizes; for --dry-run."""
        params, clients, parameters = self.params, self.clients, len(self.flat)
        m, rows = params.clients_per_round(clients), -(-len(self.data.X_train) // clients)
        lines = [
            f"rank 0: server, sees {self.server_sees}, and the model",
            "rank 1: tracker, sees who is alive, never a model or noise",
            f"ranks {FIRST_HOST} to {self.ch.size - 1}: hosts of {clients} clients",
            f"each of {params.rounds} rounds: {8 * parameters:,} bytes to a rank, and as many from each client",
            *self.summing_lines(),
        ]
        if params.method == "fedavg":
            return lines
        if not rows:
            return [*lines, "noise and ε follow from the number of rows of each client, which no dry run knows"]
        p = weights([rows] * m)[0]
        stds, sensitivity = sorted({params.of(k).std(p, rows) for k in range(clients)}), params.sensitivity(p, rows)
        if params.method == "niss":
            v = min(params.shares_wanted(clients, len(self.data.X_train)), params.partners(m))
            size = 32 if params.shares == "seeds" else 8 * parameters
            lines.append(f"shares of noise: {v} of {size:,} bytes from each client, and 16 for the seal of each")
        members = [self.drawn(t) for t in range(params.rounds)]
        noise = [self.noise_left(np.full(clients, rows), chosen) for chosen in members]
        ledger = Ledger.of_training(params, np.full(clients, rows), noise, members, parameters)
        std = f"σ = {stds[0]:.4g}" if len(stds) == 1 else f"σ from {stds[0]:.4g} to {stds[-1]:.4g}"
        if (together := params.distributed(clients, parameters)) is not None:
            std, sensitivity = f"σ = {together.spread(1) / m:.4g}", together.sensitivity * together.unit / m
        lines.append(f"sensitivity Δ = {sensitivity:.4g}, noise of an upload {std} per coordinate")
        lines.append(
            f"ε of {self.together(ledger.uploads)}: {ledger.upload(params.accountant):.4g}; "
            f"of the published models: {ledger.model(params.accountant):.4g}; δ = {params.delta:g}"
        )
        return lines

    def summing_lines(self) -> list[str]:
        """What a secure sum costs."""
        m, scheme = self.params.clients_per_round(self.clients), self.params.summing(self.clients, len(self.flat))
        if scheme is None:
            return []
        up, told = (m - 1) * scheme.envelope_bytes, 4 * scheme.told(m)
        return [f"the secure sum: {up:,} bytes sealed for the others, and {told:,} at the end, from each client"]

    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """Who was lost, how good the model is, and ε in both views."""
        lines, views = super().closing_lines(summary), []
        if privacy := summary.get("privacy"):
            for view, name in (("upload", self.together(privacy["uploads"])), ("model", "the published models")):
                value = privacy[view]["prv" if "prv" in self.accountants else "rdp"]
                views.append(f"ε = {value:.4g} for {name}" if value is not None else f"no ε for {name}")
            lines.append(f"{', '.join(views)} (δ = {privacy['delta']:g}, {self.accountants[-1].upper()})")
            for view, name in (("upload", "of uploads"), ("model", "of the models")) if "clients" in privacy else ():
                each = [float("inf") if one[view] is None else one[view] for one in privacy["clients"]]
                lines.append(
                    f"ε {name}, client by client: from {min(each):.4g} to {max(each):.4g} (result.json has all)"
                )
        return lines

    def together(self, uploads: int) -> str:
        """The uploads that an ε is of, and what --epsilon is of."""
        params, s = self.params, "s" * (uploads != 1)
        each = "" if params.noise_std is not None or params.budgets else f" (--epsilon {params.epsilon:g} is of each)"
        if params.method == "distributed-dp":
            return f"the sums of {uploads} round{s} together{each}"
        return f"the {uploads} upload{s} of one client together{each}"
