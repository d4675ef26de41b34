"""Local training: stochastic gradient descent from one vector of parameters to another."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.learn.inputs import Inputs
from fedmpi.learn.layout import layout_for
from fedmpi.learn.local_training import LocalTraining
from fedmpi.learn.parameters import FlatModel
from fedmpi.learn.perceptron import Perceptron
from fedmpi.learn.thin import Gradients

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model, inputs of a batch, labels) → a scalar that is minimized."""


def cross_entropy(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the softmax of the model's outputs."""
    return nn.functional.cross_entropy(model(X), y)


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
