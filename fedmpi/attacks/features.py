"""The inputs of a model's first fully connected layer, for each row of a batch: what its gradient tells of them.

Where nothing stands before the layer, these are the rows themselves.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fedmpi.attacks.gradients import Gradient, trained
from fedmpi.attacks.linear import layer_input
from fedmpi.attacks.spear import Found, batch_rows

Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

TRIES = 20_000
"""Starts of the search for a batch, at most."""


@dataclass(frozen=True, eq=False)
class Features:
    """Inputs of the first fully connected layer, and the parts of the model before and behind it."""

    before: nn.Sequential
    behind: nn.Sequential
    """The layer itself, and all later ones."""
    inputs: torch.Tensor
    """Shape (N, F)."""
    factors: torch.Tensor
    """What is propagated back to each unit of the layer for each row, shape (N, M)."""

    def labels(self, classes: int) -> torch.Tensor:
        """Of each row the class of which cross-entropy sends back what was sent back, by its direction; shape (N,)."""
        outputs = self.behind[0](self.inputs).detach().requires_grad_()
        likeness = []
        for label in range(classes):
            labels = torch.full((len(outputs),), label, device=outputs.device)
            loss = nn.functional.cross_entropy(self.behind[1:](outputs), labels, reduction="sum")
            (sent_back,) = torch.autograd.grad(loss, outputs)
            likeness.append(nn.functional.cosine_similarity(sent_back, self.factors, dim=1))
        return torch.stack(likeness).argmax(0)


def parts_of(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential] | None:
    """A model cut before its first fully connected layer; None if it is no sequence, or has none with a bias."""
    layers = list(model) if isinstance(model, nn.Sequential) else []
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            return None if layer.bias is None else (nn.Sequential(*layers[:i]), nn.Sequential(*layers[i:]))
    return None


def features_of(model: nn.Module, gradient: Gradient, rows: int, seed: int = 0, tries: int = TRIES) -> Features | None:
    """Of each row of a batch, in no order; None if the gradient does not tell them all.

    Parameters
    ----------
    model, gradient
        As for `deep_leakage`.
    rows : int
        Of the batch.
    seed : int
        Of the search for a batch.
    tries : int
        Of that search.
    """
    parts = parts_of(model)
    if parts is None:
        return None
    before, behind = parts
    begin = len(trained(before))
    if len(gradient) < begin + 2:
        return None
    weight, bias = (part.double().cpu().numpy() for part in gradient[begin : begin + 2])
    own = next(behind[0].parameters())
    if weight.shape != tuple(own.shape) or not np.abs(bias).max() > 0:
        return None
    if rows == 1:
        inputs, factors = layer_input(weight, bias)[None], bias[None]
    else:
        found = rows_before(behind, weight, bias, rows, seed, tries)
        if found is None or not found.whole or found.batch != rows:
            return None
        inputs, factors = found.rows, found.factors
    return Features(before, behind, *(torch.from_numpy(part).to(own) for part in (inputs, factors)))


def rows_before(
    behind: nn.Sequential, weight: Matrix, bias: Matrix, most: int, seed: int = 0, tries: int = TRIES
) -> Found | None:
    """`batch_rows` of a layer whose parameters are known; None if no ReLU is behind it."""
    if len(behind) < 2 or not isinstance(behind[1], nn.ReLU):
        return None
    W, b = (part.detach().double().cpu().numpy() for part in behind[0].parameters())
    return batch_rows(weight[None], bias[None], layer=(W, b), tries=tries, seed=seed, most=most)
