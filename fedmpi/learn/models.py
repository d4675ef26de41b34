"""The models of the papers, and models of the user's own by import path. All are plain `torch.nn.Module`s."""

import importlib
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from fedmpi.errors import UsageError
from fedmpi.learn.resnet import ConcatResNet

Shape = tuple[int, ...]
"""Of one input: (channels, height, width), or (features,)."""


class MLP(nn.Sequential):
    """Two hidden layers of 200 units with ReLU [Yang et al. 2021, section VI-A].

    Parameters
    ----------
    input_shape : tuple of int
    classes : int
    hidden : tuple of int
        Units of each hidden layer.
    """

    def __init__(self, input_shape: Shape, classes: int, hidden: tuple[int, ...] = (200, 200)):
        sizes = [int(torch.Size(input_shape).numel()), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], classes))


class CNN(nn.Sequential):
    """Two 5x5 convolutions (32, 64 channels), each with 2x2 max pooling, and 512 units [Yang et al. 2021, VI-A].

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), both at least 4.
    classes : int
    """

    def __init__(self, input_shape: Shape, classes: int):
        if len(input_shape) != 3 or min(input_shape[1:]) < 4:
            raise UsageError(f"a CNN must have images of at least 4x4 as inputs, got shape {input_shape}")
        channels, height, width = input_shape
        super().__init__(
            nn.Conv2d(channels, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 512),
            nn.ReLU(),
            nn.Linear(512, classes),
        )


_SEEDING = threading.Lock()  # torch has one generator for all threads

MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    **{f"mlp-{layers}": partial(MLP, hidden=(64,) * (layers - 1)) for layers in (3, 5, 7)},
    **{f"resnet{layers}": partial(ConcatResNet, layers=layers) for layers in (20, 32, 56)},
}
"""Name on the command line → model; called with the shape of an input and the number of classes."""


def build_model(
    name: str, input_shape: Shape, classes: int, seed: int, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A model with public, repeatable initial parameters.

    Parameters
    ----------
    name : str
        One of `MODELS`, or ``package.module:Class``: a module that is called with (input_shape, classes).
    input_shape : tuple of int
    classes : int
    seed : int
    dtype : torch.dtype
        The initialization is that of float32, whatever the type.

    Raises
    ------
    UsageError
        If there is no such model, it can't be made, or it keeps a state that is no parameter.
    """
    make = MODELS[name] if name in MODELS else _import(name)
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = make(input_shape, classes)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, UsageError):
                raise
            reason = " ".join(str(error).split())
            raise UsageError(
                f"--model must be callable with ({input_shape}, {classes}), got {name}: {reason}"
            ) from None
    if not isinstance(model, nn.Module) or not any(True for _ in model.parameters()):
        raise UsageError(f"--model must be a torch.nn.Module with parameters, got {name}")
    if buffer := next((key for key, _ in model.named_buffers()), None):
        raise UsageError(
            f"--model must keep its whole state in parameters, got {name} with the buffer {buffer}: "
            "take group normalization instead of batch normalization"
        )
    return model.to(dtype)


def _import(name: str) -> Callable[[Shape, int], nn.Module]:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"--model must be one of {', '.join(MODELS)}, or package.module:Class, got {name}")
    try:
        found: Callable[[Shape, int], nn.Module] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--model must be importable, got {name}: {error}") from None
    return found
