"""Deep leakage beside the DLG paper's loop, and inverting gradients beside its authors' program; in one thread each."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.attacks.case import attack, fresh_model
from fedmpi.attacks.command import batches_of
from fedmpi.attacks.gradients import Gradient, gradient_of
from fedmpi.attacks.inverting import invert
from fedmpi.attacks.metrics import mean_squared_errors, psnr
from fedmpi.attacks.params import Params
from fedmpi.bench.timing import last_json
from fedmpi.data import Dataset, load
from fedmpi.errors import UsageError


def measure(
    dataset: str = "cifar10",
    cases: int = 6,
    data_dir: Path | None = None,
    reference: Path | None = None,
    images: int = 4,
    iterations: int = 4800,
) -> dict[str, Any]:
    """Both comparisons; seconds are those of the process's cores.

    Parameters
    ----------
    cases : int
        Images for deep leakage.
    reference : Path, optional
        A checkout of the authors' program; without it inverting gradients is left out.
    images : int
        For inverting gradients.
    iterations : int
        Of the authors' program, for an image.
    """
    if reference is not None and not (reference / "inversefed" / "reconstruction_algorithms.py").is_file():
        raise UsageError(f"--reference must be a checkout of JonasGeiping/invertinggradients, got {reference}")
    data = load(dataset, data_dir=data_dir)
    figures = leakage(data, cases)
    if reference is None:
        print("inverting gradients is left out: --reference names no checkout", file=sys.stderr)
        return figures
    return figures | inversion(data, images, reference, iterations)


def leakage(data: Dataset, cases: int) -> dict[str, Any]:
    """Attack the same gradients with both, case after case."""
    ours, textbook = Params(attack="dlg", cases=cases), Params(attack="textbook", cases=cases)
    figures: dict[str, Any] = {}
    totals = {"dlg": [0.0, 0, 0], "textbook": [0.0, 0, 0]}
    labels = 0
    for seed, (X, y) in batches_of(ours, data).items():
        for params in (ours, textbook):
            found = attack(params, seed, X, y, len(data.classes))
            total = totals[params.attack]
            total[0] += found.reconstruction.seconds
            total[1] += int((mean_squared_errors(found.reconstruction.images, X) < params.success).sum())
            total[2] += found.reconstruction.evaluations
        labels += int(found.label == y[0])
    for name, (seconds, recovered, evaluations) in totals.items():
        figures[name] = {
            "recovered": recovered,
            "seconds": seconds,
            "evaluations": evaluations,
            "seconds_each": seconds / recovered if recovered else float("inf"),
        }
    figures["ratio"] = figures["textbook"]["seconds_each"] / figures["dlg"]["seconds_each"]
    figures["labels_right"] = labels
    return figures


def inversion(data: Dataset, images: int, reference: Path, iterations: int) -> dict[str, Any]:
    """Images behind the convolutions of `cnn`: both get the same model and gradient, and take turns."""
    params = Params(attack="inverting", model="cnn", cases=images)
    decibels: dict[str, list[float]] = {"inverting": [], "reference": []}
    seconds = dict.fromkeys(decibels, 0.0)
    for seed, (X, y) in batches_of(params, data).items():
        model = fresh_model(params, X.shape[1:], len(data.classes), seed)
        gradient = gradient_of(model, torch.tensor(X).float(), torch.tensor(y.astype(np.int64)))
        found = invert(model, gradient, X.shape, len(data.classes), settings=params.inversion, seed=seed)
        decibels["inverting"].append(float(psnr(found.images, X)[0]))
        seconds["inverting"] += found.seconds
        image, spent = theirs(params, model, gradient, X, len(data.classes), reference, iterations, seed)
        decibels["reference"].append(float(psnr(image, X)[0]))
        seconds["reference"] += spent
        said = ", ".join(f"{name} {decibels[name][-1]:.2f} dB" for name in decibels)
        print(f"image {seed}: {said}; {found.seconds:.1f} and {spent:.1f} s", file=sys.stderr, flush=True)
    figures: dict[str, Any] = {
        name: {
            "psnr": [round(one, 2) for one in decibels[name]],
            "mean_psnr": float(np.mean(decibels[name])),
            "cpu_seconds": seconds[name],
        }
        for name in decibels
    }
    figures["inverting"]["cpu_over_reference"] = seconds["inverting"] / seconds["reference"]
    return figures


def theirs(
    params: Params,
    model: torch.nn.Module,
    gradient: Gradient,
    X: NDArray[np.float64],
    classes: int,
    reference: Path,
    iterations: int,
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    """Image (1, channels, height, width) and processor seconds of the authors' program."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "work.npz")
        arrays: dict[str, Any] = {f"parameter{i}": part.detach().numpy() for i, part in enumerate(model.parameters())}
        arrays |= {f"gradient{i}": part.numpy() for i, part in enumerate(gradient)}
        np.savez(file, model=params.model, shape=X.shape[1:], classes=classes, **arrays)
        task = [str(reference), file, str(iterations), str(seed)]
        done = last_json([sys.executable, "-m", "fedmpi.bench.peers.inverting_gradients", *task])
        with np.load(file) as work:
            return work["image"].astype(np.float64), float(done["cpu_seconds"])
