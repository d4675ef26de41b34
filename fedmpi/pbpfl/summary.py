"""What a run says to people."""

from typing import Any

from fedmpi.net import Channel
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.problem import Problem
from fedmpi.pbpfl.structure import Structure

_METHODS = {
    "pbpfl": "clients train perturbed weights; the server sees each client's gradient",
    "pbpfl-masked": "clients train perturbed weights; the server sees the sum of their gradients only",
    "fedavg-mse": "in the clear, squared error",
    "fedavg-ce": "in the clear, cross-entropy",
}


def heading(problem: Problem, clients: int) -> str:
    """What is about to run."""
    params, data = problem.params, problem.data
    what = f"{len(data.classes)} classes" if data.classes else "a value to predict"
    rows = f"{len(data.X_train)} training rows ({params.partition}), {len(data.X_test)} for validation and testing"
    return (
        f"{params.method}, {params.model}, K={clients} clients: {_METHODS[params.method]}\n"
        f"{data.name}: {rows}, inputs {'x'.join(map(str, problem.input_shape))}, {what}"
    )


def model_bytes(params: Params, parameters: int) -> int:
    """Bytes of the model in the clear."""
    return parameters * params.item_bytes


def upload_bytes(params: Params, parameters: int) -> int:
    """Bytes of one client's terms."""
    item = params.ring_bits // 8 if params.masked else params.item_bytes
    return params.terms * parameters * item


def plan(problem: Problem, structure: Structure, clients: int, ranks: int) -> list[str]:
    """Roles and bytes per round, for --dry-run."""
    params, h = problem.params, structure.parameters
    down, up = model_bytes(params, h), upload_bytes(params, h)
    rounds = params.total_rounds(max(map(len, problem.clients(clients))))
    lines = [
        "rank 0: server, sees the model" + (" and sums of gradients" if params.masked else " and every gradient"),
        f"ranks 1 to {ranks - 1}: hosts of {clients} clients, see "
        + ("the model up to a positive scaling of its units" if params.perturbed else "the model"),
        f"each of {rounds} rounds: {down:,} bytes to a host, {up:,} from each client ({up / down:.1f} x the model)",
    ]
    if params.masked:
        lines.append(f"at least {params.least_clients(clients)} clients must be left in a round")
    return lines


def per_message(ch: Channel, params: Params, parameters: int, clients: int) -> dict[str, float]:
    """Bytes that went each way, measured, as multiples of the model: to a host, and from a client."""
    model, meter = model_bytes(params, parameters), ch.meter
    name = "Masked" if params.masked else "Terms"
    hosts = max(1, ch.size - 1)
    rounds = meter.messages_sent["Round"] / hosts
    if not rounds:
        return {}
    return {
        "model_bytes": model,
        "server_to_client": meter.bytes_sent["Round"] / meter.messages_sent["Round"] / model,
        "client_to_server": meter.bytes_received[name] / (rounds * clients) / model,
    }


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """The end of a run."""
    metrics, seconds = summary["metrics"], summary["seconds"]
    lines = [f"round {lost['round']}: client {lost['client']}: {lost['reason']}" for lost in summary["failures"][:20]]
    if len(summary["failures"]) > 20:
        lines.append(f"and {len(summary['failures']) - 20} more, in result.json")
    accuracy = f", accuracy {metrics['test_accuracy']:.4f}" if "test_accuracy" in metrics else ""
    lines.append(
        f"{summary['method']} test MSE {metrics['test_mse']:.4f}{accuracy}   {metrics['rounds']} rounds, "
        f"{seconds['total']:.2f} s, {seconds['round']:.2f} s each"
    )
    if traffic := metrics["communication"]:
        lines.append(
            f"{traffic['server_to_client']:.2f} x the model to a client, {traffic['client_to_server']:.2f} x from it"
        )
    return lines
