"""The clients of SPN: Algorithm 1, for all clients that live on one rank, and what they keep to themselves."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.crypto.random import SecretStream, Stream
from fedmpi.federated.rows import rows_here
from fedmpi.learn import (
    FlatModel,
    Inputs,
    build_model,
    split,
    stream,
    train_clients,
)
from fedmpi.learn.balance import balanced_weights, weighted_cross_entropy
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.learn.layout import layout_for
from fedmpi.learn.randomness import draws, randomness
from fedmpi.runs.job import Job
from fedmpi.spn.params import Params
from fedmpi.spn.polarization import Polarization, secret_reach
from fedmpi.spn.sharing import largest, noise

Vector = NDArray[np.float64]


class Worker:
    """A public model for one thread, into which one client after another is loaded.

    Parameters
    ----------
    model : torch.nn.Module
        Copied.
    params : Params
    """

    def __init__(self, model: nn.Module, params: Params):
        self.params = params
        self.flat = FlatModel(copy.deepcopy(model), params.device)
        own = self.flat.model
        parts: tuple[nn.Module, nn.Module] = split(own) if params.method == "spn" else (nn.Identity(), own)
        self.backbone, self.head = parts

    def features(self, input_shape: tuple[int, ...]) -> int:
        """Size of the backbone's flattened output."""
        with torch.no_grad():
            probe = torch.zeros((1, *input_shape), dtype=self.flat.values.dtype, device=self.flat.values.device)
            return int(self.backbone(probe).reshape(1, -1).shape[1])

    def train(
        self,
        G: Vector,
        inputs: Inputs,
        order: np.random.Generator,
        learning_rate: float,
        private: Polarization | None,
        secret: Stream,
        weights: torch.Tensor | None = None,
    ) -> Vector:
        """Lines 2 to 6 of Algorithm 1: ΔW_i = W_i - G, shape (h,); the private network changes in place.

        Parameters
        ----------
        order : Generator
            For the order of the rows.
        learning_rate : float
            η.
        private : Polarization, optional
            Of this client; without one the loss is the cross-entropy.
        secret : Stream
            For the noise.
        weights : tensor, shape (classes,), optional
            Of the classes.
        """
        params = self.params
        self.flat.load(G)
        own = (p for p in self.flat.model.parameters() if p.requires_grad)
        trained = [*own, *(private.parameters() if private else ())]
        optimizer = optimizer_of(params, trained, learning_rate)
        self.flat.model.train()
        laid = layout_for(self.flat.model, inputs.X)
        for X, y in params.training.batches(inputs, params.training.orders(len(inputs), order)):
            optimizer.zero_grad(set_to_none=False)
            torch.autograd.backward(self.loss(laid(X), y, private, weights))
            if params.noise_std:
                drawn = noise(secret, len(self.flat), params.noise_std, params.noise_kind)
                self.flat.gradient.add_(torch.from_numpy(drawn).to(self.flat.gradient))
            optimizer.step()
        change = self.flat.read()
        change -= G
        return largest(change, params.share_fraction) if params.method == "ppdl" else change

    def loss(
        self, X: torch.Tensor, y: torch.Tensor, private: Polarization | None, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Equation (4), with α₁ = 1 and the own class of each row (erratum)."""
        features = self.backbone(X)
        z = self.head(features)
        entropy = nn.functional.cross_entropy(z, y) if weights is None else weighted_cross_entropy(z, y, weights)
        loss = self.params.alpha1 * entropy
        if private is None:
            return loss
        polarization: torch.Tensor = private(features, y)
        return loss + self.params.alpha2 * polarization


def optimizer_of(params: Params, trained: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Adam or SGD as in Tables 2 and 3."""
    if params.optimizer == "adam":
        return torch.optim.Adam(trained, lr=learning_rate)
    return torch.optim.SGD(trained, lr=learning_rate, momentum=params.momentum)


@dataclass(frozen=True, eq=False)
class Clients:
    """The clients of one rank: their rows, what they train with, and their secrets."""

    inputs: dict[int, Inputs]
    workers: list[Worker]
    """One for each thread."""
    job: Job[Params]
    classes: int
    private: dict[int, Polarization] = field(default_factory=dict)
    """Never sent: no message has a place for them."""
    secret: Callable[[], Stream] = SecretStream
    draws: bool = False
    """Whether the model draws random numbers in training."""

    @classmethod
    def load(
        cls,
        job: Job[Params],
        host: int,
        hosts: int,
        clients: int,
        threads: int,
        secret: Callable[[], Stream] = SecretStream,
    ) -> "Clients":
        """Read the data set, keep the rows of the clients of one host (0 ≤ host < hosts), and draw their secrets."""
        params, data = job.params, job.load()
        dtype = getattr(torch, params.dtype)
        parts = rows_here(job, data, host, hosts, clients)
        scale, shape, classes = divisor_of(data), input_shape(data), len(data.classes)
        inputs = {
            k: Inputs.of(data.X_train[parts[k]], data.y_train[parts[k]], scale, dtype, params.device, shape=shape)
            for k in parts
        }
        model = build_model(params.model, shape, classes, job.seed, dtype)
        workers = [Worker(model, params) for _ in range(threads)]
        private = {}
        if params.method == "spn":
            sizes = (workers[0].features(shape), classes, params.bits, params.hidden, params.margin)
            reach = secret_reach(params.secret_reach, model)
            private = {k: Polarization(*sizes, secret(), reach).to(params.device, dtype) for k in inputs}
        return cls(inputs, workers, job, classes, private, secret, draws(model, shape))

    @property
    def parameters(self) -> int:
        """H."""
        return len(self.workers[0].flat)

    def update(self, clients: Sequence[int], round_: int, starts: Vector) -> Vector:
        """ΔW_i of each client from its model, shape (n, h)."""
        learning_rate = self.job.params.learning_rate_of(round_)
        places = {k: i for i, k in enumerate(clients)}

        def one(worker: Worker, k: int) -> Vector:
            order = stream(self.job.seed, "batches", k, round_)
            private = self.private.get(k)
            own, weights = self.inputs[k], None
            if self.job.class_weight:
                weights = balanced_weights(own.y, self.classes)
            with randomness(self.draws, self.job.seed, k, round_):
                return worker.train(starts[places[k]], own, order, learning_rate, private, self.secret(), weights)

        return np.stack(train_clients(one, self.workers, clients))
