"""The training objective in the clear: loss, accuracy, step size, and the exact quantized gradient."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.transform import Quantized, pieces_of, row_chunks
from fedmpi.core import small
from fedmpi.core.sigmoid import sigmoid

_POWER_ITERATIONS = 20

Kind = Literal["logistic", "softmax", "squared"]
"""The loss of a row: cross-entropy of each output's sigmoid, of the softmax of all outputs, or half the square."""


@dataclass(frozen=True, eq=False)
class Objective:
    """Σ_i ω_i loss(z_i, y_i) + λ/2 ‖w‖², z = Xw + b: scikit-learn's, with λ = 1/C.

    Parameters
    ----------
    kind : str
    Y : array of float64, shape (m, C)
        0 or 1, or reals for squared loss.
    l2 : float
        λ.
    weights : array of float64, shape (m, 1), optional
        ω, by default 1.
    """

    kind: Kind
    Y: NDArray[np.float64]
    l2: float = 0.0
    weights: NDArray[np.float64] | None = None

    @property
    def total_weight(self) -> float:
        """Σ_i ω_i."""
        return float(len(self.Y) if self.weights is None else self.weights.sum())

    def loss(self, Z: NDArray[np.float64]) -> float:
        """The sum over the rows, weighted by ω; nats, or squared units of the target."""
        if self.kind == "squared":
            losses = np.square(Z - self.Y) / 2
        elif self.kind == "logistic":
            losses = np.logaddexp(0.0, Z) - self.Y * Z
        else:
            top = Z.max(axis=1, keepdims=True)
            losses = np.log(np.exp(Z - top).sum(axis=1, keepdims=True)) + top - (self.Y * Z).sum(axis=1, keepdims=True)
        return float((losses if self.weights is None else self.weights * losses).sum())

    def residuals(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """∂ loss / ∂ z of every row, times ω: shape (m, C). Xᵀ of it is the gradient."""
        S = self.activation(Z) - self.Y
        return S if self.weights is None else self.weights * S

    def activation(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the outputs mean: the sigmoid of each, the softmax of all, or themselves."""
        if self.kind == "squared":
            return Z
        if self.kind == "logistic":
            return sigmoid(Z)
        E: NDArray[np.float64] = np.exp(Z - Z.max(axis=1, keepdims=True))
        E /= E.sum(axis=1, keepdims=True)
        return E

    def slope_and_curvature(self, Z: NDArray[np.float64], D: NDArray[np.float64]) -> tuple[float, float]:
        """First and second derivative of the loss along a direction D of the outputs, shape (m, C)."""
        A = self.activation(Z)
        S = A - self.Y
        if self.kind == "squared":
            curvature = np.square(D)
        elif self.kind == "logistic":
            curvature = self.derivative(Z, A) * np.square(D)
        else:
            curvature = (A * np.square(D)).sum(axis=1, keepdims=True)
            curvature -= np.square((A * D).sum(axis=1, keepdims=True))
        if self.weights is not None:
            S, curvature = self.weights * S, self.weights * curvature
        return float((S * D).sum()), float(curvature.sum())

    def derivative(self, Z: NDArray[np.float64], A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the sigmoid at Z, where it is A."""
        return A * (1 - A)

    def mean_curvature(self, Z: NDArray[np.float64]) -> float:
        """The mean second derivative of the loss of a row by one output."""
        if self.kind == "squared":
            return 1.0
        mean = self.derivative(Z, self.activation(Z)).mean(axis=1)
        return float(mean.mean() if self.weights is None else (self.weights[:, 0] * mean).sum() / self.total_weight)

    @property
    def curvature_bound(self) -> float:
        """The typical second derivative of the loss of a row by one output, at z = 0."""
        C = int(self.Y.shape[1])
        return {"squared": 1.0, "logistic": 0.25, "softmax": (C - 1) / C**2}[self.kind]


@dataclass(frozen=True, eq=False)
class Surrogate(Objective):
    """The objective with a polynomial in place of the sigmoid on an interval [-reach, reach].

    Parameters
    ----------
    polynomial : list
        The reach, and the coefficients c_0 … c_r; whoever refits it replaces both.
    """

    polynomial: list[Any] = field(default_factory=lambda: [0.0, np.zeros(1)])

    def activation(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """The polynomial; the sigmoid itself beyond the interval, where no gradient is taken before a new fit."""
        reach, coefficients = self.polynomial
        return np.where(np.abs(Z) <= reach, np.polynomial.polynomial.polyval(Z, coefficients), sigmoid(Z))

    def derivative(self, Z: NDArray[np.float64], A: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of the polynomial, or beyond its interval of the sigmoid."""
        reach, coefficients = self.polynomial
        slope = np.polynomial.polynomial.polyval(Z, np.polynomial.polynomial.polyder(coefficients))
        return np.where(np.abs(Z) <= reach, slope, A * (1 - A))


def column_sums(X: Quantized, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """1ᵀX, shape (d,)."""
    return sum((X[part].sum(axis=0, dtype=dtype) for part in row_chunks(*X.shape)), np.zeros(X.shape[1], dtype))


def largest_eigenvalue(X: Quantized) -> float:
    """λ_max(XᵀX) by power iteration.

    The direction is found in the precision of X, of integers in float32; the Rayleigh quotient is then taken in
    float64: its error is quadratic in the direction's, so the number of BLAS threads does not show in the leading
    digits.
    """
    # The column sums are close to the leading direction of data that is not centred, and random numbers are not
    # orthogonal to any.
    precision = X.dtype if X.dtype.kind == "f" else np.float32
    sums, random = column_sums(X, np.float32), np.random.default_rng(0).standard_normal(X.shape[1], precision)
    v = sums / max(np.linalg.norm(sums), 1e-30) + random / np.linalg.norm(random)
    parts = pieces_of(X)
    for _ in range(_POWER_ITERATIONS):
        products = np.zeros_like(v)
        for part in parts:
            x = X[part]
            z = _product(x, v)
            products += small.transposed_product(x, z.astype(np.float32)) if x.dtype == np.int8 else x.T @ z
        v = products
        norm = np.linalg.norm(v)
        if not norm > 0:
            return 0.0
        v /= norm
    direction = v.astype(np.float64)
    square = sum(float(np.square(_product(X[part], direction)).sum()) for part in parts)
    return square / float(direction @ direction)


def _product(x: NDArray[Any], v: NDArray[Any]) -> NDArray[Any]:
    """Xv, in the precision of X or v; of integers of 8 bits in float64, with more bits of v than float32 has."""
    return small.real_product(x, v[:, None], 29)[:, 0] if x.dtype == np.int8 else np.asarray(x @ v)


def exact_gradient(
    X_bar: Quantized, W_bar: NDArray[np.int64], coefficients: list[int], block: slice | None = None
) -> NDArray[np.float64]:
    """X̄ᵀ s̄(X̄, W̄) over the integers [So et al. 2021, eq. (18)], exact while every sum stays below 2^53.

    Parameters
    ----------
    X_bar : array, shape (m, d)
    W_bar : array of int64, shape (r, d, C)
    coefficients : list of r + 1 int
    block : slice, optional
        The rows that count; by default all.

    Returns
    -------
    array of float64 holding integers, shape (d, C)
    """
    total = np.zeros((X_bar.shape[1], W_bar.shape[2]))
    weights = W_bar.astype(np.float64)
    block = block or slice(0, len(X_bar))
    for part in row_chunks(block.stop - block.start, X_bar.shape[1]):
        x = X_bar[block.start + part.start : block.start + part.stop].astype(np.float64)
        s, power = np.full((len(x), total.shape[1]), float(coefficients[0])), 1.0
        for w, c in zip(weights, coefficients[1:], strict=True):
            power = power * (x @ w)
            s += c * power
        total += x.T @ s
    return total


def target_correlation(X_bar: Quantized, Y: NDArray[np.float64]) -> NDArray[np.float64]:
    """X̄ᵀY, shape (d, C), in float64; in a fixed order, so that the number of BLAS threads changes no bit."""
    total = np.zeros((X_bar.shape[1], Y.shape[1]))
    for part in row_chunks(*X_bar.shape):
        total += np.einsum("ij,ic->jc", X_bar[part].astype(np.float64), Y[part], optimize=False)
    return total


def cross_entropy(z: NDArray[np.floating[Any]], Y: NDArray[np.float64]) -> float:
    """Mean of -y log s(z) - (1-y) log(1-s(z)) [So et al. 2021, eq. (1)], over rows and outputs; nats."""
    return float(np.mean(np.logaddexp(0.0, z) - Y * z))


def squared_error(z: NDArray[np.floating[Any]], Y: NDArray[np.float64]) -> float:
    """Half the mean squared error: the objective of linear regression; squared units of the target."""
    return float(np.mean(np.square(z - Y)) / 2)


def accuracy(z: NDArray[np.floating[Any]], labels: NDArray[Any]) -> float:
    """Share of rows whose class (0 … C-1) has the largest output; one output means two classes."""
    predicted = z[:, 0] > 0 if z.shape[1] == 1 else np.argmax(z, axis=1)
    return float(np.mean(predicted == labels))


def r2_score(z: NDArray[np.floating[Any]], y: NDArray[np.float64]) -> float:
    """1 - residual sum of squares / total sum of squares."""
    total = float(np.square(y - y.mean()).sum())
    return 1 - float(np.square(z[:, 0] - y).sum()) / total if total else 0.0
