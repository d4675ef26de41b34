"""Residual networks whose connections are concatenations, without batch normalization."""

import torch
from torch import nn

from fedmpi.errors import UsageError


def check_images(what: str, input_shape: tuple[int, ...], least: int) -> None:
    """Raise UsageError unless inputs are images of so many pixels a side."""
    if len(input_shape) != 3 or min(input_shape[1:]) < least:
        raise UsageError(
            f"{what} must have images of at least {least}x{least} as inputs, got shape {input_shape}: "
            "--model mlp, mlp-3, mlp-5, mlp-7 and logistic take any"
        )


class _Block(nn.Module):
    """Two 3x3 convolutions with ReLU, on the block before and the one before that.

    Parameters
    ----------
    channels : int
        Of both inputs together.
    width : int
    stride : int
    """

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, stride, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU()
        self.shrink = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor, skipped: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        joined = x if skipped is None else torch.cat([x, skipped], 1)
        return self.relu(self.second(self.relu(self.first(joined)))), self.shrink(x)


class ConcatResNet(nn.Module):
    """ResNet of 6n + 2 layers for small images [He et al. 2016, section 4.2], with concatenation for addition.

    16, 32 and 64 channels in three stages of n blocks. A block gets the outputs of the two blocks before it,
    concatenated [Feng et al. 2020, Figure 2]. There is no batch normalization, which does not commute with a scaling;
    convolutions have biases, and He's initialization.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), both at least 4.
    classes : int
    layers : int
        6n + 2.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, layers: int = 20):
        super().__init__()
        check_images("a ResNet", input_shape, 4)
        if layers < 8 or (layers - 2) % 6:
            raise ValueError(f"the layers of a ResNet must be 6n + 2, got {layers}")
        self.stem = nn.Sequential(nn.Conv2d(input_shape[0], 16, 3, padding=1), nn.ReLU())
        blocks, inputs = [], [16]
        for width in (16, 32, 64):
            for number in range((layers - 2) // 6):
                blocks.append(_Block(sum(inputs[-2:]), width, 2 if width > 16 and number == 0 else 1))
                inputs.append(width)
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs, shape (n, classes)."""
        x, skipped = self.stem(x), None
        for block in self.blocks:
            x, skipped = block(x, skipped)
        outputs: torch.Tensor = self.linear(self.flatten(self.pool(x)))
        return outputs
