"""What a run says to people."""

from typing import Any

from fedmpi.federated.training import FederatedTraining
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.problem import Problem
from fedmpi.pbpfl.protocol import State

_METHODS = {
    "pbpfl": "clients train perturbed weights; the server sees each client's gradient",
    "pbpfl-masked": "clients train perturbed weights; the server sees the sum of their gradients only",
    "fedavg-mse": "in the clear, squared error",
    "fedavg-ce": "in the clear, cross-entropy",
}


class PbpflWords(FederatedTraining[Params, State]):
    """What a training tells people before it begins, in place of it (--dry-run), and when it is over."""

    problem: Problem

    def heading(self) -> list[str]:
        """What is about to run."""
        params, data = self.params, self.data
        what = f"{len(data.classes)} classes" if data.classes else "a value to predict"
        first = f"{params.method}, {params.model}, K={self.clients} clients: {_METHODS[params.method]}"
        if self.options.schema is not None:
            return [first, self.rows_line()]
        rows = f"{len(data.X_train)} training rows ({params.partition}), {len(data.X_test)} for validation and testing"
        return [
            first,
            f"{data.name}: {rows}, inputs {'x'.join(map(str, self.problem.input_shape))}, {what}",
        ]

    def plan(self) -> list[str]:
        """Roles and bytes per round, for --dry-run."""
        params, down = self.params, len(self.flat) * self.params.item_bytes
        up = params.terms * len(self.flat) * (params.ring_bits // 8 if params.masked else params.item_bytes)
        lines = [
            "rank 0: server, sees the model" + (" and sums of gradients" if params.masked else " and every gradient"),
            f"ranks 1 to {self.ch.size - 1}: hosts of {self.clients} clients, see "
            + ("the model up to a positive scaling of its units" if params.perturbed else "the model"),
            f"each of {self.steps} rounds: {down:,} bytes to a host, {up:,} from each client "
            f"({up / down:.1f} x the model)",
        ]
        if params.masked:
            lines.append(f"at least {params.least_clients(self.clients)} clients must be left in a round")
        return lines

    def communication(self) -> dict[str, float]:
        """Bytes that went each way, measured, as multiples of the model: to a host, and from a client."""
        model, meter = len(self.flat) * self.params.item_bytes, self.ch.meter
        rounds = meter.messages_sent["Round"] / max(1, self.ch.size - 1)
        if not rounds:
            return {}
        received = meter.bytes_received["Masked" if self.params.masked else "Terms"]
        return {
            "model_bytes": model,
            "server_to_client": meter.bytes_sent["Round"] / meter.messages_sent["Round"] / model,
            "client_to_server": received / (rounds * self.clients) / model,
        }

    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """Who was lost, how good the model is, and what it took."""
        lines = super().closing_lines(summary)
        if traffic := summary["metrics"]["communication"]:
            to, back = traffic["server_to_client"], traffic["client_to_server"]
            lines.append(f"{to:.2f} x the model to a client, {back:.2f} x from it")
        return lines
