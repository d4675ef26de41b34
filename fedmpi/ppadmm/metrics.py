"""How good a model is: RMSE and MPED, as in the paper's section 5.2, and the centralized model beside it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.ppadmm.admm import Vector
from fedmpi.ppadmm.params import Params


def rmse(X: NDArray[Any], y: Vector, coefficients: Vector, intercept: float) -> float:
    """Root of the mean squared error of predicted targets; X (m, d), y (m,)."""
    return float(np.sqrt(np.mean((X @ coefficients + intercept - y) ** 2)))


def mped(coefficients: Vector, reference: Vector) -> float:
    """Model parameter Euclidean distance, to the true parameters or to those of the centralized model; (d,) both."""
    return float(np.linalg.norm(coefficients - reference))


def centralized(params: Params, X: NDArray[Any], y: Vector) -> tuple[Vector, float]:
    """The same problem solved by scikit-learn with all rows in one place, X (m, d) and y (m,).

    Returns
    -------
    coefficients : array, shape (d,)
    intercept : float
    """
    from sklearn.linear_model import ElasticNet, LinearRegression, Ridge

    scales = np.ones(X.shape[1])
    if params.standardize:
        means = X.mean(axis=0) if params.fit_intercept else 0.0
        scales = np.sqrt(((X - means) ** 2).mean(axis=0))
        scales[scales == 0] = 1.0
    if params.penalty == 0:
        model = LinearRegression(fit_intercept=params.fit_intercept)
    elif params.l1_ratio == 0:
        model = Ridge(params.penalty, fit_intercept=params.fit_intercept)
    else:
        alpha = params.penalty / len(X)
        model = ElasticNet(
            alpha, l1_ratio=params.l1_ratio, fit_intercept=params.fit_intercept, tol=1e-12, max_iter=100_000
        )
    model.fit(X / scales, y)
    return model.coef_ / scales, float(model.intercept_)
