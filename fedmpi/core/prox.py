"""Proximal operators of the penalties of linear regression."""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def soft_threshold(v: Vector, threshold: Vector | float) -> Vector:
    """S_t(v) = sign(v)·max(|v| − t, 0), per coordinate [Boyd et al. 2011, section 4.4.3].

    Parameters
    ----------
    v : array of float64
    threshold : float or array of float64
        t ≥ 0, in the units of v.
    """
    shrunk: Vector = np.maximum(v - threshold, 0.0) - np.maximum(-v - threshold, 0.0)
    return shrunk


def prox_elastic_net(v: Vector, l1: Vector, l2: Vector, weight: float) -> Vector:
    """The minimizer over x of Σ(α_j|x_j| + β_j/2·x_j²) + w/2·‖x − v‖₂² [Parikh and Boyd 2014, section 6.5.3].

    It is S_{α/w}(v) / (1 + β/w): the Lasso for β = 0, ridge regression for α = 0.

    Parameters
    ----------
    v, l1, l2 : array of float64, shape (d,)
        l1 is α ≥ 0, l2 is β ≥ 0.
    weight : float
        w > 0; in consensus ADMM, ρN.
    """
    return soft_threshold(v, l1 / weight) / (1.0 + l2 / weight)
