"""Whose row was it, and was it there at all: gradients of 1000 rows, beside all rows of the test part.

The paper traces X = 1000 images of N = 10 participants by reconstructions, and asks for every row of a data set. Who
knows the model can do without reconstructions: a row that is asked for has a gradient, and a shared one is that of the
row, or it is not. No search is needed, so that 1000 rows in each setting cost seconds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import nn

from fedmpi.attacks.case import fresh_model, share
from fedmpi.attacks.inference import Roc, loss_threshold, tracing_distance
from fedmpi.attacks.labels import label_of
from fedmpi.attacks.params import Params
from fedmpi.crypto.random import SecretStream
from fedmpi.data import load
from fedmpi.learn import split
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.reproduce.spn.mechanisms import Mechanism
from fedmpi.runs.options import parse

SHARED, PARTICIPANTS, ASKED = 1000, 10, 10_000
"""X and N of the tracing attack (Appendix C); and rows that are asked for, at most: gradients of all are kept."""

_AT_ONCE = 250

_ROUNDING = 1e-9
"""Of the mean squared length: as small a variance is counted with where there is no noise."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Told:
    """What the gradients of one setting tell."""

    mechanism: str
    setting: float
    labels: float
    """Part of the labels that iDLG's rule gets wrong: the paper's membership distance."""
    tracing: float
    """Part of the rows that are traced to another participant than their own."""
    named: float
    """Part of the gradients of which the likeliest row of all is their own."""
    membership: Roc
    """Of all rows that are asked for: was it one of those whose gradients were shared?"""


def members(
    dataset: str,
    data_dir: Path | None,
    mechanisms: tuple[Mechanism, ...],
    shared: int = SHARED,
) -> list[Told]:
    """Every mechanism at every setting, on one fresh DLNet; clients have batches of one row, and secrets of their own.

    Parameters
    ----------
    shared : int
        Rows whose gradients are shared: the first of the test part.
    """
    torch.set_num_threads(1)
    data = load(dataset, data_dir=data_dir)
    shape, classes, asked = input_shape(data), len(data.classes), min(ASKED, len(data.X_test))
    X = torch.tensor(data.X_test[:asked].astype(np.float32) / divisor_of(data)).reshape(asked, *shape)
    y = torch.tensor(data.y_test[:asked].astype(np.int64))
    name = "dlnet-tanh" if dataset == "svhn" else "dlnet"
    model = fresh_model(Params(model=name), shape, classes, 0)
    G = np.concatenate(list(gradients_of_each(model, X, y)))
    backbone = sum(parameter.numel() for parameter in split(model)[0].parameters())
    found = []
    for mechanism in mechanisms:
        for value in mechanism.values if mechanism.adversary == "dlg" else ():
            params = params_of(mechanism, value, name)
            each = [share(params, model, X[i : i + 1], y[i : i + 1], classes, SecretStream()) for i in range(shared)]
            labels = np.array([label_of(gradient) for gradient in each])
            S = np.stack([torch.cat([part.reshape(-1) for part in gradient]).numpy() for gradient in each])
            if params.defence == "spn":  # the secret changes the backbone's gradient, the public head's is as it was
                scores = whose(S[:, backbone:], G[:, backbone:], 0.0)
            else:
                scores = whose(S, G, params.noise_std, sent_only=params.defence == "ppdl")
            found.append(told(mechanism, value, float(np.mean(labels != data.y_test[:shared])), scores))
    return found


def params_of(mechanism: Mechanism, value: float, model: str) -> Params:
    """Of the client's defence, as the command line reads them."""
    options = ["--model", model, *mechanism.attack, mechanism.setting, str(value)]
    return parse(Params, options, "fedmpi attack --", "")[0]


def gradients_of_each(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> Iterator[Floats]:
    """The gradient of each row, shape (rows, parameters), some rows at a time."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(own: dict[str, torch.Tensor], row: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        outputs = torch.func.functional_call(model, own, (row[None],))
        return nn.functional.cross_entropy(outputs, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    for rows, labels in zip(torch.split(X, _AT_ONCE), torch.split(y, _AT_ONCE), strict=True):
        parts = each(parameters, rows, labels)
        yield torch.cat([part.reshape(len(rows), -1) for part in parts.values()], 1).numpy()


def whose(S: Floats, G: Floats, noise: float, *, sent_only: bool = False) -> Floats:
    """Logarithms of how probable it is that a shared gradient is that of each row, shape (shared, rows).

    The adversary knows the rows' gradients and how large the noise is, and takes every row for as likely before.

    Parameters
    ----------
    S, G : array, shapes (shared, parameters), (rows, parameters)
    noise : float
        Standard deviation in each coordinate; no less is counted with than float32 rounds.
    sent_only : bool
        Compare only what is not zero in the shared one.
    """
    sizes = G**2
    squares = (S != 0).astype(np.float32) @ sizes.T if sent_only else sizes.sum(1)[None]
    variance = max(noise**2, _ROUNDING * float(sizes.sum(1).mean()))
    likelihood = (2 * S @ G.T - squares) / np.float32(2 * variance)
    found: Floats = likelihood - logsumexp(likelihood, axis=1, keepdims=True)
    return found


def told(mechanism: Mechanism, value: float, labels: float, scores: Floats) -> Told:
    """What these probabilities say; the gradients are those of the first rows."""
    count = len(scores)
    owners = np.arange(count) * min(PARTICIPANTS, count) // count
    found = owners[scores[:, :count].argmax(0)]
    best = -scores.max(0)
    named = float((scores.argmax(1) == np.arange(count)).mean())
    return Told(
        mechanism.name,
        value,
        labels,
        tracing_distance(found, owners),
        named,
        loss_threshold(best[:count], best[count:]),
    )
