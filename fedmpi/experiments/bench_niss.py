"""A round of federated averaging, timed beside a plain torch loop, Flower's simulation and Apple's pfl."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.data import load
from fedmpi.errors import FedmpiError
from fedmpi.launcher import environment, mpirun_command

CLIENTS, BATCH_SIZE, LEARNING_RATE, SEED = 100, 10, 0.01, 0

WORK = {"mlp": (30, 5), "cnn": (10, 1)}
"""Model → clients of a round and their epochs."""

PACKAGES = {"torch": "torch", "flower": "flwr", "pfl": "pfl"}
"""Peer → what its Python must have."""


def niss(ranks: int, rounds: int, model: str, pythons: dict[str, Path]) -> dict[str, Any]:
    """A round of federated averaging on MNIST: 100 clients, batches of 10; MLP, 30 × 5 epochs, or CNN, 10 × 1.

    Parameters
    ----------
    ranks : int
        Server, tracker and hosts.
    rounds : int
        Of each run; start-up is not counted.
    model : str
        mlp or cnn.
    pythons : dict
        Peer → a Python that has it and torch; by default ours. The peers are timed before and after us, in as many
        processes as there are cores, each in one thread; one that is not installed is left out.
    """
    found = {peer: str(pythons.get(peer, sys.executable)) for peer in PACKAGES}
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
    """What the peers read; see `bench_peers`. The first of their rounds is a rehearsal."""
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
    script, cores = str(Path(__file__).with_name(f"bench_{peer}.py")), str(os.cpu_count())
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


def last_json(command: Sequence[str]) -> dict[str, Any]:
    """What a program prints as its last line."""
    with environment() as variables:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise FedmpiError(f"{command[0]} must print JSON, got exit code {done.returncode}: {said}")
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures
