"""What the peers of `fedmpi bench niss` train: the same clients, model and epochs, in plain torch.

A peer may have an environment of its own; so its program, and this file beside it, import nothing of fedmpi. The folder
that a program gets has X.npy and y.npy, in which client k has the k-th of as many equal parts, X_test.npy, y_test.npy,
and work.json.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROWS_AT_ONCE = 1000
"""Test rows of a batch, as in PyTorch's own example for MNIST."""


@dataclass(frozen=True)
class Work:
    """What is to be done, as work.json says it."""

    folder: Path
    model: str
    clients: int
    per_round: int
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    chosen: list[list[int]]
    """The clients of each round; the first is a rehearsal."""

    @classmethod
    def of(cls, folder: str) -> "Work":
        """Read it."""
        return cls(Path(folder), **json.loads((Path(folder) / "work.json").read_text()))

    def net(self) -> nn.Module:
        """The MLP or the CNN of NISS, with the initial parameters of the seed."""
        torch.manual_seed(self.seed)
        if self.model == "mlp":
            layers = [nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)]
            return nn.Sequential(*layers)
        first = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10))

    def rows(self, client: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of a client; read once by each process."""
        return _rows(self.folder, client, self.clients)

    def test(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of the test rows."""
        X, y = (np.load(self.folder / f"{name}_test.npy") for name in "Xy")
        return _images(X), torch.tensor(y)

    def train(self, net: nn.Module, X: torch.Tensor, y: torch.Tensor) -> None:
        """E epochs of one client, as torch's and Flower's examples do them."""
        optimizer = torch.optim.SGD(net.parameters(), self.learning_rate)
        for _ in range(self.epochs):
            for batch in torch.split(torch.randperm(len(y)), self.batch_size):
                optimizer.zero_grad()
                torch.autograd.backward(nn.functional.cross_entropy(net(X[batch]), y[batch]))
                optimizer.step()

    @staticmethod
    @torch.no_grad()
    def accuracy(net: nn.Module, X: torch.Tensor, y: torch.Tensor) -> float:
        """On some rows."""
        parts = zip(torch.split(X, ROWS_AT_ONCE), torch.split(y, ROWS_AT_ONCE), strict=True)
        return sum(int((net(rows).argmax(1) == labels).sum()) for rows, labels in parts) / len(y)


@cache
def _rows(folder: Path, client: int, clients: int) -> tuple[torch.Tensor, torch.Tensor]:
    X, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "Xy")
    part = slice(client * len(y) // clients, (client + 1) * len(y) // clients)
    return _images(X[part]), torch.tensor(y[part])


def _images(X: np.ndarray) -> torch.Tensor:
    return torch.tensor(X).float().reshape(-1, 1, 28, 28) / 255
