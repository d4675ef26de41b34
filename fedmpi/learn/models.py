"""The models of the papers, and models of the user's own by import path. All are plain `torch.nn.Module`s."""

import importlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from fedmpi.errors import UsageError
from fedmpi.learn.names import check_name
from fedmpi.learn.randomness import seeded
from fedmpi.learn.resnet import ConcatResNet, check_images

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
        check_images("a CNN", input_shape, 4)
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


class DLNet(nn.Sequential):
    """Four 5x5 convolutions of 12 channels, strides 2, 2, 1, 1, and one linear layer [Fan et al. 2020, Table 6].

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width).
    classes : int
    activation : type of Module
        Sigmoid; or Tanh, as in Appendix D.
    reach : float
        All parameters begin in U(-reach, reach); the paper has 0.3, the program of the DLG paper 0.5.
    """

    def __init__(self, input_shape: Shape, classes: int, activation: type[nn.Module] = nn.Sigmoid, reach: float = 0.3):
        check_images("a DLNet", input_shape, 1)
        channels, height, width = input_shape
        layers: list[nn.Module] = []
        for before, stride in ((channels, 2), (12, 2), (12, 1), (12, 1)):
            layers += [nn.Conv2d(before, 12, 5, stride, padding=2), activation()]
        features = 12 * -(-height // 4) * -(-width // 4)
        super().__init__(*layers, nn.Flatten(), nn.Linear(features, classes))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -reach, reach)


class DLNetTanh(DLNet):
    """DLNet with Tanh in place of Sigmoid [Fan et al. 2020, Appendix D]."""

    def __init__(self, input_shape: Shape, classes: int):
        super().__init__(input_shape, classes, nn.Tanh)


class AlexNet(nn.Sequential):
    """Five convolutions, and 256 units [Fan et al. 2020, Table 4].

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), both at least 8.
    classes : int
    """

    def __init__(self, input_shape: Shape, classes: int):
        check_images("an AlexNet", input_shape, 8)
        channels, height, width = input_shape
        super().__init__(
            nn.Conv2d(channels, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256 * (height // 8) * (width // 8), 256),
            nn.ReLU(),
            nn.Linear(256, classes),
        )
        _kaiming_uniform(self)


class VGG16(nn.Sequential):
    """VGG16 with group normalization after every convolution, and 256 units [Fan et al. 2020, Table 5].

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width).
    classes : int

    Notes
    -----
    The sizes in Table 5 contradict one another (4096 features are not those of 512 channels): every pooling halves, as
    in VGG16, so that images of 32x32 have 512 features; odd sizes are rounded up, for 28x28.
    """

    def __init__(self, input_shape: Shape, classes: int):
        check_images("a VGG16", input_shape, 1)
        before, height, width = input_shape
        layers: list[nn.Module] = []
        for channels, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, channels, 3, padding=1), nn.GroupNorm(32, channels), nn.ReLU()]
                before = channels
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        features = 512 * -(-height // 32) * -(-width // 32)
        super().__init__(*layers, nn.Flatten(), nn.Linear(features, 256), nn.ReLU(), nn.Linear(256, classes))
        _kaiming_uniform(self)


def _kaiming_uniform(model: nn.Module) -> None:
    """Weights as in Table 3 of Fan et al. 2020; biases zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu")


def split(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """The backbone of a model, up to its flattened features, and the head behind it; they share the parameters.

    Raises
    ------
    UsageError
        If the model is no `torch.nn.Sequential` with a linear layer at its end and layers before it.
    """
    layers = list(model) if isinstance(model, nn.Sequential) else []
    if len(layers) < 2 or not isinstance(layers[-1], nn.Linear):
        raise UsageError(
            f"the model must be a torch.nn.Sequential that ends with a linear layer, got {type(model).__name__}"
        )
    flat = max((i for i, layer in enumerate(layers) if isinstance(layer, nn.Flatten)), default=0)
    cut = flat + 1 if any(True for layer in layers[:flat] for _ in layer.parameters()) else len(layers) - 1
    return nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:])


MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "dlnet": DLNet,
    "dlnet-tanh": DLNetTanh,
    "alexnet": AlexNet,
    "vgg16": VGG16,
    "logistic": partial(MLP, hidden=()),
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
        If there is no such model, it can't be made, it has lazy layers, or it keeps a state that is no parameter.
    """
    make = MODELS[name] if name in MODELS else _import(name)
    with seeded(seed):
        try:
            model = make(input_shape, classes)
        except UsageError:
            raise
        except Exception as error:  # whatever the user's code raises
            reason = " ".join(str(error).split())
            raise UsageError(
                f"--model must be callable with ({input_shape}, {classes}), got {name}: {reason}"
            ) from None
    if not isinstance(model, nn.Module) or not any(p.requires_grad for p in model.parameters()):
        raise UsageError(f"--model must be a torch.nn.Module with parameters to train, got {name}")
    if lazy := next((key for key, p in model.named_parameters() if nn.parameter.is_lazy(p)), None):
        raise UsageError(
            f"--model must know the shapes of its parameters, got {name} with the lazy {lazy}: "
            "give the layer its number of inputs, which follows from the shape that the model is called with"
        )
    if buffer := next((key for key, _ in model.named_buffers()), None):
        raise UsageError(
            f"--model must keep its whole state in parameters, got {name} with the buffer {buffer}: "
            "take group normalization instead of batch normalization"
        )
    return model.to(dtype)


def _import(name: str) -> Callable[[Shape, int], nn.Module]:
    check_name(name)
    module, _, attribute = name.partition(":")
    try:
        found: Callable[[Shape, int], nn.Module] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--model must be importable, got {name}: {error}") from None
    return found
