"""Inverting gradients: the direction of the gradient and a smooth image, by signed Adam [Geiping et al. 2020]."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedmpi.attacks.deep_leakage import Reconstruction, Shape, initial_images
from fedmpi.attacks.gradients import Gradient, trained
from fedmpi.attacks.labels import label_of
from fedmpi.errors import UsageError
from fedmpi.learn import stream


@dataclass(frozen=True)
class Settings:
    """How the inversion searches."""

    steps: int = 2400
    """Of Adam; after 3/8, 5/8 and 7/8 of them the step length falls to a tenth."""
    learning_rate: float = 0.1
    smoothness: float = 1e-4
    """Weight of the total variation."""
    signed: bool = True
    """Adam sees only the signs of the derivatives."""
    box: bool = True
    """Keep the pixels of images in [0, 1]."""
    tolerance: float = 0.0
    """Value of the objective at which the search stops."""


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels, both ways; images (N, channels, height, width)."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


def cosine_distance(gradient: Gradient, seen: Gradient) -> torch.Tensor:
    """1 - ⟨g, ĝ⟩ / (‖g‖ ‖ĝ‖), over all parameters together."""
    products = torch.stack([(a * b).sum() for a, b in zip(gradient, seen, strict=True)]).sum()
    norms = [torch.stack([part.square().sum() for part in parts]).sum().sqrt() for parts in (gradient, seen)]
    return 1 - products / (norms[0] * norms[1] + 1e-30)


def invert(
    model: nn.Module,
    gradient: Gradient,
    shape: Shape,
    classes: int,
    labels: torch.Tensor | None = None,
    settings: Settings = Settings(),
    seed: int = 0,
) -> Reconstruction:
    """Images whose gradient points where the one that was shared points; works with ReLU too, and without magnitudes.

    Parameters
    ----------
    model, gradient, shape, classes, seed
        As for `deep_leakage`.
    labels : Tensor, optional
        Shape (N,). Default: by iDLG's rule, for one row.
    settings : Settings
    """
    start = time.process_time()
    attacked = copy.deepcopy(model)
    parameters = trained(attacked)
    if labels is None:
        if shape[0] != 1:
            raise UsageError(f"the labels of a batch must be given, got none for {shape[0]} rows")
        labels = torch.tensor([label_of(gradient)])
    rng = stream(seed, "inverting gradients")
    images = initial_images(shape, "normal", rng).to(parameters[0].dtype).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=settings.learning_rate)
    milestones = [settings.steps * k // 8 for k in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.1)
    best, least, step = images.detach().clone(), float("inf"), 0
    while step < settings.steps and least > settings.tolerance:
        loss = nn.functional.cross_entropy(attacked(images), labels)
        found = torch.autograd.grad(loss, parameters, create_graph=True)
        value = cosine_distance(found, gradient)
        if settings.smoothness and len(shape) == 4:
            value = value + settings.smoothness * total_variation(images)
        (derivative,) = torch.autograd.grad(value, images)
        if float(value.detach()) < least:
            best, least = images.detach().clone(), float(value.detach())
        images.grad = derivative.sign() if settings.signed else derivative
        optimizer.step()
        schedule.step()
        if settings.box and len(shape) == 4:
            with torch.no_grad():
                images.clamp_(0, 1)
        step += 1
    one_hot = nn.functional.one_hot(labels, classes).double().numpy().astype(np.float64)
    return Reconstruction(best.double().numpy(), one_hot, least, step, step, 0, time.process_time() - start)
