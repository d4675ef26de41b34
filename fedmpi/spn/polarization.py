"""The secret part of SPN: private layers, random targets, and the polarization loss [Fan et al. 2020, section 3.1]."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.crypto.random import Stream
from fedmpi.learn.models import DLNet

TABLE_2 = 0.3
"""The networks of the paper's privacy analysis begin in U(-0.3, 0.3)."""


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
    reach : float, optional
        Parameters begin in U(-reach, reach). None: weights in U(±√(6/inputs)), which is Kaiming's uniform; biases zero.
    """

    targets: torch.Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        bits: int,
        hidden: int,
        margin: float,
        stream: Stream,
        reach: float | None = TABLE_2,
    ):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, bits))
        self.margin = margin
        with torch.no_grad():
            for parameter in self.parameters():
                draws = torch.from_numpy(2 * secret_uniform(stream, parameter.numel()) - 1).view_as(parameter)
                kaiming = (6 / parameter.shape[1]) ** 0.5 if parameter.ndim > 1 else 0.0
                parameter.copy_(draws * (kaiming if reach is None else reach))
        signs = np.where(secret_uniform(stream, classes * bits) < 0.5, -1.0, 1.0).reshape(classes, bits)
        self.register_buffer("targets", torch.from_numpy(signs).float())

    def forward(self, features: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The polarization loss of a batch, a scalar."""
        return polarization_loss(self.layers(features), self.targets[y], self.margin)


def secret_reach(given: float | None, model: nn.Module) -> float | None:
    """Where a secret network beside a model begins, if not told: as the paper has the model itself.

    With Table 2's U(-0.3, 0.3) beside a DLNet and Table 3's Kaiming beside others, ‖B_I‖/‖E_B‖ of fresh models is about
    1 at α₂ = 0.1, as the caption of Figure 28 has it; with torch's own initialization it would be 7 to 48.
    """
    return given if given is not None else TABLE_2 if isinstance(model, DLNet) else None


def secret_uniform(stream: Stream, count: int) -> NDArray[np.float64]:
    """Independent numbers from U(0, 1), shape (count,), from 32 bits each."""
    out = np.empty(count)
    step = 1 << 16
    for start in range(0, count, step):
        part = out[start : start + step]
        part[:] = (stream.words(len(part)) + 0.5) * 2.0**-32
    return out
