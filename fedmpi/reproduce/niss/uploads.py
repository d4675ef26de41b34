"""What is run for Figure 4, and attacked: deep leakage from the uploads of FedAvg, DP-FedAvg and NISS.

Every client holds one row and makes one step, so that the server, which knows p_k and w, reads a gradient from an
upload: (w - upload/p_k)/η. The runs are real ones, and the uploads those that rank 0 received.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.attacks.deep_leakage import DEFAULT, deep_leakage
from fedmpi.attacks.gradients import Gradient
from fedmpi.attacks.metrics import mean_squared_errors
from fedmpi.data import load
from fedmpi.learn import build_model, client_rows
from fedmpi.learn.inputs import input_shape
from fedmpi.reproduce.shared import data_options
from fedmpi.runs.batch import Run

MODEL, CLIENTS, RATE, CLIP, SEED = "dlnet", 60, 0.01, 1000, 0
"""A network that deep leakage wins against, clients of the only round, η, ζ that clips no gradient, and --seed."""

NOISE = (0.003, 16.0)
"""Standard deviations of the noise in the gradient that the server reads from DP-FedAvg, σ_k/(p_k η): a fifth of the
first layer's gradient; and that of training with 0.03 in the aggregate of 30 clients."""


@dataclass(frozen=True)
class Kind:
    """A way to upload."""

    name: str
    noise: float
    """Its standard deviation in the gradient that the server reads, if the method is DP-FedAvg."""
    options: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Clients:
    """The clients that are attacked."""

    model: torch.nn.Module
    """That the round began with."""
    images: NDArray[np.float64]
    """What they hold, shape (clients, channels, height, width)."""
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Upload:
    """What the server makes of one kind of upload, from every attacked client."""

    kind: Kind
    error: float
    """Root mean square of what is wrong with the gradient that it reads."""
    loss: float
    """Distance that deep leakage ends with, mean."""
    images: NDArray[np.float64]
    """Shape (clients, channels, height, width)."""
    mse: NDArray[np.float64]
    """Shape (clients,)."""
    labels: int
    """How many it found."""
    epsilon: float | None
    """Of that one upload, by RDP; None where nothing is promised."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """All that Figure 4 shows."""

    dataset: str
    clients: Clients
    uploads: list[Upload]


def kinds() -> list[Kind]:
    """Every kind of upload."""
    found = [Kind("FedAvg", 0.0, ("--method", "fedavg"))]
    for noise in NOISE:
        options = ("--noise-std", repr(noise * RATE / CLIENTS))
        found.append(Kind("DP-FedAvg", noise, ("--method", "dp-fedavg", *options)))
        for tau2 in (0, 1):
            shared = ("--method", "niss", *options, "--share-count", "4", "--tau-squared", str(tau2))
            found.append(Kind(f"NISS, τ² = {tau2}", noise, shared))
    return found


def runs(out: Path, dataset: str, data_dir: Path | None) -> list[Run]:
    """A round of every kind, with all that the server receives recorded."""
    common = ["--dataset", dataset, "--max-rows", str(CLIENTS), "--clients", str(CLIENTS), "--fraction", "1"]
    common += ["--model", MODEL, "--epochs", "1", "--batch-size", "1", "--rounds", "1", "--learning-rate", str(RATE)]
    common += ["--dtype", "float64", "--clip", str(CLIP), "--seed", str(SEED), "--record-views"]
    common += data_options(data_dir)
    return [
        Run(out / "runs" / f"uploads-{dataset}-{number}", 3, (*common, *kind.options), "niss")
        for number, kind in enumerate(kinds())
    ]


def attack_all(
    out: Path,
    dataset: str,
    attacked: int,
    steps: int,
    results: Mapping[Path, Mapping[str, Any]],
    data_dir: Path | None,
) -> Attacked:
    """Attack the first clients of every kind of upload.

    Parameters
    ----------
    out : Path
        Of the report; its folder ``runs`` has the `runs`.
    attacked : int
        Clients.
    steps : int
        Of L-BFGS, at most, 20 iterations each.
    results : mapping
        Folder of a run → its result.json.
    data_dir : Path, optional
        Of the data sets.
    """
    torch.set_num_threads(1)
    data = load(dataset, data_dir=data_dir, max_rows=CLIENTS, seed=SEED)
    shape = input_shape(data)
    rows = [part[0] for part in client_rows("iid", data.y_train, CLIENTS, SEED)[:attacked]]
    true = (data.X_train[rows].astype(np.float64) / float(data.X_train.max())).reshape(-1, *shape)
    model = build_model(MODEL, shape, len(data.classes), SEED, torch.float64)
    clients = Clients(model, true, data.y_train[rows])
    uploads: list[Upload] = []
    clean: list[Gradient] = []
    for kind, run in zip(kinds(), runs(out, dataset, data_dir), strict=True):
        shared = [gradient(view(run.folder), client, model) for client in range(attacked)]
        clean = clean or shared
        epsilon = results[run.folder].get("privacy", {}).get("upload", {}).get("rdp")
        uploads.append(attack(kind, clients, shared, clean, steps, epsilon))
        print(f"  Figure 4: {kind.name:<14} noise {kind.noise:<6g} MSE {uploads[-1].mse.mean():.2g}", flush=True)
    return Attacked(dataset, clients, uploads)


def view(folder: Path) -> dict[str, NDArray[Any]]:
    """All that rank 0 received."""
    with np.load(folder / "views" / "rank-0.npz") as file:
        return {name: file[name] for name in file.files}


def gradient(received: dict[str, NDArray[Any]], client: int, model: torch.nn.Module) -> Gradient:
    """(w - upload/p_k)/η of a client with p_k = 1/K, from what the server received in the first round.

    Parameters
    ----------
    received : dict
        As a channel saves its views.
    client : int
    model : torch.nn.Module
        With w, that the round began with.
    """
    parts = [name for name in received if name.endswith("-Uploads-clients") and client in received[name]]
    position = received[parts[0]].tolist().index(client)
    upload = received[parts[0].removesuffix("clients") + "values"][position]
    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    flat = torch.from_numpy((w - CLIENTS * upload) / RATE)
    pieces = torch.split(flat, [p.numel() for p in model.parameters()])
    return tuple(piece.view_as(p) for piece, p in zip(pieces, model.parameters(), strict=True))


def attack(
    kind: Kind,
    clients: Clients,
    shared: Sequence[Gradient],
    clean: Sequence[Gradient],
    steps: int,
    epsilon: float | None,
) -> Upload:
    """Deep leakage from the gradient of every attacked client.

    Parameters
    ----------
    shared : sequence of Gradient
        Those that the server reads, one of each client.
    clean : sequence of Gradient
        The same without noise.
    """
    settings = replace(DEFAULT, steps=steps, restarts=1)
    classes = len(shared[0][-1])  # the biases of the last layer
    found = [deep_leakage(clients.model, g, (1, *clients.images.shape[1:]), classes, settings, SEED) for g in shared]
    images = np.clip(np.nan_to_num(np.concatenate([one.images for one in found])), 0, 1)
    wrong = torch.cat(
        [(a - b).reshape(-1) for g, h in zip(shared, clean, strict=True) for a, b in zip(g, h, strict=True)]
    )
    return Upload(
        kind,
        float(wrong.square().mean().sqrt()),
        float(np.mean([one.distance for one in found])),
        images,
        mean_squared_errors(images, clients.images),
        sum(int(one.labels.argmax()) == label for one, label in zip(found, clients.labels.tolist(), strict=True)),
        epsilon,
    )
