"""What a run says to people."""

from fedmpi.federated.training import FederatedTraining
from fedmpi.spn.params import Params
from fedmpi.spn.protocol import State


class SpnWords(FederatedTraining[Params, State]):
    """What a training tells people before it begins, and in place of it (--dry-run)."""

    def heading(self) -> list[str]:
        """What is about to run."""
        params = self.params
        what = {
            "spn": f"secret networks of {params.bits} bits, α₂ = {params.alpha2:g}",
            "fedavg": "no defence: not private",
            "dp": f"{params.noise_kind} noise with σ = {params.noise_std:g} on every gradient",
            "ppdl": f"the largest {params.share_fraction:.0%} of each change is shared"
            + (f", {params.noise_kind} noise with σ = {params.noise_std:g}" if params.noise_std else ""),
            "standalone": "each for itself",
        }[params.method]
        first = f"{params.method} with K={self.clients} clients, {params.aggregation}, {params.model}: {what}"
        return [first, self.rows_line()]

    def plan(self) -> list[str]:
        """Roles and bytes per round, for --dry-run."""
        params, clients = self.params, self.clients
        turns = clients if params.aggregation == "round-robin" else 1
        return [
            "rank 0: server, sees every change and the model",
            f"ranks 1 to {self.ch.size - 1}: hosts of {clients} clients"
            + (", with secret networks that no message holds" if params.method == "spn" else ""),
            f"each of {params.rounds} rounds, in {turns} turn{'s' if turns > 1 else ''}: {8 * len(self.flat):,} bytes "
            "to a host, and as many from each client",
        ]
