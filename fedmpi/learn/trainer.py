"""Local training: stochastic gradient descent from one vector of parameters to another."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.errors import UsageError
from fedmpi.learn.inputs import Inputs
from fedmpi.learn.layout import layout_for
from fedmpi.learn.parameters import FlatModel
from fedmpi.learn.perceptron import Perceptron
from fedmpi.learn.thin import Gradients
from fedmpi.rules import at_least, positive

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model, inputs of a batch, labels) → a scalar that is minimized."""


def cross_entropy(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the softmax of the model's outputs."""
    return nn.functional.cross_entropy(model(X), y)


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains in a round.

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    epochs: int = 5
    """E: passes over the client's rows."""
    batch_size: int = 10
    """B; the last batch of a pass may be smaller."""
    learning_rate: float = 0.01
    """η."""
    momentum: float = 0.0
    """μ: v ← μv + g, w ← w - ηv, beginning with v = 0 in every round."""
    clip: float = float("inf")
    """ζ: a batch's gradient with a larger Euclidean norm is scaled down to it."""

    def __post_init__(self) -> None:
        at_least(self, epochs=1, batch_size=1)
        positive(self, "learning_rate")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"--momentum must be in [0, 1), got {self.momentum}")
        if not self.clip > 0:
            raise UsageError(f"the norm that gradients are clipped to must be positive, got {self.clip}")

    def orders(self, rows: int, order: np.random.Generator) -> NDArray[np.int64]:
        """The order of the rows in each epoch, shape (E, rows)."""
        return np.stack([order.permutation(rows) for _ in range(self.epochs)])

    def batches(self, inputs: Inputs, orders: NDArray[np.int64]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and labels of every batch of all epochs, each in its order."""
        for order in orders:
            rows = torch.from_numpy(order).to(inputs.y.device)
            X, y = inputs.X.index_select(0, rows), inputs.y.index_select(0, rows)
            yield from zip(torch.split(X, self.batch_size), torch.split(y, self.batch_size), strict=True)

    def steps(self, rows: int) -> int:
        """E ⌈d_k/B⌉."""
        return self.epochs * -(-rows // self.batch_size)


class Trainer:
    """Trains copies of one model, for one client after another.

    Parameters
    ----------
    model : torch.nn.Module
        Copied; its parameters are of no account.
    settings : LocalTraining
    loss : Loss
        With the default, perceptrons (MLP) take steps that are worked out by hand, several times as fast.
    device : str

    Notes
    -----
    One thread at a time may use a trainer. A subclass may override `step`.
    """

    def __init__(self, model: nn.Module, settings: LocalTraining, loss: Loss = cross_entropy, device: str = "cpu"):
        self.flat = FlatModel(copy.deepcopy(model), device)
        self.model, self.settings, self.loss = self.flat.model, settings, loss
        by_hand = loss is cross_entropy and settings.momentum == 0 and type(self).step is Trainer.step
        self._by_hand = Perceptron.of(self.model) if by_hand else None
        self._gradients = Gradients(self.model)
        self._trained = [p.data for p in self.model.parameters() if p.requires_grad]
        self._velocity = [torch.zeros_like(p) for p in self._trained] if settings.momentum else []
        self._layout: Callable[[torch.Tensor], torch.Tensor] | None = None

    def train(self, w: NDArray[np.float64], inputs: Inputs, order: np.random.Generator) -> NDArray[np.float64]:
        """Parameters after E epochs on a client's rows, shape (h,).

        Parameters
        ----------
        w : array, shape (h,)
            Where to begin.
        inputs : Inputs
            On the device of the trainer.
        order : Generator
            For the order of the rows; keyed by (client, round).
        """
        self.flat.load(w)
        for v in self._velocity:
            v.zero_()
        self.model.train()
        settings = self.settings
        orders = settings.orders(len(inputs), order)
        B, rate, clip = settings.batch_size, settings.learning_rate, settings.clip
        if self._by_hand is None or not self._by_hand.train(self.flat.values, inputs, orders, B, rate, clip):
            for X, y in settings.batches(inputs, orders):
                self.step(X, y)
        return self.flat.read()

    def step(self, X: torch.Tensor, y: torch.Tensor) -> None:
        """One step of gradient descent on a batch."""
        rate, clip = self.settings.learning_rate, self.settings.clip
        if self._by_hand is not None:
            self._by_hand.step(X, y, rate, clip)
            return
        if self._layout is None:
            self._layout = layout_for(self.model, X)
        gradients = self._gradients
        gradients.take(self.loss(self.model, self._layout(X), y))
        norm = gradients.norm() if clip != float("inf") else 0.0
        scale = clip / norm if norm > clip else 1.0
        if self._velocity:
            gradients.add_to(self._velocity, scale, keep=self.settings.momentum)
            for p, v in zip(self._trained, self._velocity, strict=True):
                p.add_(v, alpha=-rate)
        else:
            gradients.add_to(self._trained, -rate * scale)
