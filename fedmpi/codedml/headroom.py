"""Proof, iteration by iteration, that no decoded value wraps around modulo p."""

import math

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.objective import exact_gradient
from fedmpi.codedml.transform import Quantized, row_chunks, times
from fedmpi.core import WIDE_PRIMES
from fedmpi.core.lagrange import run_starts
from fedmpi.errors import HeadroomError

NORM_ROUNDING = 1 + 2.0**-20
"""More than the relative error of a norm that is summed in float64."""

_SPARE = 2.0**10
"""By so much the values may be larger than foreseen where more primes are said to be enough."""


class Headroom:
    """Bounds |X̄ᵀs̄|, over all rows and over those of every block.

    Only what is decoded, one value per coordinate, has to fit in (-p/2, p/2): wrap-around on the way there is
    harmless, because the arithmetic is exact modulo p. Where the sum over all rows fits it is decoded at once; if only
    those over the blocks do, they are decoded and added up as signed integers.

    Parameters
    ----------
    X_bar : array, shape (m, d)
        Signed integers.
    blocks : list of slice
        The rows of each block.
    coefficients : list of int
    half : float
        p/2, or half the product of several primes.

    Notes
    -----
    By Cauchy-Schwarz |(X̄_kᵀ s̄)_j| ≤ ‖column j of X̄_k‖·‖s̄_k‖, and |s̄_i| ≤ Σ_n |c̄_n| Π_{l≤n} |z_il|.
    """

    def __init__(self, X_bar: Quantized, blocks: list[slice], coefficients: list[int], half: float):
        self.X_bar, self.blocks, self.coefficients, self.limit = X_bar, blocks, coefficients, half
        self.row_norms = np.empty(len(X_bar))
        self.column_norms = np.empty(len(blocks))
        total = np.zeros(X_bar.shape[1])
        for k, block in enumerate(blocks):
            squares = np.zeros(X_bar.shape[1])
            for part in row_chunks(block.stop - block.start, X_bar.shape[1]):
                rows = slice(block.start + part.start, block.start + part.stop)
                x = X_bar[rows]
                self.row_norms[rows] = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64)) * NORM_ROUNDING
                squares += np.einsum("ij,ij->j", x, x, dtype=np.float64)
            self.column_norms[k] = math.sqrt(squares.max(initial=0.0)) * NORM_ROUNDING
            total += squares
        self.whole_norm = math.sqrt(total.max(initial=0.0)) * NORM_ROUNDING
        self._squares = np.zeros((len(blocks), 1))  # Σ s̄² of each block, of the last weights
        self.largest = 0.0
        """The largest bound, or exact value where the bound failed, so far."""

    @property
    def bits(self) -> float:
        """Bits left between the largest decoded value that was possible and p/2."""
        return math.log2(self.limit / max(self.largest, 1.0))

    def bounds(self, W_bar: NDArray[np.int64], *, look_at_data: bool) -> tuple[float, float]:
        """Upper bounds for quantized weights of shape (r, d, C): of |X̄ᵀs̄|, and of every |X̄_kᵀ s̄_k|.

        |z_il| is bounded by ‖x̄_i‖·‖w̄_l‖, or, for the price of one product with X̄, by its value in the precision
        of X̄ plus the largest rounding error that a sum of d terms can have, below (d+1)·2^-23·‖x̄_i‖·‖w̄_l‖.
        """
        norms = np.linalg.norm(W_bar.astype(np.float64), axis=1)  # (r, C)
        products = np.ones((len(self.row_norms), norms.shape[1]))
        s = np.full_like(products, abs(self.coefficients[0]))
        for w, norm, c in zip(W_bar, norms, self.coefficients[1:], strict=True):
            z = self.row_norms[:, None] * norm
            if look_at_data:
                z = z * (len(w) + 1) * 2.0**-23 + np.abs(times(self.X_bar, w))
            with np.errstate(over="ignore"):  # an infinite bound is refused
                products *= z
                s += abs(c) * products
        with np.errstate(over="ignore"):
            s *= s
            self._squares = np.stack([s[block].sum(axis=0) for block in self.blocks])
            blocks = self.column_norms * np.sqrt(self._squares.max(axis=1, initial=0.0))
            return float(self.whole_norm * np.sqrt(self._squares.sum(axis=0).max(initial=0.0))), float(blocks.max())

    def excess(self, W_bar: NDArray[np.int64]) -> float:
        """Bits by which the bound over all rows is beyond what fits; below 0 where it fits, which is then noted."""
        value = self.bounds(W_bar, look_at_data=len(W_bar) > 2)[0]  # of a power the bound by norms is too loose
        if value < self.limit:
            self.largest = max(self.largest, value)
        return math.log2(max(value, 1.0) / self.limit) if value < float("inf") else float("inf")

    def check(self, W_bar: NDArray[np.int64], iteration: int, *, foreseen: bool = False) -> int:
        """Into how many runs of blocks the rows must be divided for the sum over each to fit; 1: all rows together.

        `foreseen`: these are the last weights, so that primes that are enough for them are enough.

        Raises
        ------
        HeadroomError
            With the value, the limit, and what to change.
        """
        whole, value = self.bounds(W_bar, look_at_data=False)
        if not whole < self.limit / 8:  # close enough to be worth a better bound, which is what is reported
            whole, value = self.bounds(W_bar, look_at_data=True)
        if self.limit <= value < 2**53:  # the bound is loose; below 2^53 the true value can be computed exactly
            gradients = (exact_gradient(self.X_bar, W_bar, self.coefficients, block) for block in self.blocks)
            value = max(float(np.abs(gradient).max()) for gradient in gradients)
        self.largest = max(self.largest, value)
        if not value < self.limit:
            enough = [q for q in (2, 3) if foreseen and _SPARE * value < math.prod(WIDE_PRIMES[:q]) / 2]
            wider = f"take --primes {enough[0]}, or " if enough else ""
            raise HeadroomError(
                f"decoded values must be below p/2 = {self.limit:.0f}, got {value:.0f} in iteration {iteration} "
                f"({math.log2(value / self.limit) if value < float('inf') else value:.1f} bits too many): "
                f"{wider}leave out --weight-bits, --paper and --prime, and bits and field follow the data"
            )
        return 1 if whole < self.limit else self._runs()

    def _runs(self) -> int:
        """As few as the bounds of the last weights prove enough, or one for each block."""
        squares = np.square(self.column_norms)
        for parts in range(2, len(self.blocks)):
            starts = run_starts(len(self.blocks), parts)
            sums = np.add.reduceat(self._squares, starts).max(axis=1)
            if float((np.add.reduceat(squares, starts) * sums).max()) < self.limit**2:
                return parts
        return len(self.blocks)
