"""The clients of a federated run: what the judge knows of them, and what each of them sent in its first round."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks.gradients import Gradient, trained
from fedmpi.audit.recording import Recorded, Seen
from fedmpi.errors import UsageError
from fedmpi.learn import FlatModel

SERVER = 0

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Client:
    """What the judge knows."""

    X: NDArray[np.float64]
    """Rows as the model gets them, shape (n, *input_shape)."""
    y: NDArray[Any]
    """Labels; or targets, where they are values."""


@dataclass(frozen=True, eq=False)
class Federated:
    """A federated run: the public model, and the clients' secrets."""

    model: nn.Module
    """With its initial parameters."""
    classes: int
    clients: dict[int, Client]

    def gradient(self, flat: Vector) -> Gradient:
        """A vector of h numbers as tensors in the order of the model's parameters, of those that are trained."""
        like = trained(self.model)
        parts = torch.split(torch.from_numpy(np.array(flat)), [part.numel() for part in like])
        return tuple(part.view_as(p) for part, p in zip(parts, like, strict=True))

    def load(self, w: Vector) -> None:
        """Set the model's parameters."""
        flat = FlatModel(self.model)
        flat.load(w)


def federated(run: Recorded) -> Federated:
    """What a run of niss, spn or pbpfl trained, and on what."""
    options = run.options
    arguments = (options.dataset or "digits", options.scaled_load_arguments(), options.seed)
    K = int(run.result["params"]["clients"])
    if run.system == "pbpfl":
        return _of_pbpfl(run, arguments, K)
    own: Any
    if run.system == "niss":
        from fedmpi.niss import client as niss
        from fedmpi.niss.params import Params as NissParams
        from fedmpi.runs.job import Job

        own = niss.Clients.load(Job(run.parameters(NissParams), *arguments), 0, 1, K, 1)
        model = own.trainers[0].model
    else:
        from fedmpi.runs.job import Job
        from fedmpi.spn import client as spn
        from fedmpi.spn.params import Params as SpnParams

        own = spn.Clients.load(Job(run.parameters(SpnParams), *arguments), 0, 1, K, 1)
        model = own.workers[0].flat.model
    clients = {k: Client(inputs.X.double().numpy(), inputs.y.numpy()) for k, inputs in own.inputs.items()}
    classes = list(model.modules())[-1].out_features
    return Federated(model, classes, clients)


def _of_pbpfl(run: Recorded, arguments: tuple[Any, ...], K: int) -> Federated:
    from fedmpi.pbpfl.params import Params
    from fedmpi.pbpfl.problem import Problem
    from fedmpi.runs.job import Job

    problem = Problem(Job(run.parameters(Params), *arguments))
    clients = {}
    for k, rows in enumerate(problem.clients(K)):
        part = problem.training(rows)
        y = part.targets[:, 0].double() if part.labels is None else part.labels
        clients[k] = Client(part.X.double().numpy(), y.numpy())
    return Federated(problem.model(), problem.outputs, clients)


@dataclass(frozen=True, eq=False)
class Upload:
    """What the server can make of what one client sent in a round."""

    client: int
    w: Vector
    """The parameters that the client began with, shape (h,)."""
    change: Vector
    """w - w': η times a gradient after one step of gradient descent, and a gradient itself of pbpfl."""
    more: tuple[Vector, ...] = ()
    """Of pbpfl the corrections σ and β: products of the same rows, as the gradient is."""


def uploads(run: Recorded) -> Iterator[Upload]:
    """The first upload of each client: from rank 0's view, and the `Round` that rank 0 sent for it."""
    read = {"niss": _of_niss, "spn": _of_spn, "pbpfl": _gradients}[run.system]
    done: set[int] = set()
    for upload in read(run):
        if upload.client not in done:
            done.add(upload.client)
            yield upload


def orders(run: Recorded) -> Iterator[Seen]:
    """The `Round` messages that the server sent, as the hosts got them."""
    for rank in run.ranks[1:]:
        yield from run.view(rank, "Round")


def _of_niss(run: Recorded) -> Iterator[Upload]:
    weights: dict[tuple[int, int], float] = {}
    starts: dict[int, Vector] = {}
    for order in orders(run):
        t = int(order["round"])
        starts[t] = order["w"]
        weights |= {(t, int(k)): float(p) for k, p in zip(order["clients"], order["weights"], strict=True)}
    for seen in run.view(SERVER, "Uploads"):
        t = int(seen["round"])
        for k, value in zip(seen["clients"].tolist(), seen["values"], strict=True):
            yield Upload(k, starts[t], starts[t] - value / weights[t, k])


def _of_spn(run: Recorded) -> Iterator[Upload]:
    starts = {}
    for order in orders(run):
        t, turn = int(order["round"]), int(order["turn"])
        for i, k in enumerate(order["clients"].tolist()):
            starts[t, turn, k] = order["G"][min(i, len(order["G"]) - 1)]
    for seen in run.view(SERVER, "Changes"):
        t, turn = int(seen["round"]), int(seen["turn"])
        for k, value in zip(seen["clients"].tolist(), seen["values"], strict=True):
            yield Upload(k, starts[t, turn, k], -value)


def _gradients(run: Recorded) -> Iterator[Upload]:
    from fedmpi.pbpfl.messages import from_bytes
    from fedmpi.pbpfl.params import Params
    from fedmpi.pbpfl.ring import to_reals

    params = run.parameters(Params)
    starts = {int(order["round"]): from_bytes(order["w"], params) for order in orders(run)}
    for seen in run.view(SERVER, "Masked" if params.masked else "Terms"):
        w = starts[int(seen["round"])]
        for k, row in zip(seen["clients"].tolist(), seen["words" if params.masked else "values"], strict=True):
            if params.masked:
                words = np.ascontiguousarray(row).view(f"<u{params.ring_bits // 8}")
                terms = to_reals(words, params).reshape(params.terms, -1)
            else:
                terms = from_bytes(row, params).reshape(params.terms, -1)
            yield Upload(k, w, terms[0], tuple(terms[1:]))


@dataclass(frozen=True)
class Step:
    """How much data an upload is made of."""

    steps: int
    rows: int

    @property
    def single(self) -> bool:
        """Whether it is the gradient of one row."""
        return self.steps == self.rows == 1

    def used(self, rows: int) -> int:
        """How many of a client's rows are in its upload."""
        return min(rows, self.steps * self.rows)

    def __str__(self) -> str:
        """For the table."""
        return f"one upload, {self.steps} step{'s'[: self.steps > 1]} on {self.rows} row{'s'[: self.rows > 1]}"


def step_of(run: Recorded, client: Client) -> Step:
    """Of a client's upload.

    Raises
    ------
    UsageError
        If the client's steps are no gradients.
    """
    if run.system == "spn" and run.config["optimizer"] == "adam":
        raise UsageError("--optimizer must be sgd for an audit of uploads, got adam, whose steps are no gradients")
    size, rows = int(run.config["batch_size"]), len(client.X)
    steps = 1 if run.system == "pbpfl" else int(run.config["epochs"]) * -(-rows // size)
    return Step(steps, min(size, rows))
