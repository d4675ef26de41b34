"""Rows of a data set as tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.data import Dataset, Preparation
from fedmpi.data.column import number_of


def input_shape(data: Dataset) -> tuple[int, ...]:
    """Of one row as a model gets it: that of an image where rows are images, else (features,)."""
    return data.shape or (data.X_train.shape[1],)


def divisor_of(data: Dataset) -> float:
    """What features are divided by: of images their largest value; a table has been prepared when it was loaded."""
    return scale_of(data.X_train) if data.shape else 1.0


def scale_of(X: NDArray[Any]) -> float:
    """The largest absolute value in a data set, by which its features are divided; public: 255 for images."""
    return float(max(abs(float(X.max())), abs(float(X.min())))) or 1.0


@dataclass(frozen=True, eq=False)
class Inputs:
    """Rows and labels, ready for a model."""

    X: torch.Tensor
    """Shape (n, *input_shape)."""
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
        *,
        shape: tuple[int, ...] | None = None,
    ) -> "Inputs":
        """Divide features (n, d) by `scale`, and give each row a shape. Default: (d,)."""
        rows = (X.astype(np.float64) / scale).reshape(len(X), *(shape or X.shape[1:]))
        return cls(torch.tensor(rows, dtype=dtype, device=device), torch.tensor(y, device=device))

    def __len__(self) -> int:
        return len(self.y)


class Rescaled(torch.nn.Module):
    """The first layer of a model that takes raw rows: columns are chosen, filled, cut off, moved and divided.

    Parameters
    ----------
    shape : tuple of int
        Of one input of the model.
    divisor : float
        What all features are divided by in the end.
    preparation : Preparation, optional
        Of the columns of a table; columns of text, if it has any, must have been prepared before.
    dtype : torch.dtype
        Of the model.
    """

    def __init__(self, shape: tuple[int, ...], divisor: float, preparation: Preparation | None, dtype: torch.dtype):
        super().__init__()
        self.shape, self.divisor, self.dtype = shape, divisor, dtype
        columns = preparation.columns if preparation is not None else ()
        self.rescales = bool(columns) and not any(column.values for column in columns)
        kept = [(k, column) for k, column in enumerate(columns) if not column.dropped] if self.rescales else []
        self.register_buffer("places", torch.tensor([k for k, _ in kept], dtype=torch.int64))
        for name in ("fill", "lower", "upper", "mean", "deviation"):
            values = [number_of(getattr(column, name)) for _, column in kept]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Rows (n, d) → (n, *shape)."""
        rows = X.double().flatten(1)
        if self.rescales:
            values = {name: self.get_buffer(name) for name in ("fill", "lower", "upper", "mean", "deviation")}
            rows = rows[:, self.get_buffer("places")]
            rows = torch.where(rows.isnan(), values["fill"], rows).clamp(values["lower"], values["upper"])
            rows = (rows - values["mean"]) / values["deviation"]
        return (rows / self.divisor).to(self.dtype).reshape(-1, *self.shape)  # len(X) would be one number in ONNX
