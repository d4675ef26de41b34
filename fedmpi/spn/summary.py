"""What a run says to people."""

from typing import Any

from fedmpi.data import Dataset
from fedmpi.spn.params import Params


def heading(params: Params, clients: int, data: Dataset) -> str:
    """What is about to run, for people."""
    what = {
        "spn": f"secret networks of {params.bits} bits, α₂ = {params.alpha2:g}",
        "fedavg": "no defence: not private",
        "dp": f"{params.noise_kind} noise with σ = {params.noise_std:g} on every gradient",
        "ppdl": f"the largest {params.share_fraction:.0%} of each change is shared"
        + (f", {params.noise_kind} noise with σ = {params.noise_std:g}" if params.noise_std else ""),
        "standalone": "each for itself",
    }[params.method]
    return (
        f"{params.method} with K={clients} clients, {params.aggregation}, {params.model}: {what}\n"
        f"{data.name}: {len(data.X_train)} training rows ({params.partition}) and {len(data.X_test)} test rows, "
        f"{data.X_train.shape[1]} features, {len(data.classes)} classes"
    )


def plan(params: Params, clients: int, ranks: int, parameters: int) -> list[str]:
    """Roles and bytes per round, for --dry-run."""
    turns = clients if params.aggregation == "round-robin" else 1
    return [
        "rank 0: server, sees every change and the model",
        f"ranks 1 to {ranks - 1}: hosts of {clients} clients"
        + (", with secret networks that no message holds" if params.method == "spn" else ""),
        f"each of {params.rounds} rounds, in {turns} turn{'s' if turns > 1 else ''}: {8 * parameters:,} bytes to a "
        "host, and as many from each client",
    ]


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """The end of a run, for people."""
    metrics, seconds = summary["metrics"], summary["seconds"]
    lines = [f"round {f['round']}: client {f['client']} {f['reason']}" for f in summary["failures"][:20]]
    lines.append(
        f"{summary['method']} test accuracy {metrics['test_accuracy']:.4f}   {metrics['rounds']} rounds, "
        f"{seconds['total']:.2f} s, {seconds['round']:.2f} s each"
    )
    return lines
