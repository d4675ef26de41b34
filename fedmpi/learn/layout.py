"""How images lie in memory: with the channels of a pixel side by side, pooling takes a tenth of the time on a CPU.

Group normalization takes longer than that gains.
"""

from collections.abc import Callable

import torch
from torch import nn


def channels_last(X: torch.Tensor) -> torch.Tensor:
    """The same images, shape (n, channels, height, width), in the order (n, height, width, channels) in memory."""
    _, channels, height, width = X.shape
    pixels = X.permute(0, 2, 3, 1).contiguous()
    # Strides say nothing of one channel, and torch then takes the other order; so they are written out.
    strides = (height * width * channels, 1, width * channels, channels)
    return pixels.as_strided(X.shape, strides, pixels.storage_offset())


def as_it_is(X: torch.Tensor) -> torch.Tensor:
    """The same tensor."""
    return X


@torch.no_grad()
def layout_for(model: nn.Module, X: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What brings inputs into the order in memory with which a model is fastest.

    Parameters
    ----------
    model : torch.nn.Module
        A model that reads the memory of its activations in one order only (``view``) keeps that order.
    X : torch.Tensor
        Some of its inputs, at least one.
    """
    kinds = {type(module) for module in model.modules()}
    if X.ndim != 4 or X.device.type != "cpu" or nn.Conv2d not in kinds or nn.GroupNorm in kinds:
        return as_it_is
    try:
        with torch.random.fork_rng(devices=[]):  # the trial draws nothing from what training draws from
            model(channels_last(X[:1]))
    except RuntimeError:
        return as_it_is
    return channels_last
