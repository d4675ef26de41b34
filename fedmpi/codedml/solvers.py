"""Which step the master takes, given products of X and Xᵀ with vectors: no channel, no quantization.

A point is (p, b): weights of centred features and an intercept, so that Xw + b₀ = (X - 1μᵀ)p + b. The objective is the
same, the intercept is not penalized, and the two no longer depend on each other. Scaled by the diagonal D of a bound
of the Hessian all directions start out equally steep.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.objective import Objective
from fedmpi.codedml.params import Params

Vector = NDArray[np.float64]

MEMORY = 10
"""Steps that L-BFGS remembers."""

_SEARCH = 12
"""Trials of a line search, at most."""


@dataclass(frozen=True, eq=False)
class State:
    """What a training goes on from."""

    iteration: int
    """Iterations that are done."""
    W: Vector
    """Weights, and the intercept in the last row if there is one; in units of the scaled features, shape (d, C)."""
    headroom_bits: float = float("inf")
    arrays: dict[str, Any] = field(default_factory=dict)
    """What the solver remembers: arrays, and lists of arrays of one shape."""
    converged: bool = False


class Products(Protocol):
    """What the solvers ask for; `step` counts exchanges."""

    @property
    def headroom_bits(self) -> float:
        """Bits between the largest value that was possible so far and the largest that fits."""

    def product(self, step: int, P: Vector) -> tuple[Vector, Vector]:
        """XP, shape (m, C), without an intercept, and P as it was after rounding: the product is that of this one."""

    def gradient(self, step: int, W: Vector, Z: Vector) -> tuple[Vector, Vector]:
        """XᵀS, shape (d, C), and 1ᵀS, shape (1, C), for the residuals S of the outputs Z of the weights W."""


@dataclass(frozen=True, eq=False)
class Columns:
    """What the master knows of each feature."""

    means: Vector
    """μ, shape (d,); zeros where there is no intercept."""
    squares: Vector
    """Σ_i x_ij², shape (d,)."""
    rows: int
    intercept: bool

    def diagonal(self, objective: Objective) -> tuple[Vector, float]:
        """D for the weights, shape (d, 1), and for the intercept."""
        spread = np.maximum(self.squares - self.rows * np.square(self.means), 0.0)
        curvature = objective.curvature_bound * objective.total_weight / self.rows
        D = curvature * spread + objective.l2
        # A constant feature has no say, whatever its weight.
        largest = D.max(initial=0.0)
        return np.where(largest * 1e-12 < D, D, largest or 1.0)[:, None], curvature * self.rows

    def gap(self, objective: Objective, Z: Vector, gradient: Vector, total: Vector, D: Vector, D_b: float) -> float:
        """About what is left to gain: half the squared gradient, in units of the curvature at the outputs Z.

        Where most rows are far on their side the loss is much flatter than at 0, and a small gradient leads far.
        """
        flat = max(objective.mean_curvature(Z) / objective.curvature_bound, 1e-6)
        features = (np.square(gradient) / (flat * (D - objective.l2) + objective.l2)).sum()
        return float(features + np.square(total).sum() / max(flat * D_b, 1e-300) * self.intercept) / 2

    def weights(self, p: Vector, b: Vector) -> Vector:
        """(p, b) in the coordinates of X, with the intercept in the last row."""
        if not self.intercept:
            return p.copy()
        return np.vstack([p, b - (self.means[:, None] * p).sum(axis=0)])

    def centred(self, g: Vector, total: Vector) -> Vector:
        """(X - 1μᵀ)ᵀS from XᵀS and 1ᵀS."""
        return g - self.means[:, None] * total


def minimize(
    objective: Objective, columns: Columns, products: Products, solver: str, tolerance: float, start: State
) -> Iterator[State]:
    """L-BFGS [Liu and Nocedal 1989] or nonlinear conjugate gradients [Polak and Ribière 1969] from a state on.

    An iteration asks for one gradient and one product, Xp of the direction p: the outputs Xw of all points w + αp are
    known then, and so the step size is searched until the slope is gone, in the master's own arithmetic.

    Yields
    ------
    State
        After each iteration; the last one is `converged` if the tolerance ended the search.
    """
    (m, C), d = objective.Y.shape, len(columns.means)
    D, D_b = columns.diagonal(objective)
    root, root_b = np.sqrt(D), np.sqrt(D_b) or 1.0
    known = start.arrays or {"p": np.zeros((d, C)), "b": np.zeros((1, C)), "Z": np.zeros((m, C))}
    p, b, Z = known["p"], known["b"], known["Z"]
    memory = Memory(solver, known)
    first, state = known.get("first"), start
    while not state.converged:
        it = state.iteration
        raw, total = products.gradient(2 * it, state.W, Z)
        gradient = columns.centred(raw, total) + objective.l2 * p
        g = np.concatenate([(gradient / root).ravel(), (total / root_b).ravel() if columns.intercept else []])
        value = objective.loss(Z) + objective.l2 / 2 * _dot(p, p)
        first = np.array([value]) if first is None else first
        gap = columns.gap(objective, Z, gradient, total, D, D_b)
        if gap <= max(tolerance * min(value, float(first[0]) - value), tolerance**2 * value):
            yield State(it, state.W, products.headroom_bits, state.arrays, converged=True)
            return
        direction = memory.direction(g)
        for u in (direction, -g):  # the second where rounding spoilt the first
            dp = u[: d * C].reshape(d, C) / root
            db = u[d * C :].reshape(1, C) / root_b if columns.intercept else np.zeros((1, C))
            slope = _dot(gradient, dp) + _dot(total, db)
            if slope < 0:
                break
            memory.forget()
        dZ, dp = products.product(2 * it + 1, dp)
        dZ = dZ + (db - (columns.means[:, None] * dp).sum(axis=0))
        u = np.concatenate([(dp * root).ravel(), u[d * C :]])
        step = line_search(objective, Z, dZ, _dot(p, dp), _dot(dp, dp))
        p, b, Z = p + step * dp, b + step * db, Z + step * dZ
        done = step == 0 and not memory.used
        if step > 0:
            memory.keep(g, step * u)
        else:  # rounding, or a polynomial, spoilt the direction: the gradient alone is left to be tried
            memory.forget()
        arrays = {"p": p, "b": b, "Z": Z, "first": first, **memory.arrays()}
        state = State(it + 1, columns.weights(p, b), products.headroom_bits, arrays, converged=done)
        yield state


class Memory:
    """The steps and gradients that a direction is made from, in coordinates scaled by √D."""

    def __init__(self, solver: str, arrays: dict[str, Any]):
        self._conjugate = solver == "cg"
        self._steps = list(arrays.get("steps", ()))
        self._changes = list(arrays.get("changes", ()))
        self._g, self._step = arrays.get("g"), arrays.get("step")

    @property
    def used(self) -> bool:
        """Whether a direction is made from more than the gradient."""
        return self._g is not None

    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        found = {"g": self._g, "step": self._step, "steps": self._steps or None, "changes": self._changes or None}
        return {name: array for name, array in found.items() if array is not None}

    def forget(self) -> None:
        """Begin again from the gradient alone."""
        self._steps, self._changes, self._g, self._step = [], [], None, None

    def keep(self, g: Vector, step: Vector) -> None:
        """The gradient that a step was made from, and the step."""
        self._g, self._step = g, step

    def direction(self, g: Vector) -> Vector:
        """Where to go from a point with gradient g."""
        if self._g is None or self._step is None:
            return -g
        change = g - self._g
        if self._conjugate:
            beta = max(0.0, _dot(g, change) / _dot(self._g, self._g))
            # The step is along the last direction; its length in units of the gradient is what beta refers to.
            length = _dot(self._step, self._g)
            return -g if length == 0 else -g + beta * self._step * (-_dot(self._g, self._g) / length)
        if _dot(change, self._step) > 1e-12 * np.sqrt(_dot(change, change) * _dot(self._step, self._step)):
            self._steps, self._changes = [*self._steps, self._step][-MEMORY:], [*self._changes, change][-MEMORY:]
        q, factors = g.copy(), []
        for s, y in zip(reversed(self._steps), reversed(self._changes), strict=True):
            factors.append(_dot(s, q) / _dot(s, y))
            q -= factors[-1] * y
        if self._steps:
            q *= _dot(self._steps[-1], self._changes[-1]) / _dot(self._changes[-1], self._changes[-1])
        for s, y, factor in zip(self._steps, self._changes, reversed(factors), strict=True):
            q += s * (factor - _dot(y, q) / _dot(s, y))
        return -q


def line_search(objective: Objective, Z: Vector, dZ: Vector, p_dp: float, dp_dp: float) -> float:
    """The step size α ≥ 0 along which the objective hardly falls any more, by Newton's method within a bracket.

    Parameters
    ----------
    Z, dZ : array, shape (m, C)
        Outputs now, and their change for α = 1.
    p_dp, dp_dp : float
        ⟨p, dp⟩ and ‖dp‖² of the weights, for the penalty.
    """

    def derivatives(alpha: float) -> tuple[float, float]:
        slope, curvature = objective.slope_and_curvature(Z + alpha * dZ, dZ)
        return slope + objective.l2 * (p_dp + alpha * dp_dp), curvature + objective.l2 * dp_dp

    first, curvature = derivatives(0.0)
    if not first < 0:
        return 0.0
    low, high, slope, alpha = 0.0, np.inf, first, 0.0
    for _ in range(_SEARCH):
        trial = alpha - slope / curvature if curvature > 0 else np.inf
        if not low < trial < high:
            trial = (low + high) / 2 if high < np.inf else max(2 * low, 1.0)
        alpha = trial
        slope, curvature = derivatives(alpha)
        if abs(slope) <= 0.01 * abs(first):
            break
        low, high = (alpha, high) if slope < 0 else (low, alpha)
    return float(alpha)


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """(c·XᵀX + λ)W = right; each output is a system of its own, and the last row is the intercept if there is one."""

    product: Callable[[int, Vector, Vector], tuple[Vector, Vector]]
    """(step, P, W) → c·XᵀXP, shape (d, C), of a direction P from the weights W, and P as it was after rounding."""
    right: Vector
    """Xᵀ of the targets, shape (d, C)."""
    columns: Columns
    D: Vector
    """The diagonal by which residuals are scaled, shape (d, 1)."""
    l2: float
    """λ, which the intercept is spared."""


def conjugate_gradients(equations: NormalEquations, tolerance: float, start: State) -> Iterator[State]:
    """Linear conjugate gradients [Hestenes and Stiefel 1952], one product an iteration."""
    right, columns, D = equations.right, equations.columns, equations.D
    features = len(columns.means)

    def from_centred(u: Vector) -> Vector:
        return columns.weights(u[:features], u[features:])

    def to_centred(W: Vector) -> Vector:
        p = W[:features]
        return np.vstack([p, W[features:] + (columns.means[:, None] * p).sum(axis=0)]) if columns.intercept else W

    def centred(g: Vector) -> Vector:
        return np.vstack([columns.centred(g[:features], g[features:]), g[features:]]) if columns.intercept else g

    penalty = np.zeros((len(right), 1))
    penalty[:features] = equations.l2
    r, nothing = centred(right), np.zeros_like(right)
    # A target far from 0 is the intercept's, and says nothing of how exact the weights have to be.
    first = (np.square(r) / D)[:features].sum(axis=0)
    known = start.arrays or {"u": nothing, "r": r, "q": nothing, "Hq": nothing}
    u, r, q, Hq = known["u"], known["r"], known["q"], known["Hq"]
    state = start
    while not state.converged:
        z = r / D
        if not ((r * z).sum(axis=0) > tolerance * first).any():  # about twice what is left to gain, and what there was
            yield State(state.iteration, state.W, state.headroom_bits, state.arrays, converged=True)
            return
        # Conjugate to the last direction as it was after rounding.
        q = z - _ratio((z * Hq).sum(axis=0), (q * Hq).sum(axis=0)) * q
        raw, sent = equations.product(state.iteration, from_centred(q), state.W)
        q = to_centred(sent)
        Hq = centred(raw) + penalty * q
        alpha = _ratio((r * q).sum(axis=0), (q * Hq).sum(axis=0))
        u, r = u + alpha * q, r - alpha * Hq
        state = State(state.iteration + 1, from_centred(u), arrays={"u": u, "r": r, "q": q, "Hq": Hq})
        yield state


def first_order(
    gradient: Callable[[int, Vector], Vector], params: Params, learning_rate: float, rows: int, start: State
) -> Iterator[State]:
    """Gradient descent [So et al. 2021, eq. (17)], or with momentum [Nesterov 1983], in the units of X.

    Parameters
    ----------
    gradient : callable
        (iteration, W) → Xᵀ of the residuals of these weights, shape (d, C).
    params : Params
    learning_rate : float
        η.
    rows : int
        m.
    """
    penalty = np.full((len(start.W), 1), params.penalty)
    if params.bias:
        penalty[-1] = 0.0
    W = start.arrays.get("W", start.W)
    before, total = start.arrays.get("before", W), start.arrays.get("total", np.zeros_like(W))
    for it in range(start.iteration, params.iterations):
        momentum = it / (it + 3) if params.solver == "nesterov" else 0.0
        point = W + momentum * (W - before) if momentum else W
        step = gradient(it, point) + penalty * point if params.l2 else gradient(it, point)
        before = W
        with np.errstate(over="ignore", invalid="ignore"):  # seen in the next iteration
            W = point - learning_rate / (1 + params.decay * it) / rows * step
        total = total + W
        kept = {"W": W, "before": before, "total": total}
        yield State(it + 1, total / (it + 1) if params.average else W, arrays=kept)


def _ratio(a: Vector, b: Vector) -> Vector:
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _dot(a: Vector, b: Vector) -> float:
    # Not a product of the BLAS: its order of summation depends on the number of threads.
    return float((a * b).sum())
