"""Figure 4 of NISS [Yang et al. 2021]: deep leakage from the uploads of FedAvg, DP-FedAvg and NISS.

Every client holds one row and makes one step, so that the server, which knows p_k and w, reads a gradient from an
upload: (w - upload/p_k)/η. The runs are real ones, and the uploads those that rank 0 received.
"""

from collections.abc import Sequence
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
from fedmpi.experiments import figures
from fedmpi.experiments.jobs import Run
from fedmpi.experiments.tables import markdown
from fedmpi.learn import build_model, client_rows
from fedmpi.learn.inputs import image_shape

MODEL, CLIENTS, RATE, SEED = "dlnet", 60, 0.01, 0
"""A network that deep leakage wins against, clients of the only round, η, and --seed."""

NOISE = (0.003, 16.0)
"""Standard deviations of the noise in the gradient that the server reads from DP-FedAvg, σ_k/(p_k η): a fifth of the
first layer's gradient; and that of training with 0.03 in the aggregate of 30 clients."""


@dataclass(frozen=True, eq=False)
class Upload:
    """What the server makes of one kind of upload, from every attacked client."""

    name: str
    noise: float
    """Of the gradient that it reads, DP-FedAvg's."""
    error: float
    """Root mean square of what is wrong with that gradient."""
    loss: float
    """Distance that deep leakage ends with, mean."""
    images: NDArray[np.float64]
    """Shape (clients, channels, height, width)."""
    mse: NDArray[np.float64]
    """Shape (clients,)."""
    labels: int
    """How many it found."""


def kinds() -> list[tuple[str, float, list[str]]]:
    """Name, noise and options of every upload."""
    found = [("FedAvg", 0.0, ["--method", "fedavg"])]
    for noise in NOISE:
        options = ["--noise-std", repr(noise * RATE / CLIENTS)]
        found.append(("DP-FedAvg", noise, ["--method", "dp-fedavg", *options]))
        for tau2 in (0, 1):
            shared = ["--method", "niss", *options, "--share-count", "4", "--tau-squared", str(tau2)]
            found.append((f"NISS, τ² = {tau2}", noise, shared))
    return found


def runs(out: Path, dataset: str, data_dir: Path | None) -> list[Run]:
    """A round of every kind, with all that the server receives recorded."""
    common = ["--dataset", dataset, "--max-rows", str(CLIENTS), "--clients", str(CLIENTS), "--fraction", "1"]
    common += ["--model", MODEL, "--epochs", "1", "--batch-size", "1", "--rounds", "1", "--learning-rate", str(RATE)]
    common += ["--dtype", "float64", "--clip", "1000", "--seed", str(SEED), "--record-views"]
    common += ["--data-dir", str(data_dir)] if data_dir else []
    return [
        Run(out / "runs" / f"uploads-{dataset}-{number}", 3, (*common, *options), "niss")
        for number, (_, _, options) in enumerate(kinds())
    ]


def figure4(out: Path, dataset: str, attacked: int, steps: int, data_dir: Path | None) -> str:
    """Attack the first clients of every kind of upload, draw what is found, and describe it.

    Parameters
    ----------
    out : Path
        Of the report; its folder ``runs`` has the `runs`.
    attacked : int
        Clients.
    steps : int
        Of L-BFGS, at most, 20 iterations each.
    data_dir : Path, optional
        Of the data sets.

    Returns
    -------
    str
        A section of report.md.
    """
    torch.set_num_threads(1)
    data = load(dataset, data_dir=data_dir, max_rows=CLIENTS, seed=SEED)
    shape = image_shape(data.X_train.shape[1])
    rows = [part[0] for part in client_rows("iid", data.y_train, CLIENTS, SEED)[:attacked]]
    true = (data.X_train[rows].astype(np.float64) / float(data.X_train.max())).reshape(-1, *shape)
    model = build_model(MODEL, shape, len(data.classes), SEED, torch.float64)
    uploads: list[Upload] = []
    clean: list[Gradient] = []
    for (name, noise, _), run in zip(kinds(), runs(out, dataset, data_dir), strict=True):
        shared = [gradient(view(run.folder), client, model) for client in range(attacked)]
        clean = clean or shared
        uploads.append(attack(name, noise, model, shared, clean, true, data.y_train[rows], steps))
        print(f"  Figure 4: {name:<14} noise {noise:<6g} MSE {uploads[-1].mse.mean():.2g}", flush=True)
    return describe(out, dataset, true, uploads)


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
    name: str,
    noise: float,
    model: torch.nn.Module,
    shared: Sequence[Gradient],
    clean: Sequence[Gradient],
    true: NDArray[np.float64],
    labels: NDArray[np.int64],
    steps: int,
) -> Upload:
    """Deep leakage from the gradient of every attacked client."""
    settings = replace(DEFAULT, steps=steps, restarts=1)
    classes = len(shared[0][-1])  # the biases of the last layer
    found = [deep_leakage(model, g, (1, *true.shape[1:]), classes, settings, SEED) for g in shared]
    images = np.clip(np.nan_to_num(np.concatenate([one.images for one in found])), 0, 1)
    wrong = torch.cat(
        [(a - b).reshape(-1) for g, h in zip(shared, clean, strict=True) for a, b in zip(g, h, strict=True)]
    )
    return Upload(
        name,
        noise,
        float(wrong.square().mean().sqrt()),
        float(np.mean([one.distance for one in found])),
        images,
        mean_squared_errors(images, true),
        sum(int(one.labels.argmax()) == label for one, label in zip(found, labels.tolist(), strict=True)),
    )


def describe(out: Path, dataset: str, true: NDArray[np.float64], uploads: Sequence[Upload]) -> str:
    """The pictures, and a table."""
    rows = {"what the clients hold": true}
    for one in uploads:
        noise = f", noise {one.noise:g}" if one.noise else ""
        rows[f"{one.name}{noise}: MSE {one.mse.mean():.2g}"] = one.images
    figures.gallery(out / "figure4.png", rows)
    table = [
        {
            "upload": one.name,
            "noise": one.noise,
            "error of the gradient": one.error,
            "DLG loss": one.loss,
            "MSE": float(one.mse.mean()),
            "labels found": f"{one.labels} of {len(true)}",
        }
        for one in uploads
    ]
    return (
        f"## Figure 4: deep leakage from uploads\n\n{dataset}, {MODEL}, {CLIENTS} clients with a row each, one step of "
        f"η = {RATE}, no gradient clipped; what the server reads, (w - upload/p_k)/η, is attacked for {len(true)} "
        "clients. Noise: its standard deviation in that gradient for DP-FedAvg; NISS's has √(2 + τ²) times as much, a "
        "client's own and what it received.\n\n"
        f"![deep leakage](figure4.png)\n\n{markdown(table)}"
    )
