"""What a run says to people."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.federated.training import FederatedTraining
from fedmpi.learn import sample, weights
from fedmpi.niss.accounting import Ledger, noise_of_model
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import FIRST_HOST, State


class NissWords(FederatedTraining[Params, State]):
    """What a training tells people before it begins, in place of it (--dry-run), and when it is over."""

    def heading(self) -> list[str]:
        """What is about to run."""
        params, clients = self.params, self.clients
        m = params.clients_per_round(clients)
        noise = {
            "niss": f"noise in shares that cancel, τ² = {self.part_kept:g}",
            "dp-fedavg": "noise that stays",
            "fedavg": "no noise: not private",
        }[params.method]
        lines = [f"{params.method} with K={clients} clients, m={m} in a round: {noise}", self.rows_line()]
        wanted, partners = params.shares_wanted(clients, len(self.data.X_train)), params.partners(m)
        if params.method != "fedavg" and params.mechanism == "classic" and params.epsilon >= 1 and not params.noise_std:
            lines.append(f"WARNING: the classic mechanism is proved for epsilon below 1, got {params.epsilon:g}")
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
        return params.leftover(m, min(params.shares_wanted(self.clients, len(self.data.X_train)), params.partners(m)))

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
            "rank 0: server, sees every upload and the model",
            "rank 1: tracker, sees who is alive, never a model or noise",
            f"ranks {FIRST_HOST} to {self.ch.size - 1}: hosts of {clients} clients",
            f"each of {params.rounds} rounds: {8 * parameters:,} bytes to a rank, and as many from each client",
        ]
        if params.method == "fedavg":
            return lines
        if not rows:
            return [*lines, "noise and ε follow from the number of rows of each client, which no dry run knows"]
        p = weights([rows] * m)[0]
        std, sensitivity = params.std(p, rows), params.sensitivity(p, rows)
        if params.method == "niss":
            v = min(params.shares_wanted(clients, len(self.data.X_train)), params.partners(m))
            size = 32 if params.shares == "seeds" else 8 * parameters
            lines.append(f"shares of noise: {v} of {size:,} bytes from each client, and 16 for the seal of each")
        noise = noise_of_model(params, np.full(m, rows))
        members = [self.drawn(t) for t in range(params.rounds)]
        ledger = Ledger.of(std / sensitivity, [noise] * params.rounds, members, clients, params.accounted_delta)
        lines.append(f"sensitivity Δ = {sensitivity:.4g}, noise of an upload σ = {std:.4g} per coordinate")
        lines.append(
            f"ε of one client's uploads after {ledger.uploads} rounds: {ledger.upload(params.accountant):.4g}; "
            f"of the published models: {ledger.model(params.accountant):.4g}; δ = {params.delta:g}"
        )
        return lines

    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """Who was lost, how good the model is, and ε in both views."""
        lines, views = super().closing_lines(summary), []
        if privacy := summary.get("privacy"):
            for view, name in (("upload", "one client's uploads"), ("model", "the published models")):
                value = privacy[view]["prv"]
                views.append(f"ε = {value:.4g} for {name}" if value is not None else f"no ε for {name}")
            lines.append(f"{', '.join(views)} (δ = {privacy['delta']:g}, PRV)")
        return lines
