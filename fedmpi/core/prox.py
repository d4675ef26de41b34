"""Proximal operators of the penalties of linear regression."""

import numpy as np
from numpy.typing import NDArray


def soft_threshold(v: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """S_t(v) = sign(v)·max(|v| − t, 0), per coordinate [Boyd et al. 2011, section 4.4.3].

    Parameters
    ----------
    v : array of float64
    threshold : float
        t ≥ 0, in the units of v.
    """
    shrunk: NDArray[np.float64] = np.maximum(v - threshold, 0.0) - np.maximum(-v - threshold, 0.0)
    return shrunk


def prox_elastic_net(v: NDArray[np.float64], penalty: float, l1_ratio: float, weight: float) -> NDArray[np.float64]:
    """The minimizer over x of λ(r‖x‖₁ + (1−r)/2·‖x‖₂²) + w/2·‖x − v‖₂² [Parikh and Boyd 2014, section 6.5.3].

    It is S_{λr/w}(v) / (1 + λ(1−r)/w): the Lasso for r = 1, ridge regression for r = 0.

    Parameters
    ----------
    v : array of float64
    penalty : float
        λ ≥ 0.
    l1_ratio : float
        r in [0, 1].
    weight : float
        w > 0; in consensus ADMM, ρN.
    """
    return soft_threshold(v, penalty * l1_ratio / weight) / (1.0 + penalty * (1.0 - l1_ratio) / weight)
