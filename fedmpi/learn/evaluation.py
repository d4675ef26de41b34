"""How good a model is."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.learn.inputs import Inputs
from fedmpi.learn.layout import layout_for

ROWS_AT_ONCE = 32
"""Rows that are evaluated together.

The activations of so few images stay in memory that malloc keeps; those of many are given back to the system after each
layer and fetched again page by page, which takes longer than the layers, and threads wait there for one another.
"""


def evaluate(model: nn.Module, inputs: Inputs, batch: int = ROWS_AT_ONCE, threads: int = 1) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy on some rows; the same for every number of threads."""
    return evaluate_outputs(model, inputs, batch, threads)[:2]


def evaluate_outputs(
    model: nn.Module, inputs: Inputs, batch: int = ROWS_AT_ONCE, threads: int = 1
) -> tuple[float, float, NDArray[np.float64]]:
    """The same, and the outputs, shape (n, classes)."""
    laid = layout_for(model, inputs.X)

    @torch.no_grad()
    def one(start: int) -> tuple[float, int, torch.Tensor]:
        z = model(laid(inputs.X[start : start + batch]))
        y = inputs.y[start : start + batch]
        return float(nn.functional.cross_entropy(z, y, reduction="sum")), int((z.argmax(1) == y).sum()), z

    starts = range(0, len(inputs), batch)
    if threads == 1:
        results = [one(start) for start in starts]
    else:
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(one, starts))
    losses, right, outputs = zip(*results, strict=True)
    z = torch.cat(outputs).to("cpu", torch.float64).numpy()
    return sum(losses) / len(inputs), sum(right) / len(inputs), z
