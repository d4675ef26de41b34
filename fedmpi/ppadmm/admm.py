"""Consensus ADMM for linear regression with an elastic net [Boyd et al. 2011, sections 7.1 and 8.2].

Letters: participant i holds A_i (m_i, d) and b_i (m_i,); x_i its own model, u_i its scaled dual variable, z the
consensus. The problem is min ½ Σ‖A_i x_i − b_i‖² + λ(r‖z‖₁ + (1−r)/2·‖z‖₂²) with x_i = z.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from fedmpi.core.prox import prox_elastic_net
from fedmpi.ppadmm.params import Params

Vector = NDArray[np.float64]

CONSTANT = 2.0**-40
"""A column that differs from its mean by less, relative to it, is constant."""

NORMS = 3
"""Numbers behind each update: ‖x_i − z‖², ‖x_i‖², ‖u_i‖² of the last iteration, for the residuals."""


class Subproblem:
    """x ↦ (AᵀA + ρI)⁻¹(Aᵀb + ρv) with a cached Cholesky factor [Boyd et al. 2011, sections 4.2.4 and 8.2.1].

    With fewer rows than columns by Woodbury's identity, so that the factor has the size of the rows.

    Parameters
    ----------
    A : array, shape (m, d)
    b : array, shape (m,)
    rho : float
        ρ > 0.
    """

    def __init__(self, A: Vector, b: Vector, rho: float):
        self.A, self.rho = A, rho
        self.Atb = A.T @ b
        self.wide = A.shape[0] < A.shape[1]
        gram = A @ A.T if self.wide else A.T @ A
        gram[np.diag_indices_from(gram)] += rho
        self._factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)

    def solve(self, v: Vector) -> Vector:
        """The minimizer of ½‖Ax − b‖² + ρ/2·‖x − v‖², shape (d,)."""
        q: Vector = self.Atb + self.rho * v
        if self.wide:
            inner = cho_solve(self._factor, self.A @ q, overwrite_b=True, check_finite=False)
            wide: Vector = (q - self.A.T @ inner) / self.rho
            return wide
        solution: Vector = cho_solve(self._factor, q, overwrite_b=True, check_finite=False)
        return solution


@dataclass(frozen=True, eq=False)
class Scaling:
    """What features and targets are shifted and divided by."""

    means: Vector
    """Shape (d,)."""
    target_mean: float
    scales: Vector
    """Shape (d,)."""

    @classmethod
    def none(cls, columns: int) -> "Scaling":
        """Changes nothing."""
        return cls(np.zeros(columns), 0.0, np.ones(columns))

    @classmethod
    def fit(cls, params: Params, totals: Vector) -> "Scaling":
        """The means, from the totals (m, Σ rows, Σ targets) of shape (d + 2,); zeros without an intercept."""
        means = totals[1:] / totals[0] if params.fit_intercept else np.zeros(len(totals) - 1)
        return cls(means[:-1], float(means[-1]), np.ones(len(means) - 1))

    def with_scales(self, squares: Vector, rows: float) -> "Scaling":
        """The standard deviations, from the sums of the centred squares, shape (d,); 1 for constant columns."""
        deviations = np.sqrt(np.maximum(squares, 0.0) / rows)
        scales = np.where(deviations > CONSTANT * np.abs(self.means), deviations, 1.0)
        return Scaling(self.means, self.target_mean, scales)

    def original_units(self, z: Vector) -> tuple[Vector, float]:
        """Coefficients, shape (d,), and intercept for the features as they were."""
        coefficients: Vector = z / self.scales
        return coefficients, self.target_mean - float(self.means @ coefficients)


class Shard:
    """What participant i holds: its rows, x_i and u_i.

    Parameters
    ----------
    A : array, shape (m_i, d)
    b : array, shape (m_i,)
    """

    def __init__(self, A: Vector, b: Vector):
        self.A, self.b = A, b
        self.rows, self.columns = A.shape
        self.x = np.zeros(self.columns)
        self.u = np.zeros(self.columns)
        self.norms = np.zeros(NORMS)
        """Of the last dual step."""
        self._problem: Subproblem | None = None

    def sums(self) -> Vector:
        """m_i, the sum of the rows, and the sum of the targets, shape (d + 2,)."""
        return np.concatenate([[float(self.rows)], self.A.sum(axis=0), [self.b.sum()]])

    def squares(self, means: Vector) -> Vector:
        """Subtract the means of features and target, shape (d + 1,); the sums of the squares, shape (d,)."""
        self.A, self.b = self.A - means[:-1], self.b - means[-1]
        squares: Vector = np.einsum("ij,ij->j", self.A, self.A)
        return squares

    def begin(self, rho: float, scales: Vector) -> None:
        """Divide the features by their scales, shape (d,), and factorize."""
        self.A = self.A / scales
        self._problem = Subproblem(self.A, self.b, rho)

    @property
    def begun(self) -> bool:
        """Whether the factor is there."""
        return self._problem is not None

    def dual_step(self, z: Vector) -> None:
        """u_i ← u_i + x_i − z, for an x_i that counted in z."""
        gap = self.x - z
        self.u += gap
        self.norms = np.array([gap @ gap, self.x @ self.x, self.u @ self.u])

    def update(self, z: Vector) -> tuple[Vector, Vector]:
        """x_i ← (A_iᵀA_i + ρI)⁻¹(A_iᵀb_i + ρ(z − u_i)); returns x_i + u_i, shape (d,), and the `NORMS`."""
        assert self._problem is not None
        self.x = self._problem.solve(z - self.u)
        return self.x + self.u, self.norms


class Consensus:
    """What the primary server holds: z, and how far the participants are from it.

    Parameters
    ----------
    params : Params
    rho : float
        ρ.
    z : array, shape (d,)
    dual_residual : float
        That of the last change of z; infinite at the start.
    """

    def __init__(self, params: Params, rho: float, z: Vector, dual_residual: float = math.inf):
        self.params, self.rho, self.z, self.dual_residual = params, rho, z, dual_residual

    def update(self, total: Vector, norms: Vector, members: int) -> bool:
        """Set z to the prox of the mean of x_i + u_i, for the Lasso S_{λ/(ρN)}; whether the z before had converged.

        Parameters
        ----------
        total : array, shape (d,)
            Σ(x_i + u_i).
        norms : array, shape (NORMS,)
            Their sums, of the iteration before.
        members : int
            N, the participants in these sums.
        """
        converged = self._converged(norms, members)
        new = prox_elastic_net(total / members, self.params.penalty, self.params.l1_ratio, self.rho * members)
        self.dual_residual = self.rho * math.sqrt(members) * float(np.linalg.norm(new - self.z))
        self.z = new
        return converged

    def _converged(self, norms: Vector, members: int) -> bool:
        """Both residuals below their tolerance [Boyd et al. 2011, section 3.3.1]; they are one iteration old."""
        gap, x, u = np.sqrt(np.maximum(norms, 0.0))
        size = math.sqrt(members * len(self.z))
        z = math.sqrt(members) * float(np.linalg.norm(self.z))
        primal = self.params.tolerance * (size + max(float(x), z))
        dual = self.params.tolerance * (size + self.rho * float(u))
        return self.params.tolerance > 0 and bool(gap <= primal) and self.dual_residual <= dual
