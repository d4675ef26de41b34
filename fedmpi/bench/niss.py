"""A round of federated averaging, timed beside a plain torch loop, Flower's simulation and Apple's pfl."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.bench.timing import last_json
from fedmpi.data import load
from fedmpi.machines.launcher import mpirun_command

CLIENTS, BATCH_SIZE, LEARNING_RATE, SEED = 100, 10, 0.01, 0

WORK = {"mlp": (30, 5), "cnn": (10, 1)}
"""Model → clients of a round and their epochs."""

PACKAGES = {"torch": "torch", "flower": "flwr", "pfl": "pfl"}
"""Peer → what its Python must have."""
FILES = {"torch": "torch_loop.py", "flower": "flower.py", "pfl": "apple_pfl.py"}
"""Peer → its file in `peers`."""


def measure(
    ranks: int, rounds: int, model: str, flower_python: Path | None = None, pfl_python: Path | None = None
) -> dict[str, Any]:
    """A round of federated averaging on MNIST: 100 clients, batches of 10; MLP, 30 × 5 epochs, or CNN, 10 × 1.

    Parameters
    ----------
    ranks : int
        Server, tracker and hosts.
    rounds : int
        Of each run; start-up is not counted.
    model : str
        mlp or cnn.
    flower_python, pfl_python : Path, optional
        A Python that has the peer and torch; by default ours. The peers are timed before and after us, in as many
        processes as there are cores, each in one thread; one that is not installed is left out.
    """
    pythons = {"torch": None, "flower": flower_python, "pfl": pfl_python}
    found = {peer: str(python or sys.executable) for peer, python in pythons.items()}
    peers = [peer for peer, python in found.items() if has(python, PACKAGES[peer])]
    for peer in sorted(PACKAGES.keys() - peers):
        print(f"{peer} is left out: {found[peer]} has no {PACKAGES[peer]}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_work(folder, rounds, model)

        def theirs() -> dict[str, dict[str, Any]]:
            return {peer: last_json(program(peer, found[peer], name)) for peer in peers}

        before = theirs()
        figures = {method: ours(folder, ranks, rounds, model, method) for method in ("fedavg", "niss")}
        after = theirs()
    for peer in peers:
        runs = [before[peer], after[peer]]
        keys = [key for key in runs[0] if key.endswith("seconds")]
        medians = {key: float(np.median([s for run in runs for s in run[key]])) for key in keys}
        figures[peer] = {**medians, "accuracy": runs[-1]["accuracy"]}
        for method in ("fedavg", "niss"):
            figures[method][f"{peer}_ratio"] = medians["seconds"] / figures[method]["seconds"]
    return figures


def has(python: str, package: str) -> bool:
    """Whether a Python can import a package."""
    looks = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    try:
        return subprocess.run([python, "-c", looks], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def write_work(folder: Path, rounds: int, model: str) -> None:
    """What the peers read; see `averaging`. The first of their rounds is a rehearsal."""
    from fedmpi.learn import client_rows, sample

    data, (per_round, epochs) = load("mnist", seed=SEED), WORK[model]
    order = np.concatenate(client_rows("iid", data.y_train, CLIENTS, SEED))
    for key, values in (("X", data.X_train[order]), ("y", data.y_train[order])):
        np.save(folder / f"{key}.npy", values)
    np.save(folder / "X_test.npy", data.X_test)
    np.save(folder / "y_test.npy", data.y_test)
    chosen = [sample(SEED, t, CLIENTS, per_round).tolist() for t in range(rounds)]
    work = {
        "model": model,
        "clients": CLIENTS,
        "per_round": per_round,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "seed": SEED,
        "chosen": chosen[:1] + chosen,
    }
    (folder / "work.json").write_text(json.dumps(work))


def program(peer: str, python: str, folder: str) -> list[str]:
    """The command of a peer, on all cores."""
    script, cores = str(Path(__file__).with_name("peers") / FILES[peer]), str(os.cpu_count())
    if peer == "pfl":
        return [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", cores, script, folder]
    return [python, script, folder, cores]


def ours(folder: Path, ranks: int, rounds: int, model: str, method: str) -> dict[str, Any]:
    """Seconds of a round and accuracy of a method."""
    per_round, epochs = WORK[model]
    options = ["--dataset", "mnist", "--model", model, "--clients", str(CLIENTS), "--method", method]
    options += ["--fraction", str(per_round / CLIENTS), "--epochs", str(epochs), "--rounds", str(rounds)]
    options += ["--noise-std", "0.01", "--share-count", "8"] if method == "niss" else ["--clip", "inf"]
    options += ["--seed", str(SEED), "--json", "--out", str(folder / method)]
    command, _ = mpirun_command(ranks, [sys.executable, "-m", "fedmpi.niss", *options])
    result = last_json(command)
    return {"seconds": result["seconds"]["round"], "accuracy": result["metrics"]["test_accuracy"]}
