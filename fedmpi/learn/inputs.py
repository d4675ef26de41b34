"""Rows of a data set as tensors."""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def image_shape(features: int) -> tuple[int, ...]:
    """(1, s, s) or (3, s, s) where the features may be those of square images, else (features,)."""
    for channels in (1, 3):
        side = isqrt(features // channels)
        if side > 1 and channels * side * side == features:
            return (channels, side, side)
    return (features,)


def scale_of(X: NDArray[Any]) -> float:
    """The largest absolute value in a data set, by which its features are divided; public: 255 for images."""
    return float(max(abs(float(X.max())), abs(float(X.min())))) or 1.0


@dataclass(frozen=True, eq=False)
class Inputs:
    """Rows and labels, ready for a model."""

    X: torch.Tensor
    """Shape (n, *input_shape), in [-1, 1]."""
    y: torch.Tensor
    """Labels 0 … C-1, int64, shape (n,)."""

    @classmethod
    def of(
        cls,
        X: NDArray[Any],
        y: NDArray[np.int64],
        scale: float,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> "Inputs":
        """Divide features (n, d) by `scale`, and give them the shape of images where they are."""
        rows = (X.astype(np.float64) / scale).reshape(len(X), *image_shape(X.shape[1]))
        return cls(torch.tensor(rows, dtype=dtype, device=device), torch.tensor(y, device=device))

    def __len__(self) -> int:
        return len(self.y)
