"""The secret part of SPN: private layers, random targets, and the polarization loss [Fan et al. 2020, section 3.1]."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.crypto.random import Stream


def polarization_loss(v: torch.Tensor, targets: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """Equation (18), Σ_i max(m - v_i t_i, 0), mean over the rows.

    Parameters
    ----------
    v : Tensor, shape (B, K)
        Outputs of the secret network.
    targets : Tensor, shape (B, K)
        Codes in {-1, 1}: of each row's own class (equations (5) and (6) sum over all classes, which can't be meant).
    margin : float
        m ≥ 1, so that the loss bounds the Hamming distance (Lemma 5.5).
    """
    return torch.relu(margin - v * targets).sum(1).mean()


def hamming_distances(v: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """D_h = (K - Bin(v)·t)/2 of Lemma 5.5, shape (B,); Bin(0) counts as a wrong bit."""
    return (v * targets <= 0).sum(1)


class Polarization(nn.Module):
    """The private layers and targets of one client: they are made there, and never leave it.

    Parameters
    ----------
    features : int
        Size of the backbone's flattened output.
    classes : int
        C.
    bits : int
        K.
    hidden : int
        Units of the hidden layer.
    margin : float
        m.
    stream : Stream
        Secret randomness: weights and targets come from it.
    """

    targets: torch.Tensor

    def __init__(self, features: int, classes: int, bits: int, hidden: int, margin: float, stream: Stream):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, bits))
        self.margin = margin
        with torch.no_grad():
            for parameter, fan_in in zip(self.parameters(), (features, features, hidden, hidden), strict=True):
                reach = fan_in**-0.5
                draws = secret_uniform(stream, parameter.numel())
                parameter.copy_(torch.from_numpy((2 * draws - 1) * reach).view_as(parameter))
        signs = np.where(secret_uniform(stream, classes * bits) < 0.5, -1.0, 1.0).reshape(classes, bits)
        self.register_buffer("targets", torch.from_numpy(signs).float())

    def forward(self, features: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The polarization loss of a batch, a scalar."""
        return polarization_loss(self.layers(features), self.targets[y], self.margin)


def secret_uniform(stream: Stream, count: int) -> NDArray[np.float64]:
    """Independent numbers from U(0, 1), shape (count,), from 32 bits each."""
    out = np.empty(count)
    step = 1 << 16
    for start in range(0, count, step):
        part = out[start : start + step]
        part[:] = (stream.words(len(part)) + 0.5) * 2.0**-32
    return out
