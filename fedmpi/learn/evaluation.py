"""How good a model is."""

import torch
from torch import nn

from fedmpi.learn.inputs import Inputs

ROWS_AT_ONCE = 32
"""Rows that are evaluated together.

The activations of so few images stay in memory that malloc keeps; those of many are given back to the system after each
layer and fetched again page by page, which takes longer than the layers, and threads wait there for one another.
"""


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Inputs, batch: int = ROWS_AT_ONCE) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy on some rows."""
    loss, right = 0.0, 0
    for start in range(0, len(inputs), batch):
        z = model(inputs.X[start : start + batch])
        y = inputs.y[start : start + batch]
        loss += float(nn.functional.cross_entropy(z, y, reduction="sum"))
        right += int((z.argmax(1) == y).sum())
    return loss / len(inputs), right / len(inputs)
