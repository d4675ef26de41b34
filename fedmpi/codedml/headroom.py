"""Proof, iteration by iteration, that no decoded value wraps around modulo p."""

import math

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.objective import exact_gradient
from fedmpi.codedml.transform import row_chunks
from fedmpi.core.quantize import Reals
from fedmpi.errors import HeadroomError

_ROUNDING = 1 + 2.0**-20
"""More than the relative error of a norm that is summed in float64."""


class Headroom:
    """Bounds |X̄_kᵀ s̄_k| for every block k.

    Only what is decoded, one value per block and coordinate, has to fit in (-p/2, p/2): wrap-around on the way
    there is harmless, because the arithmetic is exact modulo p, and blocks are added up as signed integers.

    Parameters
    ----------
    X_bar : array, shape (m, d)
        Signed integers.
    blocks : list of slice
        The rows of each block.
    coefficients : list of int
    p : int

    Notes
    -----
    By Cauchy-Schwarz |(X̄_kᵀ s̄)_j| ≤ ‖column j of X̄_k‖·‖s̄_k‖, and |s̄_i| ≤ Σ_n |c̄_n| Π_{l≤n} |z_il|.
    """

    def __init__(self, X_bar: Reals, blocks: list[slice], coefficients: list[int], p: int):
        self.X_bar, self.blocks, self.coefficients, self.limit = X_bar, blocks, coefficients, p / 2
        self.row_norms = np.empty(len(X_bar))
        self.column_norms = np.empty(len(blocks))
        for k, block in enumerate(blocks):
            rows = X_bar[block]
            squares = np.zeros(X_bar.shape[1])
            for part in row_chunks(*rows.shape):
                x = rows[part]
                self.row_norms[block][part] = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64)) * _ROUNDING
                squares += np.einsum("ij,ij->j", x, x, dtype=np.float64)
            self.column_norms[k] = math.sqrt(squares.max(initial=0.0)) * _ROUNDING
        self.largest = 0.0
        """The largest bound, or exact value where the bound failed, so far."""

    @property
    def bits(self) -> float:
        """Bits left between the largest decoded value that was possible and p/2."""
        return math.log2(self.limit / max(self.largest, 1.0))

    def bound(self, W_bar: NDArray[np.int64], *, look_at_data: bool) -> float:
        """An upper bound of every |X̄_kᵀ s̄_k| for quantized weights of shape (r, d, C).

        |z_il| is bounded by ‖x̄_i‖·‖w̄_l‖, or, for the price of one product with X̄, by its value in the precision
        of X̄ plus the largest rounding error that a sum of d terms can have, below (d+1)·2^-23·‖x̄_i‖·‖w̄_l‖.
        """
        norms = np.linalg.norm(W_bar.astype(np.float64), axis=1)  # (r, C)
        products = np.ones((len(self.row_norms), norms.shape[1]))
        s = np.full_like(products, abs(self.coefficients[0]))
        for w, norm, c in zip(W_bar, norms, self.coefficients[1:], strict=True):
            z = self.row_norms[:, None] * norm
            if look_at_data:
                z = z * (len(w) + 1) * 2.0**-23 + np.abs(self.X_bar @ w.astype(self.X_bar.dtype))
            products *= z
            s += abs(c) * products
        s *= s
        return max(
            float(self.column_norms[k] * np.sqrt(s[block].sum(axis=0).max(initial=0.0)))
            for k, block in enumerate(self.blocks)
        )

    def check(self, W_bar: NDArray[np.int64], iteration: int) -> None:
        """Raise unless every decoded value of this iteration fits.

        Raises
        ------
        HeadroomError
            With the value, the limit, and what to change.
        """
        value = self.bound(W_bar, look_at_data=False)
        if not value < self.limit / 8:  # close enough to be worth a better bound, which is what is reported
            value = self.bound(W_bar, look_at_data=True)
        if self.limit <= value < 2**53:  # the bound is loose; below 2^53 the true value can be computed exactly
            gradients = (exact_gradient(self.X_bar[block], W_bar, self.coefficients) for block in self.blocks)
            value = max(float(np.abs(gradient).max()) for gradient in gradients)
        self.largest = max(self.largest, value)
        if not value < self.limit:
            raise HeadroomError(
                f"decoded values must be below p/2 = {self.limit:.0f}, got {value:.0f} in iteration {iteration} "
                f"({math.log2(value / self.limit) if value < float('inf') else value:.1f} bits too many): "
                f"lower --data-bits, --weight-bits or --coefficient-bits, raise {larger_primes(2 * self.limit)}"
            )


def larger_primes(p: float) -> str:
    """What to change besides the bits."""
    primes = [str(q) for q in (67108859, 2147483647) if q > p]
    return f"-K, or take --prime {' or '.join(primes)}" if primes else "-K"
