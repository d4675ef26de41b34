"""One numeric check of Lemmas 1 and 2, before a model of the user's own is trained [Feng et al. 2020].

The walk over its graph says how a model treats scalings. What it does with numbers, in training and in evaluation, is
compared with that: a layer that mixes channels, or that is called otherwise than the graph says, trains wrongly, and
nothing else would tell.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fedmpi.errors import UsageError
from fedmpi.learn.randomness import seeded
from fedmpi.pbpfl.gradients import Differentiator, squared_error
from fedmpi.pbpfl.perturbation import Noise, Vector, draw, perturb, recover, unshift, without_addition
from fedmpi.pbpfl.structure import Structure, Walk, walks_of

ROWS = 3
"""Made-up ones, on which it is tried."""

FORWARD, BACKWARD = 1e-3, 1e-2
"""Relative errors above which a tensor, or a layer's gradient, is another one: float32 leaves a hundredth of them."""


@dataclass(frozen=True)
class Moderate:
    """Noise that leaves float32 its digits."""

    scaling: float = 4.0
    gamma_range: tuple[float, float] = (0.5, 0.5)


def check_lemmas(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Try a model with clear and with perturbed parameters.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters are changed.
    input_shape : tuple of int
        Of one input.

    Raises
    ------
    UsageError
        Naming the first layer whose outputs are not scaled as they should be (Lemma 1, and the model that clients get
        at the end), or the layer whose gradient is not recovered (Lemma 2).
    """
    walks = walks_of(model, input_shape)
    structure = walks[True].structure
    random = np.random.default_rng(0)
    noise = draw(structure, Moderate(), random.random)
    own = Differentiator(model.requires_grad_(), structure.last.name)
    w, dtype = own.flat.read(), own.flat.values.dtype
    X = torch.tensor(random.random((ROWS, *input_shape)), dtype=dtype)
    targets = torch.tensor(random.random((ROWS, structure.outputs)), dtype=dtype)
    for training, walk in walks.items():
        model.train(training)
        used = noise if training else without_addition(noise)
        _check_forward(own, walk, w, perturb(structure, w, used), used, X)
    model.train()
    _check_gradient(own, structure, w, noise, X, targets)


@torch.no_grad()
def _check_forward(own: Differentiator, walk: Walk, w: Vector, w_hat: Vector, noise: Noise, X: torch.Tensor) -> None:
    mode = "training" if own.model.training else "evaluation"
    values = []
    for parameters in (w, w_hat):
        own.flat.load(parameters)
        with seeded(0):
            kept = _Values(walk.traced)
            kept.run(X)
        with seeded(0):
            values.append((kept.of, *own.forward(X)))
    (clear, outputs, _), (noisy, noisy_outputs, hidden) = values
    last = walk.structure.last.name
    for node, units in walk.units.items():
        if node.op == "call_module" and node.target == last:
            break  # its outputs are looked at below
        factors = torch.tensor(noise.r[units], dtype=X.dtype).reshape(1, -1, *[1] * (clear[node].ndim - 2))
        if clear[node].shape[1] != len(units) or not _alike(noisy[node] / factors, clear[node], clear[node]):
            raise UsageError(
                "the layers of --model must commute with a positive scaling of each channel, "
                f"got {walk.what(node)}: numbers show that in {mode} it does not"
            )
    added = own.alpha(hidden)[:, None] * torch.tensor(noise.gamma * noise.r_a, dtype=X.dtype)
    if not _alike(noisy_outputs - added, outputs, noisy_outputs):
        raise UsageError(
            "the outputs of --model must be those of its layers, called one after the other as torch.fx sees them, "
            f"got others in {mode}: Lemma 1 does not hold at {last}"
        )


def _check_gradient(
    own: Differentiator, structure: Structure, w: Vector, noise: Noise, X: torch.Tensor, targets: torch.Tensor
) -> None:
    own.flat.load(w)
    with seeded(0):
        expected = own.gradient(squared_error(own.forward(X)[0], targets)).double().numpy()
    own.flat.load(perturb(structure, w, noise))
    with seeded(0):
        outputs, hidden = own.forward(X)
    terms, shift = own.terms(outputs, hidden, targets, torch.tensor(noise.r_a, dtype=X.dtype))
    found = recover(structure, unshift(terms.double().numpy(), shift, noise.r_a), noise)
    least = BACKWARD * float(np.linalg.norm(expected))  # of a layer that hardly matters rounding is left
    for layer in structure.layers:
        for part in (layer.weight, layer.bias):
            if part is None:
                continue
            right, error = np.linalg.norm(expected[part]), np.linalg.norm(found[part] - expected[part])
            if not error <= BACKWARD * max(float(right), least):
                raise UsageError(
                    "the gradient of --model must be recovered from perturbed weights (Lemma 2), "
                    f"got another one for {layer.name}"
                )


def _alike(found: torch.Tensor, expected: torch.Tensor, size: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= FORWARD * size.abs().max())


class _Values(fx.Interpreter):
    """Runs a graph, and keeps a copy of every tensor: a layer may work in place."""

    def __init__(self, traced: fx.GraphModule):
        super().__init__(traced)
        self.of: dict[fx.Node, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.of[n] = result.clone()
        return result
