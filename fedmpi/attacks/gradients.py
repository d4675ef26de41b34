"""What a client shares of a batch, and how far two gradients are apart."""

from collections.abc import Sequence

import torch
from torch import nn

from fedmpi.learn import Loss, cross_entropy

Gradient = tuple[torch.Tensor, ...]
"""In the order of ``model.parameters()``, without those that are frozen."""


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients are shared."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def gradient_of(model: nn.Module, X: torch.Tensor, y: torch.Tensor, loss: Loss = cross_entropy) -> Gradient:
    """The gradient of the loss on a batch, as an undefended client shares it."""
    found = torch.autograd.grad(loss(model, X, y), trained(model))
    return tuple(part.detach() for part in found)


def soft_cross_entropy(z: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the softmax of outputs z against soft labels softmax(logits), both (N, C)."""
    return -(torch.softmax(logits, 1) * torch.log_softmax(z, 1)).sum(1).mean()


class Distance:
    """How far a gradient is from the one that was seen: Σ_l w_l ‖g_l - ĝ_l‖² over the layers' parameters.

    Parameters
    ----------
    seen : Gradient
    balance : float or None
        w_l ∝ ‖ĝ_l‖^(-2·balance), with Σ w_l ‖ĝ_l‖² = 1: 0 treats all numbers alike, so that layers with large gradients
        hide the others; 1 treats all layers alike. None: w_l = 1.
    sent_only : bool
        Compare only what is not zero: who sends a part of the gradient sends zeros for the rest.
    """

    def __init__(self, seen: Gradient, balance: float | None, *, sent_only: bool = False):
        self.seen = seen
        self._masks = [part != 0 for part in seen] if sent_only else None
        if balance is None:
            self._weights = [1.0] * len(seen)
            return
        norms = torch.stack([part.norm() for part in seen]).double()
        if not norms.max() > 0:
            norms = torch.ones_like(norms)
        weights = norms.clamp(min=1e-3 * float(norms.max())) ** (-2 * balance)
        weights /= (weights * norms**2).sum()
        self._weights = weights.tolist()

    def __call__(self, gradient: Sequence[torch.Tensor]) -> torch.Tensor:
        """A scalar; 0 for the same gradient."""
        parts = []
        for position, (part, seen, weight) in enumerate(zip(gradient, self.seen, self._weights, strict=True)):
            difference = part - seen
            if self._masks is not None:
                difference = difference * self._masks[position]
            parts.append(weight * difference.square().sum())
        return torch.stack(parts).sum()
