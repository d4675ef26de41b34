"""‖B_I‖/‖E_B‖ of fresh models, and what deep leakage finds there: Figures 26 and 27, and the caption of Figure 28."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedmpi.attacks.case import fresh_model, ratio, recover, share
from fedmpi.attacks.gradients import gradient_of
from fedmpi.attacks.metrics import relative_errors
from fedmpi.attacks.params import Params
from fedmpi.crypto.random import SecretStream
from fedmpi.data import load
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.reproduce.spn import paper

IMAGES = 6
"""Test images, each beside a model and a secret of its own."""

ATTACKED = 3
"""Of these: how many are searched for, for each setting of Figures 26 and 27."""


@dataclass(frozen=True)
class Perturbed:
    """One setting of a figure, over all images."""

    ratio: float
    """‖B_I‖/‖E_B‖, mean."""
    rmse: float | None
    """Of deep leakage, median: one search that diverges has any. None for Figure 28, which has ratios only."""


def settings() -> Iterator[tuple[str, Params]]:
    """Figure → what is shared."""
    for kind in ("gaussian", "laplace"):
        for noise in paper.NOISES:
            yield f"26: {kind} noise, σ = {noise:g}", Params(defence="dp", noise_std=noise, noise_kind=kind)
    for bits in paper.BITS:
        yield f"27: SPN, α₂ = 0.1, {bits} bits", Params(defence="spn", bits=bits)
    for model in ("dlnet", "alexnet", "vgg16"):
        yield f"28: SPN, α₂ = 0.1, {model}", Params(defence="spn", model=model)
    yield "28: gaussian noise, σ = 0.1, alexnet", Params(defence="dp", noise_std=0.1, model="alexnet")


def ratios(dataset: str, data_dir: Path | None, steps: int, images: int = IMAGES) -> dict[str, Perturbed]:
    """Figure and setting → what is shared of images, in batches of one.

    Parameters
    ----------
    steps : int
        Of an attack, at most.
    images : int
        A vgg16 takes a third of them.
    """
    torch.set_num_threads(1)
    data = load(dataset, data_dir=data_dir)
    shape, classes = input_shape(data), len(data.classes)
    X = torch.tensor(data.X_test[:images].astype(np.float32) / divisor_of(data)).reshape(images, *shape)
    y = torch.tensor(data.y_test[:images].astype(np.int64))
    found = {}
    for name, params in settings():
        params, each, errors = replace(params, steps=steps), [], []
        for i in range(-(-images // 3) if params.model == "vgg16" else images):
            model, row, label = fresh_model(params, shape, classes, i), X[i : i + 1], y[i : i + 1]
            shared = share(params, model, row, label, classes, SecretStream())
            each.append(ratio(gradient_of(model, row, label), shared))
            if i < ATTACKED and not name.startswith("28"):
                images_found = recover(params, model, shared, tuple(row.shape), classes, i).images
                errors.append(relative_errors(images_found, row.double().numpy())[0])
        found[name] = Perturbed(float(np.mean(each)), float(np.median(errors)) if errors else None)
    return found
