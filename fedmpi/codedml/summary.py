"""What a run says to people."""

from typing import Any

from fedmpi.codedml.params import Params
from fedmpi.codedml.precision import Precision
from fedmpi.data import Dataset


def layout(params: Params, workers: int) -> dict[str, int]:
    """How the workers are used: N, T, and K and R of the code, or G groups."""
    if params.method == "plain":
        return {}
    if params.method == "coded":
        code = params.code(workers)
        return {"N": workers, "T": code.privacy, "K": code.parallelization, "R": code.recovery_threshold}
    T, groups = params.groups(workers)
    return {"N": workers, "T": T, "G": len(groups)}


def heading(params: Params, numbers: dict[str, int], data: Dataset) -> str:
    """What is about to run, for people."""
    what = (
        f"{data.name}: {len(data.X_train)} training and {len(data.X_test)} test rows, "
        f"{data.X_train.shape[1]} features, {' '.join(['classes', *data.classes]) if data.classes else 'regression'}"
    )
    if params.method == "plain":
        return f"plain training on the master: not private\n{what}"
    private = f"private against any T={numbers['T']} of them"
    if params.method == "coded":
        return (
            f"CodedPrivateML with N={numbers['N']} workers: K={numbers['K']} blocks, {private}, "
            f"decoded from the fastest R={numbers['R']}\n{what}"
        )
    return f"{params.method.upper()} with N={numbers['N']} workers in G={numbers['G']} groups, {private}\n{what}"


def plan(params: Params, numbers: dict[str, int], data: Dataset, precision: Precision) -> list[str]:
    """The roles and the bytes of arrays that a run would exchange with the master, for --dry-run."""
    if params.method == "plain":
        return []
    outputs = 1 if len(data.classes) <= 2 else len(data.classes)
    columns = data.X_train.shape[1] + params.has_ones
    rows = -(-len(data.X_train) // numbers.get("K", numbers.get("G", 1)))
    element = 4 * len(precision.primes)
    if params.degree is None:
        down = up = element * (columns + rows) * outputs
    else:
        down, up = element * columns * params.degree * outputs, element * columns * outputs
    at_most = "" if params.tolerance == 0 else "at most "
    lines = [
        f"rank 0: master, sees everything; ranks 1 to {numbers['N']}: workers, see uniform field elements",
        precision.text(),
        f"once: {element * rows * columns:,} bytes of data to each worker",
        f"each of {at_most}{params.iterations} iterations: {down:,} bytes to and {up:,} bytes from each worker",
    ]
    if params.method == "coded" and params.degree is not None:
        blocks = numbers["K"] + numbers["T"] - 1
        lines.append(
            f"a polynomial of degree {params.degree} takes R = {params.power}·(K+T-1)+1 = {params.power * blocks + 1} "
            f"answers; the sigmoid itself, without -r, takes 2·(K+T-1)+1 = {2 * blocks + 1}"
        )
    return lines


def closing_lines(summary: dict[str, Any]) -> list[str]:
    """The end of a run, for people."""
    metrics, seconds = summary["metrics"], summary["seconds"]
    score = "test_r2" if summary["params"]["model"] == "linear" else "test_accuracy"
    name = "test R²" if score == "test_r2" else "test accuracy"
    lines = []
    for failure in summary["failures"]:
        when = "" if failure["iteration"] is None else f"iteration {failure['iteration']}: "
        lines.append(f"{when}worker (rank {failure['rank']}) {failure['reason']}")
    lines += [f"{summary['method']:<6} {name} {metrics[score]:.4f}   {seconds['total']:.2f} s"]
    if "plain" in metrics:
        lines.append(f"plain  {name} {metrics['plain'][score]:.4f}   {seconds['plain']:.2f} s (not private)")
    if "headroom_bits" in metrics:
        sent = summary["bytes"]["sent"]["master"] / 1e6
        done = metrics["iterations"]
        ended = " (converged)" if metrics["converged"] else ""
        headroom = f"headroom {metrics['headroom_bits']:.1f} bits"
        lines.append(f"{done} iterations{ended}, {headroom}, {sent:.1f} MB sent by the master")
    return lines
