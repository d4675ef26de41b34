"""Inverting gradients: the direction of the gradient and a smooth image, by signed Adam [Geiping et al. 2020].

Where a fully connected layer stands behind the convolutions, its gradient gives its inputs: the features of the row in
closed form (`linear`), or of all rows of a batch behind ReLU (`spear`). Then the search is for images with these
features. It needs neither labels nor a second derivative, and what a secret head adds to the gradient of the
convolutions does not reach it.
"""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedmpi.attacks.deep_leakage import Reconstruction, Shape, initial_images
from fedmpi.attacks.features import Features, features_of
from fedmpi.attacks.gradients import Gradient, trained
from fedmpi.attacks.labels import labels_of
from fedmpi.learn import Loss, cross_entropy, stream


@dataclass(frozen=True)
class Settings:
    """How the inversion searches."""

    steps: int = 2400
    """Of Adam; after 3/8, 5/8 and 7/8 of them the step length falls to a tenth."""
    learning_rate: float = 0.1
    smoothness: float = 1e-2
    """Weight of the total variation."""
    colour: float = 3.0
    """How many times as much as its brightness the colours of an image count there."""
    signed: bool = True
    """Adam sees only the signs of the derivatives."""
    box: bool = True
    """Keep the pixels of images in [0, 1]."""
    tolerance: float = 0.0
    """Value of the objective at which the search stops."""
    features: bool = True
    """Search for images with the features that a fully connected layer tells, where there is one."""
    starts: int = 4
    """Of such a search."""


STAGES = ((3.0, 1.0, 1 / 4), (0.3, 0.3, 1 / 8), (0.1, 0.1, 1 / 8))
"""Of a search by features: smoothness and step length, as multiples of the settings', and the part of the steps. The
last begins with the mean of what several starts found."""

NEAR_BEST = 1.5
"""Starts of which the mean is taken end with features so many times as far away as the best one, at most."""


OPPONENT = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""Of red, green and blue: brightness, red against blue, and both against green."""


def total_variation(images: torch.Tensor, colour: float = 1.0) -> torch.Tensor:
    """Mean absolute difference of neighbouring pixels, both ways; images (N, channels, height, width).

    Of images with three channels in opponent colours: where photographs vary, it is mostly their brightness, in all
    three channels at once.

    Parameters
    ----------
    colour : float
        How many times as much as brightness the other two of the opponent colours count.
    """
    if images.shape[1] == 3:
        axes = nn.functional.normalize(torch.tensor(OPPONENT, dtype=images.dtype, device=images.device))
        axes = axes * axes.new_tensor([1.0, colour, colour])[:, None]
        images = torch.einsum("oc,nchw->nohw", axes, images)
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
    loss: Loss = cross_entropy,
) -> Reconstruction:
    """Images whose gradient points where the one that was shared points; works with ReLU too, and without magnitudes.

    Parameters
    ----------
    model, gradient, shape, classes, seed
        As for `deep_leakage`.
    labels : Tensor, optional
        Shape (N,). Default: as the gradient of the last layer tells.
    settings : Settings
    loss : callable
        What the client's gradient is of. By features, every loss is searched alike.
    """
    start = time.process_time()
    attacked = copy.deepcopy(model)
    rng = stream(seed, "inverting gradients")
    known = features_of(attacked, gradient, shape[0], seed) if settings.features and len(shape) == 4 else None
    if known is not None and known.inputs.shape[1] < np.prod(shape[1:]):  # too few equations
        known = None
    if known is not None:
        labels = known.labels(classes) if labels is None else labels
        images, least, steps = _with_features(known, shape, settings, rng)
    else:
        labels = labels_of(attacked, gradient, shape) if labels is None else labels
        images, least, steps = _with_gradient(attacked, gradient, labels, shape, settings, rng, loss)
    one_hot = nn.functional.one_hot(labels, classes).double().cpu().numpy()
    return Reconstruction(images.double().cpu().numpy(), one_hot, least, steps, steps, 0, time.process_time() - start)


def _with_gradient(
    model: nn.Module,
    gradient: Gradient,
    labels: torch.Tensor,
    shape: Shape,
    settings: Settings,
    rng: np.random.Generator,
    loss: Loss,
) -> tuple[torch.Tensor, float, int]:
    parameters = trained(model)
    images = initial_images(shape, "normal", rng).to(parameters[0]).requires_grad_()
    optimizer, schedule = _adam(images, settings.learning_rate, settings.steps)
    best, least, step = images.detach().clone(), float("inf"), 0
    while step < settings.steps and least > settings.tolerance:
        found = torch.autograd.grad(loss(model, images, labels), parameters, create_graph=True)
        value = cosine_distance(found, gradient)
        if settings.smoothness and len(shape) == 4:
            value = value + settings.smoothness * total_variation(images, settings.colour)
        (derivative,) = torch.autograd.grad(value, images)
        if float(value.detach()) < least:
            best, least = images.detach().clone(), float(value.detach())
        _step(images, derivative, settings, optimizer, schedule)
        step += 1
    return best, least, step


def _with_features(
    known: Features, shape: Shape, settings: Settings, rng: np.random.Generator
) -> tuple[torch.Tensor, float, int]:
    """First very smooth, and fast; then less so, from there; then the mean of the good starts is made better.

    The distance is the relative one of the features, squared, in the mean over the rows.
    """
    features, rows = known.inputs, shape[0]
    if not trained(known.before):  # these are the rows
        return features.reshape(shape), 0.0, 0
    energy = features.square().sum(dim=1).clamp(min=1e-30)
    starts = [initial_images(shape, "grey", rng).to(features) for _ in range(settings.starts)]
    images, distances, steps = torch.stack(starts), torch.zeros(0), 0
    for smoothness, rate, part in STAGES:
        if (smoothness, rate, part) == STAGES[-1]:
            good = (distances <= NEAR_BEST * distances.min(dim=0).values).to(images.dtype)
            good = good.reshape(*good.shape, *[1] * (images.ndim - 2))
            images = (good * images).sum(dim=0, keepdim=True) / good.sum(dim=0, keepdim=True)
        images = images.detach().flatten(0, 1).requires_grad_()
        count = max(round(part * settings.steps), 1)
        optimizer, schedule = _adam(images, rate * settings.learning_rate, count)
        for _ in range(count):
            found = known.before(images).reshape(-1, rows, features.shape[1])
            distances = (found - features).square().sum(dim=2) / energy
            variation = len(images) * total_variation(images, settings.colour)  # of each as if it were alone
            (derivative,) = torch.autograd.grad(distances.sum() + smoothness * settings.smoothness * variation, images)
            _step(images, derivative, settings, optimizer, schedule)
        images, distances, steps = images.reshape(-1, *shape), distances.detach(), steps + count
    return images[0].detach(), float(distances.mean()), steps


def _adam(
    images: torch.Tensor, rate: float, steps: int
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.MultiStepLR]:
    optimizer = torch.optim.Adam([images], lr=rate)
    milestones = [steps * k // 8 for k in (3, 5, 7)]
    return optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.1)


def _step(
    images: torch.Tensor,
    derivative: torch.Tensor,
    settings: Settings,
    optimizer: torch.optim.Adam,
    schedule: torch.optim.lr_scheduler.MultiStepLR,
) -> None:
    images.grad = derivative.sign() if settings.signed else derivative
    optimizer.step()
    schedule.step()
    if settings.box and images.ndim == 4:
        with torch.no_grad():
            images.clamp_(0, 1)
