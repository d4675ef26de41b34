"""The input of a fully connected layer from its gradient: B x = W [Fan et al. 2020, Theorems 2.1, 2.2 and 5.3]."""

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError

Vector = NDArray[np.float64]


def layer_input(
    weight_gradient: NDArray[np.floating], bias_gradient: NDArray[np.floating], *, sent_only: bool = False
) -> Vector:
    """The input x of a fully connected layer, shape (N,), for one row of data.

    ∂L/∂W = ∂L/∂b xᵀ, equation (7); of the M equations for each x_n the least-squares solution is taken.

    Parameters
    ----------
    weight_gradient : array, shape (M, N)
    bias_gradient : array, shape (M,)
    sent_only : bool
        Take zeros for numbers that were not sent, and only equations of which both sides were; where there is none,
        x is 0.

    Raises
    ------
    UsageError
        If the bias gradient is zero: then nothing is known of x.

    Notes
    -----
    Of the gradient of a batch, the result is a mean of the inputs, weighted by their shares of the bias gradient.
    """
    W, b = np.asarray(weight_gradient, np.float64), np.asarray(bias_gradient, np.float64)
    if W.ndim != 2 or b.shape != W.shape[:1]:
        raise UsageError(f"gradients of a layer must have shapes (M, N) and (M,), got {W.shape} and {b.shape}")
    scale = float(np.abs(b).max())
    if not scale > 0:
        raise UsageError("the bias gradient must not be zero, got zeros")
    b = b / scale  # so that no square vanishes
    if sent_only:
        weights = (W != 0) * np.square(b)[:, None]
        squares = weights.sum(axis=0)
        partial: Vector = np.divide(b @ (W / scale), squares, out=np.zeros(W.shape[1]), where=squares > 0)
        return partial
    x: Vector = (b @ (W / scale)) / (b @ b)
    return x


def system(
    weight_gradient: NDArray[np.floating], bias_gradient: NDArray[np.floating], rows: NDArray[np.int64]
) -> tuple[Vector, Vector]:
    """B_I (diagonal, shape (N, N)) and W_I (N,) of a choice of one equation for each input.

    Parameters
    ----------
    rows : array of int, shape (N,)
        I: equation n is W[rows[n], n] = b[rows[n]] x_n.
    """
    W, b = np.asarray(weight_gradient, np.float64), np.asarray(bias_gradient, np.float64)
    return np.diag(b[rows]), W[rows, np.arange(len(rows))]


def solvable(B: Vector, E_B: Vector) -> bool:
    """Condition (2): ‖B⁻¹ E_B‖ < 1 in the spectral norm."""
    return bool(np.linalg.norm(np.linalg.solve(B, E_B), 2) < 1)


def error_bound(B: Vector, W: Vector, E_B: Vector, E_W: Vector) -> float:
    """Bound (3) on ‖x* - x‖ / ‖x‖, where x* solves (B + E_B) x* = W + E_W; spectral norms.

    Parameters
    ----------
    B, E_B : array, shape (N, N)
    W, E_W : array, shape (N,)

    Raises
    ------
    UsageError
        Beyond condition (2), where there is no bound: the attack may fail there, or not.
    """
    if not solvable(B, E_B):
        raise UsageError("the norm of B⁻¹ E_B must be below 1 for a bound, got 1 or more")
    gain = 1 - np.linalg.norm(np.linalg.solve(B, E_B), 2)
    ratios = np.linalg.norm(E_B, 2) / np.linalg.norm(B, 2) + np.linalg.norm(E_W) / np.linalg.norm(W)
    return float(np.linalg.cond(B, 2) / gain * ratios)


def stability(B: Vector, x_star: Vector) -> float:
    """M of inequality (11) for the first layer: ‖x - x*‖ ≤ M ‖∇L(x) - ∇L(x*)‖.

    M = ‖B⁻¹‖ √(1 + ‖x*‖²), from Lemma 5.2 and Cauchy-Schwarz.

    Notes
    -----
    The paper's M = ‖x*‖ ‖B⁻¹‖ + 1 is too small where ‖x*‖ is: a test has an example.
    """
    return float(np.linalg.norm(np.linalg.inv(B), 2) * np.sqrt(1 + x_star @ x_star))
