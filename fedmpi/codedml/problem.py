"""A data set as the protocol wants it: scaled, quantized, and with all that the master knows of it in the clear."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.objective import Kind, Objective, largest_eigenvalue
from fedmpi.codedml.params import Params
from fedmpi.codedml.precision import Norms, Precision, choose
from fedmpi.codedml.solvers import Columns
from fedmpi.codedml.transform import KEPT, KEPT_LINEAR, Erased, Quantized, Transform, row_chunks, times
from fedmpi.errors import HeadroomError, UsageError

_SMALLEST_TARGET = 1e-100

WARN_ABOVE = 0.01
"""Part of the columns that may be erased without a warning."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What is trained on.

    Parameters
    ----------
    transform : Transform
    X_bar : array, shape (m, d)
        Quantized features, signed integers.
    objective : Objective
        With the targets Y, shape (m, C).
    precision : Precision
    columns : Columns
        Of the scaled features.
    row_bound, column_bound : float
        At least the norm of every row, and of every column, of X̄.
    learning_rate : float
        η, for the solvers that take one.
    erased : Erased, optional
        What quantization erased.
    """

    transform: Transform
    X_bar: Quantized
    objective: Objective
    precision: Precision
    columns: Columns
    row_bound: float
    column_bound: float
    learning_rate: float = 1.0
    erased: Erased | None = None
    _known: list[NDArray[np.float64]] = field(default_factory=list)

    @classmethod
    def prepare(
        cls,
        params: Params,
        X: Any,
        y: NDArray[Any],
        n_classes: int,
        sample_weight: NDArray[np.float64] | None = None,
    ) -> "Problem":
        """Scale, choose the bits and the field, and quantize (line 1 of Algorithm 1).

        Parameters
        ----------
        X : array or SciPy sparse matrix, shape (m, features)
        y : array, shape (m,)
            Classes 0 … n_classes-1, or real targets for a linear model (n_classes = 0).
        sample_weight : array, shape (m,), optional
            Not with a polynomial in place of the sigmoid.

        Raises
        ------
        HeadroomError
            If the bits do not fit, or quantization leaves nothing.
        """
        if params.model == "logistic" and n_classes < 2:
            raise UsageError(f"a logistic model must have two classes or more, got {n_classes}")
        if sample_weight is not None and not params.exact:
            raise UsageError(f"sample weights must be used without a polynomial, got --degree {params.degree}")
        transform = fitted(params, X)
        norms = Norms.of(transform, X)
        precision = choose(params, norms)
        X_bar, erased = transform.quantized(X, precision.data_bits, precision.residues.half, norms.entry)
        if params.method != "plain" and erased.columns and erased.columns == erased.erased_columns:
            raise HeadroomError(
                f"quantization must leave some of the {erased.columns} columns, got none with "
                f"{precision.data_bits} bits: take --center with --scale column"
            )
        weights = None if sample_weight is None else sample_weight[:, None]
        largest = float(np.abs(y).max(initial=0)) if params.model == "linear" else 0.0
        if largest and not _SMALLEST_TARGET < largest < 1 / _SMALLEST_TARGET:
            raise UsageError(f"targets must be from 1e-100 to 1e100 in absolute value, got {largest:g}: rescale them")
        kind: Kind = "squared"
        if params.model == "logistic":
            kind = "softmax" if n_classes > 2 and params.softmax else "logistic"
        objective = Objective(kind, targets(y, n_classes), params.penalty, weights)
        features = len(transform.mean)
        means = norms.means[:features] if params.bias else np.zeros(features)
        columns = Columns(means, norms.squares[:features], norms.rows, params.bias)
        scale = 2.0**precision.data_bits
        rate = 1.0
        if params.solver in ("nesterov", "gradient"):
            rate = params.step(largest_eigenvalue(X_bar) * 4.0**-precision.data_bits, len(X_bar))
        return cls(
            transform,
            X_bar,
            objective,
            precision,
            columns,
            # Rounding moves each entry by at most 1/2.
            scale * norms.row + math.sqrt(norms.columns) / 2,
            scale * norms.column + math.sqrt(norms.rows) / 2,
            rate,
            erased,
        )

    @property
    def weight_rows(self) -> int:
        """Rows of W: features, and the intercept."""
        return len(self.columns.means) + self.columns.intercept

    def remember(self, W: NDArray[np.float64], Z: NDArray[np.float64]) -> None:
        """Note the outputs of weights, which a solver knows anyway: `outputs` need not compute them again."""
        self._known[:] = [W, Z]

    def outputs(self, W: NDArray[np.float64]) -> NDArray[Any]:
        """Z = XW on the quantized training rows, shape (m, C), in the precision of `times`."""
        if self._known and self._known[0] is W:
            return np.asarray(self._known[1])
        d = self.X_bar.shape[1]
        z = times(self.X_bar, W[:d])
        z *= 2.0**-self.precision.data_bits
        if len(W) > d:
            z += W[d]
        return z

    @cached_property
    def warnings(self) -> list[str]:
        """What people should know before training."""
        found, erased = [], self.erased
        if erased is not None and erased.erased_columns > WARN_ABOVE * erased.columns:
            found.append(f"quantization erases {erased.text}: take --scale column, or more --data-bits")
        clipped = self.transform.clipped
        if len(clipped):
            several = f"{len(clipped)} columns have" if len(clipped) > 1 else f"column {clipped[0]} has"
            found.append(f"{several} outliers, which are cut off: see --scale column")
        return found


def fitted(params: Params, X: Any) -> Transform:
    """What the options do to the features, learned from training rows X, shape (m, features)."""
    kept = KEPT_LINEAR if params.model == "linear" else KEPT
    return Transform.fit(X, center=params.center, scale=str(params.scale), ones=params.has_ones, kept=kept)


def targets(y: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """0/1 columns: one for two classes, one per class for more; reals stay."""
    if n_classes > 2:
        y = y[:, None] == np.arange(n_classes)
    Y: NDArray[np.float64] = y.astype(np.float64)
    return Y if Y.ndim == 2 else Y.reshape(-1, 1)


def exact_product(X_bar: Quantized, V: NDArray[np.int64], *, transposed: bool = False) -> NDArray[np.float64]:
    """X̄V, of as many columns of X̄ as V has rows, or X̄ᵀV over the integers; exact while every sum is below 2^53."""
    out = np.zeros((X_bar.shape[1] if transposed else len(X_bar), V.shape[1]))
    values = V.astype(np.float64)
    for part in row_chunks(*X_bar.shape):
        x = X_bar[part].astype(np.float64)
        if transposed:
            out += x.T @ values[part]
        else:
            out[part] = x[:, : len(values)] @ values
    return out
