"""Probabilities from a model that was trained with a polynomial in place of the sigmoid."""

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.objective import Objective
from fedmpi.codedml.solvers import line_search


def temperature(objective: Objective, Z: NDArray[np.float64]) -> float:
    """The slope a > 0 with which the probabilities of outputs aZ fit the training rows best.

    A polynomial of degree 1 makes the model one of least squares, whose outputs are too small for log-odds. The master,
    who owns data and model, fits this one number [Platt 1999, without the shift]; no row changes its class.

    Parameters
    ----------
    Z : array, shape (m, C)
        Outputs on the training rows.
    """
    unpenalized = Objective(objective.kind, objective.Y, 0.0, objective.weights)
    slope = line_search(unpenalized, np.zeros_like(Z), Z, 0.0, 0.0)
    return slope if 0 < slope < float("inf") else 1.0
