"""The labels of a batch from the gradient of the last layer [iDLG, Zhao et al. 2020; Wainakh et al. 2022]."""

from collections.abc import Sequence

import torch
from torch import nn

from fedmpi.errors import UsageError


def label_of(gradient: Sequence[torch.Tensor]) -> int:
    """The label: of softmax outputs p, ∂L/∂b_c = p_c - [c = y] is negative for y only.

    Parameters
    ----------
    gradient : sequence of Tensor
        Of one row. The last is the bias gradient (C,) of the last layer, or its weight gradient (C, features).

    Notes
    -----
    Without a bias row c is (p_c - [c = y]) times the features, and y the row that points against all others.

    Raises
    ------
    UsageError
        If the last gradient is that of no fully connected layer.
    """
    last = gradient[-1]
    if last.ndim == 1:
        return int(last.argmin())
    if last.ndim == 2:
        products = last @ last.T
        products.fill_diagonal_(0)
        return int(products.sum(1).argmin())
    raise UsageError(f"the last layer must be fully connected, got a gradient of shape {tuple(last.shape)}")


def labels_of(model: nn.Module, gradient: Sequence[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """The labels of a batch in ascending order, shape (N,), each as often as the bias gradient says.

    Of n_c rows of class c in a batch of b, ∂L/∂b_c is the mean of p_c less n_c/b. What p_c is, grey images tell as well
    as others where the model was not trained yet; where it was, the rest goes to where most is missing.

    Parameters
    ----------
    model, gradient
        As for `deep_leakage`.
    shape : tuple of int
        (N, *input_shape) of the batch.

    Raises
    ------
    UsageError
        If the last layer has no bias, and the batch several rows.
    """
    rows = shape[0]
    if rows == 1:
        return torch.tensor([label_of(gradient)], device=gradient[-1].device)
    last = gradient[-1]
    if last.ndim != 1:
        raise UsageError(f"the labels of a batch must be told by a bias gradient, got one of shape {tuple(last.shape)}")
    parameter = next(model.parameters())
    with torch.no_grad():
        p = torch.softmax(model(parameter.new_full((1, *shape[1:]), 0.5)), 1)[0]
    missing = rows * (p.double() - last.double())  # about n_c
    counts = torch.zeros_like(last, dtype=torch.int64)
    for _ in range(rows):
        counts[(missing - counts).argmax()] += 1
    return torch.repeat_interleave(counts)
