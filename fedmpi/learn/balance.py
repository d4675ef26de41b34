"""Rows of rare classes count more: what scikit-learn calls class_weight="balanced", at each client for itself."""

import torch
from torch import nn


def balanced_weights(y: torch.Tensor, classes: int) -> torch.Tensor:
    """Of each class n/(C·n_c), shape (classes,), where C classes are among the labels y (n,): 1 on average."""
    counts = torch.bincount(y, minlength=classes).double()
    return torch.where(counts > 0, len(y) / ((counts > 0).sum() * counts.clamp(min=1)), 0.0)


def weighted_cross_entropy(z: torch.Tensor, y: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean over the rows of outputs z (n, C) with labels y (n,), each times the weight of its class."""
    return (weights.to(z)[y] * nn.functional.cross_entropy(z, y, reduction="none")).mean()
