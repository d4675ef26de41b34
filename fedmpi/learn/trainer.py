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
from fedmpi.learn.parameters import FlatModel
from fedmpi.learn.perceptron import Perceptron
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

    def batches(self, inputs: Inputs, order: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and labels of every batch of all epochs; each epoch in another order."""
        for _ in range(self.epochs):
            rows = torch.from_numpy(order.permutation(len(inputs))).to(inputs.y.device)
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
        With the default, perceptrons (MLP) take steps that are worked out by hand, 3 times as fast.
    device : str

    Notes
    -----
    One thread at a time may use a trainer. A subclass may override `step`.
    """

    def __init__(self, model: nn.Module, settings: LocalTraining, loss: Loss = cross_entropy, device: str = "cpu"):
        self.flat = FlatModel(copy.deepcopy(model), device)
        self.model, self.settings, self.loss = self.flat.model, settings, loss
        self.velocity = torch.zeros_like(self.flat.values) if settings.momentum else None
        perceptron = loss is cross_entropy and settings.momentum == 0
        self._by_hand = Perceptron.of(self.model) if perceptron else None

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
        if self.velocity is not None:
            self.velocity.zero_()
        self.model.train()
        for X, y in self.settings.batches(inputs, order):
            self.step(X, y)
        return self.flat.read()

    def step(self, X: torch.Tensor, y: torch.Tensor) -> None:
        """One step of gradient descent on a batch."""
        rate, clip = self.settings.learning_rate, self.settings.clip
        if self._by_hand is not None:
            self._by_hand.step(X, y, rate, clip)
            return
        self.backward(X, y)
        gradient = self.flat.gradient
        if clip != float("inf"):
            gradient *= torch.clamp(clip / gradient.norm(), max=1.0)
        if self.velocity is not None:
            gradient = self.velocity.mul_(self.settings.momentum).add_(gradient)
        self.flat.values.add_(gradient, alpha=-rate)

    def backward(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The gradient of the loss on a batch at the present parameters, shape (h,); valid until the next step."""
        self.flat.gradient.zero_()
        torch.autograd.backward(self.loss(self.model, X, y))
        return self.flat.gradient
