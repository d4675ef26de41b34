"""One attack: a fresh model, the gradient that a defended client shares of a batch, and what is recovered from it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks.cocktail import independent_images
from fedmpi.attacks.deep_leakage import Reconstruction, deep_leakage
from fedmpi.attacks.features import TRIES, Features, features_of, parts_of
from fedmpi.attacks.gradients import Gradient, gradient_of, trained
from fedmpi.attacks.inverting import invert
from fedmpi.attacks.labels import label_of
from fedmpi.attacks.linear import layer_input
from fedmpi.attacks.metrics import perturbation_ratio
from fedmpi.attacks.params import SEARCHES, Params
from fedmpi.attacks.secret_head import secret_head
from fedmpi.crypto.random import SecretStream, Stream
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.learn import build_model, cross_entropy, split
from fedmpi.spn.polarization import Polarization, secret_reach
from fedmpi.spn.sharing import largest, noise


@dataclass(frozen=True, eq=False)
class Finding:
    """What came of one attack."""

    reconstruction: Reconstruction
    ratio: float
    """‖B_I‖ / ‖E_B‖ of the shared gradient, over the biases."""
    label: int
    """By iDLG's rule, of the first row."""


def attack(
    params: Params,
    seed: int,
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    classes: int,
    weights: NDArray[np.float64] | None = None,
) -> Finding:
    """Share the gradient of a batch, and attack it.

    Parameters
    ----------
    seed : int
        Of the model and of the attack. The client's noise and secret network are secret.
    X : array, shape (N, *input_shape)
        In [0, 1].
    y : array of int, shape (N,)
    classes : int
        C.
    weights : array, optional
        Of the model, one after another, as `flat_of` gives them. Default: fresh ones.
    """
    torch.set_num_threads(1)
    model = fresh_model(params, X.shape[1:], classes, seed)
    if weights is not None and len(weights):
        put(model, weights)
    rows, labels = torch.tensor(X, dtype=getattr(torch, params.dtype)), torch.tensor(y.astype(np.int64))
    clean = gradient_of(model, rows, labels)
    shared = share(params, model, rows, labels, classes, SecretStream())
    return Finding(recover(params, model, shared, X.shape, classes, seed), ratio(clean, shared), label_of(shared))


def fresh_model(params: Params, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """The model as it is before any training."""
    model = build_model(params.model, input_shape, classes, seed, getattr(torch, params.dtype))
    if params.reach is not None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -params.reach, params.reach, generator)
    return model


def flat_of(arrays: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
    """Arrays one after another."""
    return np.concatenate([np.asarray(array, np.float64).reshape(-1) for array in arrays])


def put(model: nn.Module, weights: NDArray[np.float64]) -> None:
    """Give a model all its weights, in the order of its state.

    Raises
    ------
    ProtocolError
        If they are not as many.
    """
    values = list(model.state_dict().values())
    if (count := sum(value.numel() for value in values)) != len(weights):
        raise ProtocolError(f"the weights of the model must be {count} numbers, got {len(weights)}")
    parts = np.split(weights, np.cumsum([value.numel() for value in values])[:-1])
    for value, part in zip(values, parts, strict=True):
        value.copy_(torch.tensor(part).view_as(value))


def share(params: Params, model: nn.Module, X: torch.Tensor, y: torch.Tensor, classes: int, secret: Stream) -> Gradient:
    """The gradient of a batch, as a client with a defence shares it."""
    if params.defence == "spn":
        backbone, head = split(model)
        features = backbone(X[:1]).shape[1]
        reach = secret_reach(params.secret_reach, model)
        private = Polarization(features, classes, params.bits, params.hidden, params.margin, secret, reach).to(X.dtype)

        def loss(_: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = backbone(X)
            hidden: torch.Tensor = private(features, y)
            return nn.functional.cross_entropy(head(features), y) + params.alpha2 * hidden

        return gradient_of(model, X, y, loss)
    clean = gradient_of(model, X, y, cross_entropy)
    if params.defence == "none":
        return clean
    flat = torch.cat([part.reshape(-1) for part in clean]).double().numpy()
    if params.noise_std:
        flat = flat + noise(secret, len(flat), params.noise_std, params.noise_kind)
    if params.defence == "ppdl":
        flat = largest(flat, params.share_fraction)
    parts = torch.split(torch.from_numpy(flat).to(X.dtype), [part.numel() for part in clean])
    return tuple(part.view_as(like) for part, like in zip(parts, clean, strict=True))


def recover(
    params: Params, model: nn.Module, shared: Gradient, shape: tuple[int, ...], classes: int, seed: int
) -> Reconstruction:
    """Run the attack."""
    if params.attack in SEARCHES:
        model = model.to(params.device)
        shared = tuple(part.to(params.device) for part in shared)
    if params.attack == "inverting":
        return invert(model, shared, shape, classes, settings=params.inversion, seed=seed)
    if params.attack == "secret-head":
        return secret_head(model, shared, shape, classes, params.search, seed)
    if params.attack == "linear":
        return _linear(shared, shape, classes)
    if params.attack == "spear":
        return _spear(model, shared, shape, classes, params.steps or TRIES, seed)
    if params.attack == "cocktail":
        return _cocktail(model, shared, shape, classes, seed)
    return deep_leakage(model, shared, shape, classes, params.search, seed)


def _cocktail(model: nn.Module, shared: Gradient, shape: tuple[int, ...], classes: int, seed: int) -> Reconstruction:
    start, parts = time.process_time(), parts_of(model)
    if parts is None or trained(parts[0]) or len(shape) != 4:
        raise UsageError(
            f"--attack cocktail must meet images and a model that begins with a fully connected layer, got "
            f"{type(model).__name__}"
        )
    before, behind = parts
    W, b = shared[0].double().numpy(), shared[1].double().numpy()
    images, factors = independent_images(W, b, (shape[1], shape[2], shape[3]), shape[0], seed)
    found = Features(before, behind, *(torch.from_numpy(part).to(shared[0].dtype) for part in (images, factors)))
    labels = np.full((shape[0], classes), 1 / classes)
    labels[: len(images)] = np.eye(classes)[found.labels(classes).numpy()]
    grey = np.full((shape[0] - len(images), images.shape[1]), 0.5)  # rows for which there was no direction
    whole = np.vstack([images.clip(0, 1), grey]).reshape(shape)
    return Reconstruction(whole, labels, 0.0, 0, 0, 0, time.process_time() - start)


def _linear(shared: Gradient, shape: tuple[int, ...], classes: int) -> Reconstruction:
    start = time.process_time()
    W, b = shared[0].double().numpy(), shared[1].double().numpy()
    if W.ndim != 2 or W.shape[1] != int(np.prod(shape[1:])):
        raise UsageError(f"--attack linear must meet a model whose first layer is fully connected, got {W.shape}")
    images = layer_input(W, b).reshape(shape)
    labels = np.eye(classes)[[label_of(shared)]]
    return Reconstruction(images, labels, 0.0, 0, 0, 0, time.process_time() - start)


def _spear(
    model: nn.Module, shared: Gradient, shape: tuple[int, ...], classes: int, tries: int, seed: int
) -> Reconstruction:
    """Grey images where the batch was not found."""
    start = time.process_time()
    parts = parts_of(model)
    if parts is None or trained(parts[0]) or len(parts[1]) < 2 or not isinstance(parts[1][1], nn.ReLU):
        raise UsageError(
            f"--attack spear must meet a model that begins with a fully connected layer and ReLU, got "
            f"{type(model).__name__}"
        )
    found = features_of(model, shared, shape[0], seed, tries)
    seconds = time.process_time() - start
    if found is None:
        nothing = np.full((shape[0], classes), 1 / classes)
        return Reconstruction(np.full(shape, 0.5), nothing, float("inf"), tries, 0, 0, seconds)
    labels = np.eye(classes)[found.labels(classes).numpy()]
    return Reconstruction(found.inputs.double().numpy().reshape(shape), labels, 0.0, 0, 0, 0, seconds)


def ratio(clean: Gradient, shared: Gradient) -> float:
    """‖B_I‖ / ‖E_B‖ over the biases of all layers."""
    biases = [i for i, part in enumerate(clean) if part.ndim == 1]
    return perturbation_ratio([clean[i].numpy() for i in biases], [shared[i].numpy() for i in biases])
