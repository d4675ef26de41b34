"""Parameter perturbation and gradient recovery: all that the server computes beyond plain federated averaging.

Letters as in [Feng et al. 2020]: W the parameters, a vector of h numbers here; r the scalings of the units, R the
factor of each parameter; r_a the additive noise, public to the clients, and γ its secret coefficient. A bias is the
weight of a unit that is always 1: so the last one gets γ r_a too, and α counts that unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmpi.pbpfl.structure import UNSCALED, Structure

Vector = NDArray[np.float64]
Uniform = Callable[[int], Vector]
"""count → independent secret reals, uniform in [0, 1)."""


class Ranges(Protocol):
    """From where the noise is drawn."""

    @property
    def scaling(self) -> float:
        """Each r is log-uniform in [1/scaling, scaling]."""
        ...

    @property
    def gamma_range(self) -> tuple[float, float]:
        """γ is uniform between them; both positive."""
        ...


@dataclass(frozen=True, eq=False)
class Noise:
    """The secrets of one round. Only `r_a` is told to the clients."""

    r: Vector
    """Scalings, positive, shape (units,); that at `UNSCALED` is 1."""
    r_a: Vector
    """Pairwise different, shape (n_L,)."""
    gamma: float

    @property
    def v(self) -> float:
        """‖γ r_a‖² (Lemma 2)."""
        return self.gamma**2 * float(self.r_a @ self.r_a)


def draw(structure: Structure, ranges: Ranges, uniform: Uniform) -> Noise:
    """Fresh noise: r log-uniform, r_a uniform in [-1, 1] with pairwise different components, γ uniform."""
    r = ranges.scaling ** (2 * uniform(structure.units) - 1)
    r[UNSCALED] = 1
    r_a = 2 * uniform(structure.outputs) - 1
    while len(np.unique(r_a)) < len(r_a):
        r_a = 2 * uniform(structure.outputs) - 1
    low, high = ranges.gamma_range
    return Noise(r, r_a, low + (high - low) * float(uniform(1)[0]))


def without_addition(noise: Noise) -> Noise:
    """Noise with which the outputs are the true ones: for the use of the final model ("data processing")."""
    return Noise(noise.r, np.zeros_like(noise.r_a), 0.0)


def multipliers(structure: Structure, r: Vector) -> Vector:
    """R of eqs. (7), (13) and (14): r of the output over r of the input, shape (h,); 1 for what is no layer's."""
    R = np.ones(structure.parameters)
    for layer in structure.layers:
        outgoing = r[layer.outgoing]
        per_group = outgoing.reshape(len(layer.incoming), -1, 1) / r[layer.incoming][:, None, :]
        rows = per_group.reshape(layer.shape[:2])
        R[layer.weight] = np.broadcast_to(rows[(...,) + (None,) * (len(layer.shape) - 2)], layer.shape).ravel()
        if layer.bias is not None:
            R[layer.bias] = outgoing
    return R


def addition(structure: Structure, noise: Noise) -> Vector:
    """R^a of eqs. (8) and (15): γ r_a,i in row i of the last layer, 0 elsewhere, shape (h,)."""
    A = np.zeros(structure.parameters)
    last = structure.last
    A[last.weight] = np.repeat(noise.gamma * noise.r_a, last.shape[1])
    if last.bias is not None:
        A[last.bias] = noise.gamma * noise.r_a
    return A


def perturb(structure: Structure, w: Vector, noise: Noise) -> Vector:
    """Ŵ = R ∘ W + R^a, eqs. (6) and (12), shape (h,)."""
    return multipliers(structure, noise.r) * w + addition(structure, noise)


def unshift(terms: Vector, shift: float, r_a: Vector) -> Vector:
    """The terms of Lemma 2 from those of a client that has moved γ by γ̂, shape (3, h).

    ∂L̂/∂Ŵ - γσ + vβ is the same for γ and for γ - γ̂ with the terms that belong to each.
    """
    gradient, sigma, beta = terms
    size = float(r_a @ r_a)
    return np.stack([gradient + shift * sigma + shift**2 * size * beta, sigma + 2 * shift * size * beta, beta])


def recover(structure: Structure, terms: Vector, noise: Noise) -> Vector:
    """∇F = R ∘ (∂L̂/∂Ŵ - γσ + vβ), eq. (19), shape (h,).

    Parameters
    ----------
    terms : array, shape (3, h) or (1, h)
        ∂L̂/∂Ŵ, σ and β of one client, or sums over clients, all with the same weights; the first alone where γ is 0.
    """
    gradient, *corrections = terms
    if corrections:
        sigma, beta = corrections
        gradient = gradient - noise.gamma * sigma + noise.v * beta
    recovered: Vector = multipliers(structure, noise.r) * gradient
    return recovered
