"""Consensus ADMM for linear regression with an elastic net [Boyd et al. 2011, sections 7.1 and 8.2].

Letters: participant i holds A_i (m_i, d) and b_i (m_i,); x_i its own model, u_i its scaled dual variable, z the
consensus. The problem is min ½ Σ‖A_i x_i − b_i‖² + λ(r‖z‖₁ + (1−r)/2·‖z‖₂²) with x_i = z.

All of it is in scaled coordinates: columns and targets are divided by their deviations s_j and t, and the penalty has
weights that leave the optimum where it is. So neither ρ nor the fixed point depends on anybody's units.
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

IMBALANCE, STEP, EVERY = 10.0, 2.0, 10
"""μ and τ: where one residual is μ times the other, ρ changes by τ [Boyd et al. 2011, section 3.4.1]; but only in every
tenth iteration, since the residuals right after a change say little, and each change costs a factorization."""

ADAPTED = 2.0**-20
"""Once both residuals are smaller, relative to what they are residuals of, ρ stays: rounding must not decide on it."""

RANGE = 2.0**7
"""ρ stays within this factor of where it began."""


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
    """What features and targets are shifted and divided by; the target stands behind the features.

    Parameters
    ----------
    means, scales : array, shape (d + 1,)
    """

    means: Vector
    scales: Vector

    @classmethod
    def none(cls, columns: int) -> "Scaling":
        """Changes nothing."""
        return cls(np.zeros(columns + 1), np.ones(columns + 1))

    @classmethod
    def fit(cls, params: Params, totals: Vector) -> "Scaling":
        """The means, from the totals (m, Σ rows, Σ targets) of shape (d + 2,); zeros without an intercept."""
        means = totals[1:] / totals[0] if params.fit_intercept else np.zeros(len(totals) - 1)
        return cls(means, np.ones(len(means)))

    def with_scales(self, squares: Vector, rows: float) -> "Scaling":
        """The standard deviations, from the sums of the centred squares, shape (d + 1,).

        What is constant has an infinite one, which takes a column out.
        """
        deviations = np.sqrt(np.maximum(squares, 0.0) / rows)
        scales = np.where(deviations > CONSTANT * np.abs(self.means), deviations, np.inf)
        return Scaling(self.means, np.append(scales[:-1], scales[-1] if np.isfinite(scales[-1]) else 1.0))

    def weights(self, params: Params) -> tuple[Vector, Vector]:
        """Those of |z_j| and of z_j²/2 with which the penalty is λ's in the units of the features, shapes (d,)."""
        l1, l2 = params.penalty * params.l1_ratio, params.penalty * (1.0 - params.l1_ratio)
        units = np.ones(len(self.scales) - 1) if params.standardize else self.scales[:-1]
        return l1 / (units * self.scales[-1]), l2 / units**2

    def curvature(self, rows: float, participants: int) -> float:
        """The mean eigenvalue of the scaled A_iᵀA_i, to 6 digits, so that the last bits of a sum do not change it."""
        live = float(np.isfinite(self.scales[:-1]).mean())
        return float(f"{rows * live / participants:.6g}") if live else 1.0

    def original_units(self, z: Vector) -> tuple[Vector, float]:
        """Coefficients, shape (d,), and intercept for features and targets as they were."""
        coefficients: Vector = z * self.scales[-1] / self.scales[:-1]
        return coefficients, float(self.means[-1] - self.means[:-1] @ coefficients)


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
        """Subtract the means of features and target, shape (d + 1,); the sums of the squares, shape (d + 1,)."""
        self.A, self.b = self.A - means[:-1], self.b - means[-1]
        return np.append(np.einsum("ij,ij->j", self.A, self.A), self.b @ self.b)

    def begin(self, rho: float, scales: Vector) -> None:
        """Divide features and target by their scales, shape (d + 1,), and factorize."""
        self.A, self.b = self.A / scales[:-1], self.b / scales[-1]
        self._problem = Subproblem(self.A, self.b, rho)

    @property
    def rho(self) -> float:
        """ρ of the factor."""
        assert self._problem is not None
        return self._problem.rho

    def renew(self, rho: float) -> None:
        """Go on with another ρ: the dual variable ρu_i stays, and the factor is made anew."""
        if rho == self.rho:
            return
        self.u *= self.rho / rho
        self.norms[2] = self.u @ self.u
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
    weights : pair of array, shape (d,)
        Of the penalty: `Scaling.weights`.
    rho : float
        ρ.
    z : array, shape (d,)
    curvature : float
        The mean eigenvalue of the A_iᵀA_i.
    dual_residual : float
        That of the last change of z; infinite at the start.
    """

    def __init__(
        self,
        params: Params,
        weights: tuple[Vector, Vector],
        rho: float,
        z: Vector,
        curvature: float,
        dual_residual: float = math.inf,
    ):
        self.params, self.weights, self.rho, self.z = params, weights, rho, z
        self.curvature, self.dual_residual = curvature, dual_residual

    def update(self, total: Vector, norms: Vector, members: int, iteration: int) -> bool:
        """Set z to the prox of the mean of x_i + u_i, for the Lasso S_{λ/(ρN)}; whether the z before had converged.

        Parameters
        ----------
        total : array, shape (d,)
            Σ(x_i + u_i).
        norms : array, shape (NORMS,)
            Their sums, of the iteration before.
        members : int
            N, the participants in these sums.
        iteration : int
            Counted from 0.
        """
        gap, x, u = (float(norm) for norm in np.sqrt(np.maximum(norms, 0.0)))
        primal = max(x, math.sqrt(members) * float(np.linalg.norm(self.z)))
        dual, change = self.rho * u, self.dual_residual
        new = prox_elastic_net(total / members, *self.weights, self.rho * members)
        self.dual_residual = self.rho * math.sqrt(members) * float(np.linalg.norm(new - self.z))
        self.z = new
        size = math.sqrt(members * len(self.z))
        tolerance = self.params.tolerance
        if gap <= tolerance * (size + primal) and change <= tolerance * (size + dual):
            return tolerance > 0 and self.params.tells(self.rho / self.curvature)
        if self.params.rho == "auto" and iteration % EVERY == 0 < iteration and primal and dual:
            self._balance(gap / primal, change / dual)
        return False

    def _balance(self, primal: float, dual: float) -> None:
        """Change ρ for the iteration to come where one relative residual is much larger than the other."""
        if max(primal, dual) < ADAPTED:
            return
        stiffness = self.rho / self.curvature
        if primal > IMBALANCE * dual and stiffness < RANGE and self.params.tells(STEP * stiffness):
            self.rho *= STEP
        elif dual > IMBALANCE * primal and stiffness > 1 / RANGE:
            self.rho /= STEP
