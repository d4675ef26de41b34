"""How good a model is."""

import torch
from torch import nn

from fedmpi.learn.inputs import Inputs


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Inputs, batch: int = 1000) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy on some rows."""
    loss, right = 0.0, 0
    for start in range(0, len(inputs), batch):
        z = model(inputs.X[start : start + batch])
        y = inputs.y[start : start + batch]
        loss += float(nn.functional.cross_entropy(z, y, reduction="sum"))
        right += int((z.argmax(1) == y).sum())
    return loss / len(inputs), right / len(inputs)
