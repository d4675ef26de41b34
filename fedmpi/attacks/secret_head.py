"""Deep leakage against SPN by an adversary who knows that there is a secret head.

SPN adds to the backbone's gradient what its secret head sends back through the backbone: J(x)ᵀ δ, with δ the loss's
gradient at the flattened features. The adversary knows neither head nor targets, but it needs neither: δ is one vector
of as many numbers as there are features, and an unknown like the image. The public head is trained on cross-entropy
alone, so that its gradient gives the features (Theorem 2.1) and the label (iDLG) as if there were no secret.
"""

import copy

import torch
from torch import nn

from fedmpi.attacks.deep_leakage import DEFAULT, Reconstruction, Settings, Shape, initial_images, search
from fedmpi.attacks.gradients import Distance, Gradient, trained
from fedmpi.attacks.labels import label_of
from fedmpi.attacks.linear import layer_input
from fedmpi.errors import UsageError
from fedmpi.learn import split, stream


def secret_head(
    model: nn.Module,
    gradient: Gradient,
    shape: Shape,
    classes: int,
    settings: Settings = DEFAULT,
    seed: int = 0,
) -> Reconstruction:
    """The image of one row, whatever a secret head adds to the gradient of the backbone.

    Minimizes the distance of the backbone's gradient J(x)ᵀ δ over x and δ, plus the relative squared error of the
    features φ(x).

    Parameters
    ----------
    model, gradient, shape, classes, settings, seed
        As for `deep_leakage`; the model is the public one, a `torch.nn.Sequential`, and shape[0] is 1.
    """
    if shape[0] != 1:
        raise UsageError(f"rows must be 1 for a secret head to be seen through, got {shape[0]}")
    attacked = copy.deepcopy(model).to(settings.dtype)
    backbone, head = split(attacked)
    parameters = trained(backbone)
    seen = tuple(part.to(settings.dtype) for part in gradient)
    first = seen[len(parameters) :]
    # the first layer of the head is fully connected
    features = torch.from_numpy(layer_input(first[0].cpu().numpy(), first[1].cpu().numpy())).to(first[0])[None]
    label = label_of(seen)
    distance = Distance(seen[: len(parameters)], settings.balance, sent_only=settings.sent_only)
    delta = _public_part(head, features, label)
    energy = features.square().sum()

    def begin(attempt: int) -> list[torch.Tensor]:
        images = initial_images(shape, settings.init, stream(seed, "secret head", attempt))
        return [images.to(delta), torch.zeros_like(delta)]

    # as large as δ would be if the gradient that was seen were sent back through a first image: α₂ may be any
    grey = initial_images(shape, "grey", stream(seed, "secret head", 0)).to(delta)
    through = torch.autograd.grad(backbone(grey), parameters, delta)
    sizes = [sum(float(part.square().sum()) for part in parts) ** 0.5 for parts in (seen[: len(parameters)], through)]
    unit = delta.norm() * max(1.0, sizes[0] / sizes[1] if sizes[1] else 1.0)

    def gap(images: torch.Tensor, secret: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = backbone(images)
        sent_back = delta + unit * secret
        derivative = torch.autograd.grad(found, parameters, sent_back, create_graph=True)
        error: torch.Tensor = (found - features).square().sum() / energy
        return distance(derivative) + error

    result = search(begin, gap, settings)
    one_hot = nn.functional.one_hot(torch.tensor([label]), classes).double()
    return Reconstruction(
        result.variables[0].double().cpu().numpy(),
        one_hot.numpy(),
        result.distance,
        result.steps,
        result.evaluations,
        result.restarts,
        result.seconds,
    )


def _public_part(head: nn.Module, features: torch.Tensor, label: int) -> torch.Tensor:
    """The gradient of cross-entropy at the features, shape (1, F)."""
    at = features.clone().requires_grad_()
    loss = nn.functional.cross_entropy(head(at), torch.tensor([label], device=at.device))
    derivative: torch.Tensor = torch.autograd.grad(loss, at)[0]
    return derivative
