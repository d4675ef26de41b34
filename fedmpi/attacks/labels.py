"""The label of one row from the gradient of the last layer [iDLG, Zhao et al. 2020]."""

from collections.abc import Sequence

import torch

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
