"""Trap weights: a server that chooses the model gets single rows out of a sum over many clients.

All units of the first layer measure the same number of a row, a mean of its features, and unit i answers where it is
above a threshold t_i. Behind the layer all units count alike. So the gradients of unit i and unit i + 1 differ by those
of the rows between two thresholds: where that is one row, the row is the difference over that of the biases. It takes
one round, and the sum may be over any number of clients and under any masks [Fowl et al. 2022; Boenisch et al. 2023].
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks.gradients import Gradient
from fedmpi.errors import UsageError

ALIVE, FACTORS = 1.0, 0.02
"""Bias of the units of the second layer, so that none is silent, and the size of what they make of the first: outputs
stay small, and each row has a gradient."""

ACTIVE = 1e-6
"""A difference of bias gradients counts as that of some row above this part of the largest one."""


def trap(model: nn.Module, public: NDArray[np.floating], seed: int = 0) -> None:
    """Put trap weights into the first two layers of a model.

    Parameters
    ----------
    model : torch.nn.Module
        A sequence that begins with a fully connected layer, ReLU, and another fully connected layer; changed in place.
    public : array, shape (n, …)
        Rows of the kind that the clients have: thresholds are set so that equally many of them lie between two.
    seed : int

    Raises
    ------
    UsageError
        If the model does not begin so.
    """
    first, second = layers_of(model)
    rng = np.random.default_rng(seed)
    measure = rng.uniform(0.5, 1.5, first.weight.shape[1]) / first.weight.shape[1]  # few rows measure the same
    thresholds = np.quantile(
        public.reshape(len(public), -1) @ measure, (np.arange(len(first.weight)) + 0.5) / len(first.weight)
    )
    with torch.no_grad():
        first.weight.copy_(torch.from_numpy(measure).expand(first.weight.shape))
        first.bias.copy_(torch.from_numpy(-thresholds))
        factors = torch.from_numpy(rng.uniform(-FACTORS, FACTORS, len(second.weight)))
        second.weight.copy_(factors[:, None].expand(second.weight.shape))
        second.bias.fill_(ALIVE)


def layers_of(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """The two fully connected layers that a trap is made of."""
    layers = [layer for layer in model if not isinstance(layer, nn.Flatten)] if isinstance(model, nn.Sequential) else []
    if len(layers) > 2:
        first, between, second = layers[:3]
        if isinstance(first, nn.Linear) and isinstance(between, nn.ReLU) and isinstance(second, nn.Linear):
            return first, second
    names = ", ".join(type(layer).__name__ for layer in layers[:3]) or type(model).__name__
    raise UsageError(
        f"trap weights must have a model that begins with a fully connected layer, ReLU, and another one, got {names}"
    )


def imprinted(gradient: Gradient) -> NDArray[np.float64]:
    """Candidates for rows, shape (found, d): one for each pair of neighbouring thresholds that has something between.

    Parameters
    ----------
    gradient : Gradient
        Of a model with trap weights, summed over any rows. Where several lie between two thresholds, the candidate is
        a mixture of them.
    """
    weight, bias = (part.double().numpy() for part in gradient[:2])
    weights = np.diff(weight, axis=0, append=0.0)  # above the last threshold is a class of its own
    biases = np.diff(bias, append=0.0)
    there = np.abs(biases) > ACTIVE * np.abs(biases).max(initial=0.0)
    rows: NDArray[np.float64] = weights[there] / biases[there, None]
    return rows
