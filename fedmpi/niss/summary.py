"""What a run says to people."""

from typing import Any

from fedmpi.data import Dataset
from fedmpi.learn import weights
from fedmpi.niss.accounting import Ledger
from fedmpi.niss.assignment import share_count
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import FIRST_HOST


def heading(params: Params, clients: int, data: Dataset) -> str:
    """What is about to run."""
    m = params.clients_per_round(clients)
    noise = {
        "niss": f"noise in shares that cancel, τ² = {params.tau2:g}",
        "dp-fedavg": "noise that stays",
        "fedavg": "no noise: not private",
    }[params.method]
    lines = [
        f"{params.method} with K={clients} clients, m={m} in a round: {noise}",
        f"{data.name}: {len(data.X_train)} training rows ({params.partition}) and {len(data.X_test)} test rows, "
        f"{data.X_train.shape[1]} features, {len(data.classes)} classes",
    ]
    if params.method != "fedavg" and params.mechanism == "classic" and params.epsilon >= 1 and not params.noise_std:
        lines.append(f"WARNING: the classic mechanism is proved for epsilon below 1, got {params.epsilon:g}")
    if params.method == "niss" and others(params, m) == 0:
        lines.append(
            f"WARNING: a client that is alone in its round shares noise with nobody, and all of it stays: "
            f"raise --fraction, got {params.fraction:g} of {clients} clients"
        )
    elif params.method == "niss" and (wanted := shares_wanted(params, clients, data)) > others(params, m):
        lines.append(
            f"{wanted} shares are wanted, but at most {others(params, m)} other clients are there: lowered to it"
        )
    return "\n".join(lines)


def others(params: Params, m: int) -> int:
    """Clients that one of the m of a round can share with, if its coalition has its part of them."""
    return -(-m // params.coalitions) - 1


def shares_wanted(params: Params, clients: int, data: Dataset) -> int:
    """Number of shares v, for clients of equal sizes."""
    m = params.clients_per_round(clients)
    std = params.std(1 / m, -(-len(data.X_train) // clients))
    return share_count(std**2, params.unit_variance, params.share_count or 0)


def plan(params: Params, clients: int, ranks: int, parameters: int, data: Dataset) -> list[str]:
    """Roles, bytes per round, and a forecast of ε, for clients of equal sizes; for --dry-run."""
    m, rows = params.clients_per_round(clients), -(-len(data.X_train) // clients)
    lines = [
        "rank 0: server, sees every upload and the model",
        "rank 1: tracker, sees who is alive, never a model or noise",
        f"ranks {FIRST_HOST} to {ranks - 1}: hosts of {clients} clients",
        f"each of {params.rounds} rounds: {8 * parameters:,} bytes to a rank, and as many from each client",
    ]
    if params.method == "fedavg":
        return lines
    p = weights([rows] * m)[0]
    std, sensitivity = params.std(p, rows), params.sensitivity(p, rows)
    if params.method == "niss":
        v = min(shares_wanted(params, clients, data), others(params, m))
        size = 32 if params.shares == "seeds" else 8 * parameters
        lines.append(f"shares of noise: {v} of {size:,} bytes from each client, and 16 for the seal of each")
    noise = (params.leftover * m) ** 0.5 * std / sensitivity
    ledger = Ledger.of(
        std / sensitivity, [-(-params.rounds * m // clients)], [noise] * params.rounds, m / clients, params.delta
    )
    lines.append(f"sensitivity Δ = {sensitivity:.4g}, noise of an upload σ = {std:.4g} per coordinate")
    lines.append(
        f"ε of one client's uploads after {ledger.uploads} rounds: {ledger.upload(params.accountant):.4g}; "
        f"of the published models: {ledger.model(params.accountant):.4g}; δ = {params.delta:g}"
    )
    return lines


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """The end of a run."""
    metrics, seconds = summary["metrics"], summary["seconds"]
    lines = []
    for failure in summary["failures"][:20]:
        lines.append(f"round {failure['round']}: client {failure['client']} {failure['reason']}")
    if len(summary["failures"]) > 20:
        lines.append(f"and {len(summary['failures']) - 20} more, in result.json")
    lines.append(
        f"{summary['method']} test accuracy {metrics['test_accuracy']:.4f}   {metrics['rounds']} rounds, "
        f"{seconds['total']:.2f} s, {seconds['round']:.2f} s each"
    )
    if "privacy" in summary:
        views = []
        for view, name in (("upload", "one client's uploads"), ("model", "the published models")):
            value = summary["privacy"][view]["prv"]
            views.append(f"ε = {value:.4g} for {name}" if value is not None else f"no ε for {name}")
        lines.append(f"{', '.join(views)} (δ = {summary['privacy']['delta']:g}, PRV)")
    return lines
