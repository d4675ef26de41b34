"""The training that all private methods share: what is quantized and sent, and what is made of the answers.

Nothing here knows of messages. `Workers` is what the coded protocol and the baselines offer, and what integer
arithmetic without any coding (`plain.IntegerWorkers`) offers to the tests.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.headroom import NORM_ROUNDING, Headroom
from fedmpi.codedml.objective import Surrogate, column_sums, target_correlation
from fedmpi.codedml.params import Params
from fedmpi.codedml.precision import COARSE
from fedmpi.codedml.problem import Problem, exact_product
from fedmpi.codedml.solvers import NormalEquations, State, Vector, conjugate_gradients, first_order, minimize
from fedmpi.core.quantize import quantize_stochastic
from fedmpi.core.sigmoid import fitted_polynomial, odd_factors, sigmoid_polynomial
from fedmpi.errors import HeadroomError, UsageError

Noise = Callable[[int, tuple[int, ...]], Vector]
"""(step, shape) → the public and repeatable noise of stochastic quantization."""

Meanwhile = Callable[[], None]
"""What the master does while the workers compute."""

_EXACT = 2.0**53
"""Integers below this are exact in float64."""

_ROWS_AHEAD = 1000
"""Rows on which it is foreseen whether fixed bits will last."""

_LARGEST_INTEGER = 45
"""Bits of an integer that is sent, at most: more precision than that has no use."""


class Workers(Protocol):
    """Who multiplies. Integers in, the sum over the rows out, exact but for its one rounding to float64."""

    def multiply(self, step: int, V: NDArray[np.int64], transposed: bool, bits: int, meanwhile: Meanwhile) -> Vector:
        """2^-bits·X̄V for V of shape (d, C), or 2^-bits·X̄ᵀV for V of shape (m, C)."""

    def polynomial(self, step: int, W_bar: NDArray[np.int64], bits: int, runs: int, meanwhile: Meanwhile) -> Vector:
        """2^-bits·X̄ᵀ s̄(X̄, W̄) for W̄ of shape (r, d, C), shape (d, C).

        `runs`: where the blocks are divided into so many runs, the sum over the rows of each fits in the field.
        """


@dataclass(frozen=True, eq=False)
class Descent:
    """One training, but for who computes.

    Parameters
    ----------
    params : Params
    problem : Problem
    noise : callable
        (step, shape) → uniform values in [0, 1).
    blocks : list of slice
        The rows of which one gradient each is decoded.
    observe : callable
        Called with (iteration, W) while the workers compute on what follows from W.
    """

    params: Params
    problem: Problem
    noise: Noise
    blocks: list[slice]
    observe: Callable[[int, Vector], None]

    @property
    def beginning(self) -> State:
        """W = 0 (line 4 of Algorithm 1)."""
        return State(0, np.zeros((self.problem.weight_rows, self.problem.objective.Y.shape[1])))

    @property
    def _stop_below(self) -> float:
        return self.params.stop_below(len(self.problem.X_bar))

    def states(self, workers: Workers, start: State) -> Iterator[State]:
        """One state after each iteration that follows a state.

        Raises
        ------
        UsageError
            If a value would not fit in the field, or the weights diverge.
        """
        params = self.params
        if start.converged or start.iteration >= params.iterations:
            return
        for state in self._states(workers, start):
            if not np.isfinite(state.W).all():
                what = "lower --learning-rate" if params.solver in ("nesterov", "gradient") else "take another --scale"
                raise UsageError(f"the weights must converge, got infinite ones in iteration {state.iteration}: {what}")
            yield replace(state, headroom_bits=min(state.headroom_bits, start.headroom_bits))
            if state.iteration >= params.iterations:
                return

    def _states(self, workers: Workers, start: State) -> Iterator[State]:
        params, problem = self.params, self.problem
        if params.exact:
            products = Exchanges(self, workers)
            if params.solver in ("lbfgs", "cg"):
                yield from minimize(
                    problem.objective, problem.columns, products, params.solver, self._stop_below, start
                )
            else:
                yield from self._first_order(products.whole_gradient, start, products)
            return
        polynomial = Polynomial(self, workers)
        if params.solver == "cg":
            D, D_b = problem.columns.diagonal(problem.objective)
            slope = polynomial.slope / problem.objective.curvature_bound
            D = np.vstack([slope * (D - params.penalty) + params.penalty, [[slope * D_b]] * params.bias])
            equations = NormalEquations(polynomial.linear, polynomial.targets, problem.columns, D, params.penalty)
            for state in conjugate_gradients(equations, self._stop_below, start):
                yield State(state.iteration, state.W, polynomial.headroom_bits, state.arrays, state.converged)
        elif params.solver == "lbfgs":
            polynomial.surrogate.polynomial[0] = float(start.arrays.get("reach", np.zeros(1))[0])
            for state in minimize(
                polynomial.surrogate, problem.columns, polynomial, params.solver, self._stop_below, start
            ):
                reach = np.array([polynomial.surrogate.polynomial[0]])
                yield replace(state, arrays=state.arrays | {"reach": reach})
        else:
            yield from self._first_order(polynomial.whole_gradient, start, polynomial)

    def _first_order(
        self, gradient: Callable[[int, Vector], Vector], start: State, products: "Exchanges | Polynomial"
    ) -> Iterator[State]:
        params, problem = self.params, self.problem
        for state in first_order(gradient, params, problem.learning_rate, len(problem.X_bar), start):
            yield replace(state, headroom_bits=products.headroom_bits)


def fitting(V: Vector, bound: float, half: float, noise: Vector) -> tuple[NDArray[np.int64], int, float]:
    """V as integers, with as many fractional bits as fit, and so that no product with rows of X̄ wraps around.

    Parameters
    ----------
    V : array, shape (n, C)
    bound : float
        The largest norm of what is multiplied by V.
    half : float
        Products must stay below this in absolute value; by Cauchy-Schwarz they are below `bound` times ‖V̄‖.
    noise : array, shape (n, C)
        Uniform in [0, 1), for unbiased rounding.

    Returns
    -------
    V̄, the number of its fractional bits, and the bits that are left between the bound and `half`
    """
    with np.errstate(over="ignore"):  # refused below
        norm = math.sqrt(float(np.square(V).sum(axis=0).max(initial=0.0)))
    largest = float(np.abs(V).max(initial=0.0))
    if not norm < float("inf"):
        raise UsageError(
            f"the weights must converge, got products with vectors of norm {norm:g}: lower --learning-rate, take "
            "another --solver, or smaller sample weights"
        )
    if norm == 0:
        return np.zeros(V.shape, np.int64), 0, float("inf")
    bits = math.floor(math.log2(half) - math.log2(max(bound, 1.0)) - math.log2(norm))
    bits = min(bits, _LARGEST_INTEGER - math.frexp(largest)[1], 1000)
    while True:
        V_bar = quantize_stochastic(V, bits, noise)
        reached = (
            math.sqrt(float(np.square(V_bar.astype(np.float64)).sum(axis=0).max())) * NORM_ROUNDING * max(bound, 1.0)
        )
        if reached < half:
            return V_bar, bits, math.log2(half / max(reached, 1.0))
        bits -= 1


def check_ahead(params: Params, problem: Problem, blocks: list[slice]) -> None:
    """Refuse fixed bits that would not last, before any data is encoded.

    The proof in each iteration decides; this foresees what it will say, from the weights that gradient descent in the
    reals reaches on some of the rows.

    Raises
    ------
    HeadroomError
    """
    if not params.fixed_bits:
        return
    rows = slice(None, None, -(-len(problem.X_bar) // _ROWS_AHEAD))
    X = problem.X_bar[rows].astype(np.float64) * 2.0**-problem.precision.data_bits
    Y = problem.objective.Y[rows]
    polynomial = sigmoid_polynomial(params.degree or 1, *params.interval) if params.model == "logistic" else [0.0, 1.0]
    W = np.zeros((X.shape[1], Y.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for it in range(params.iterations):
            gradient = X.T @ (np.polynomial.polynomial.polyval(X @ W, polynomial) - Y) / len(X)
            W = W - problem.learning_rate / (1 + params.decay * it) * gradient
    if not np.abs(W).max(initial=0.0) * 2.0 ** (params.weight_bits or 0) < _EXACT:
        return  # it is for the training to say that it diverges
    W_bar = np.broadcast_to(np.rint(W * 2.0 ** (params.weight_bits or 0)), (params.degree or 1, *W.shape))
    headroom = Headroom(problem.X_bar, blocks, public_coefficients(params, problem), problem.precision.residues.half)
    headroom.check(W_bar.astype(np.int64), params.iterations, foreseen=True)


class Exchanges:
    """Products with X̄ and X̄ᵀ, one exchange each: the sigmoid itself is applied by the master, in between."""

    def __init__(self, descent: Descent, workers: Workers):
        self._descent, self._workers, problem = descent, workers, descent.problem
        self._bits, self._half = problem.precision.data_bits, problem.precision.residues.half
        self.headroom_bits = float("inf")

    def product(self, step: int, P: Vector) -> tuple[Vector, Vector]:
        """XP, and P as it was sent."""
        return self._multiply(step, P, self._descent.problem.row_bound, False, lambda: None)

    def gradient(self, step: int, W: Vector, Z: Vector) -> tuple[Vector, Vector]:
        """XᵀS and 1ᵀS of the residuals S of Z; the observers see W while the workers compute."""
        problem, observe, iteration = self._descent.problem, self._descent.observe, step // 2
        problem.remember(W, Z)
        S = problem.objective.residuals(Z)
        g, _ = self._multiply(step, S, problem.column_bound, True, lambda: observe(iteration, W))
        return g, S.sum(axis=0, keepdims=True)

    def whole_gradient(self, iteration: int, W: Vector) -> Vector:
        """Xᵀ(s(XW) - Y) of weights, where X has a column of ones."""
        Z, _ = self.product(2 * iteration, W)
        return self.gradient(2 * iteration + 1, W, Z)[0]

    def _multiply(
        self, step: int, V: Vector, bound: float, transposed: bool, meanwhile: Meanwhile
    ) -> tuple[Vector, Vector]:
        V_bar, bits, left = fitting(V, bound, self._half, self._descent.noise(step, V.shape))
        self.headroom_bits = min(self.headroom_bits, left)
        product = self._workers.multiply(step, V_bar, transposed, self._bits + bits, meanwhile)
        return product, np.multiply(V_bar, 2.0**-bits, dtype=np.float64)


class Polynomial:
    """Xᵀ s(XW) in one exchange, s a polynomial in place of the sigmoid [So et al. 2021, eq. (18)].

    The workers get no constant term: c_0 Xᵀ1 is the master's, beside XᵀY, and takes no room in the field.

    With fixed bits (the paper's) W is quantized r times, and all coefficients are public. Otherwise s(z) =
    c_0 + a z (1 - (v z)² (1 - …)), and the factors a and v are multiplied into the weights, so that the workers see
    the same coefficients whatever the interval of the fit is; a W has as many bits as fit.
    """

    def __init__(self, descent: Descent, workers: Workers):
        params, problem = descent.params, descent.problem
        self._descent, self._workers = descent, workers
        self._bits, self._half = problem.precision.data_bits, problem.precision.residues.half
        self.headroom = Headroom(problem.X_bar, descent.blocks, public_coefficients(params, problem), self._half)
        ones = column_sums(problem.X_bar, np.float64)[:, None]
        XtY = target_correlation(problem.X_bar, problem.objective.Y) * 2.0**-self._bits
        objective = problem.objective
        self.surrogate = Surrogate(objective.kind, objective.Y, objective.l2, objective.weights)
        if params.fixed_bits:
            self._c0 = params.coefficients[0] * ones * 2.0**-params.gradient_bits
        else:
            self._c0 = (0.0 if params.model == "linear" else 0.5) * ones * 2.0**-self._bits
        self._XtY = XtY

    @property
    def headroom_bits(self) -> float:
        """Bits between the largest decoded value that was possible and p/2."""
        return self.headroom.bits

    @property
    def targets(self) -> Vector:
        """Xᵀ(Y - c_0)."""
        return np.asarray(self._XtY - self._c0)

    @property
    def slope(self) -> float:
        """c_1 of a polynomial of degree 1."""
        return self._factors(None)[0]

    def linear(self, step: int, P: Vector, W: Vector) -> tuple[Vector, Vector]:
        """c_1 XᵀXP of a direction, and P as it was sent; the observers see the weights W."""
        return self._floating(step, P, self._factors(None), step, W)

    def whole_gradient(self, iteration: int, W: Vector) -> Vector:
        """Xᵀ(s(XW) - Y)."""
        params, observe = self._descent.params, self._descent.observe
        assert params.degree is not None
        if params.weight_bits is None:
            Z = self.product(iteration, W)[0] if params.degree > 2 else None
            return self._floating(iteration, W, self._factors(Z), iteration, W)[0] - self.targets
        largest = np.abs(W).max() * 2.0**params.weight_bits
        if not largest < _EXACT:
            raise UsageError(
                f"the weights must converge, got {largest:g} in iteration {iteration}: lower --learning-rate"
            )
        W_bar = quantize_stochastic(W, params.weight_bits, self._descent.noise(iteration, (params.degree, *W.shape)))
        runs = self.headroom.check(W_bar, iteration)
        gradient = self._workers.polynomial(iteration, W_bar, params.gradient_bits, runs, lambda: observe(iteration, W))
        return np.asarray(gradient + self._c0 - self._XtY)

    def product(self, step: int, P: Vector) -> tuple[Vector, Vector]:
        """XP and P, by the master itself: the interval of the fit has to hold all values of XW."""
        problem = self._descent.problem
        noise = self._descent.noise(step, P.shape)
        P_bar, bits, _ = fitting(P, problem.row_bound, _EXACT, noise)
        product = exact_product(problem.X_bar, P_bar) * 2.0 ** -(self._bits + bits)
        return np.asarray(product), np.multiply(P_bar, 2.0**-bits, dtype=np.float64)

    def gradient(self, step: int, W: Vector, Z: Vector) -> tuple[Vector, Vector]:
        """Xᵀ(s(XW) - Y), for the features and for the intercept."""
        g = self._floating(step, W, self._factors(Z), step // 2, W)[0] - self.targets
        if not self._descent.params.bias:
            return g, np.zeros((1, g.shape[1]))
        return g[:-1], g[-1:]

    def _factors(self, Z: Vector | None) -> tuple[float, tuple[float, ...]]:
        """The factors a and v_1, v_2, …; fitted where the outputs Z are, unless the interval of the fit is given."""
        params = self._descent.params
        if params.model == "linear":
            return 1.0, ()
        assert params.degree is not None
        if params.degree < 3 or Z is None or params.fit_range is not None:
            reach = params.interval[1]
            coefficients = sigmoid_polynomial(params.degree, *params.interval)
        else:
            # Grows by factors of √2, so that the objective seldom changes.
            reach = 2.0 ** (math.ceil(2 * math.log2(max(float(np.abs(Z).max(initial=0.0)), 1.0))) / 2)
            reach = max(self.surrogate.polynomial[0], reach)
            coefficients = fitted_polynomial(params.degree, Z, reach)
        self.surrogate.polynomial[:] = [reach, coefficients]
        return odd_factors(coefficients)

    def _floating(
        self, step: int, W: Vector, factors: tuple[float, tuple[float, ...]], iteration: int, observed: Vector
    ) -> tuple[Vector, Vector]:
        """X̄ᵀ of the polynomial without its constant, with as many bits of a W as fit, and W as it was sent."""
        (a, higher), descent = factors, self._descent
        assert descent.params.degree is not None
        noise = descent.noise(step, (descent.params.degree, *W.shape))
        argument_bits = descent.problem.precision.argument_bits
        W_bar = np.zeros(noise.shape, np.int64)
        for i, v in enumerate(higher):
            for n in (1 + 2 * i, 2 + 2 * i):
                W_bar[n] = quantize_stochastic(v * W, argument_bits, noise[n])
        bits = min(_LARGEST_INTEGER - math.frexp(float(np.abs(a * W).max(initial=0.0)))[1], 1000)
        while True:
            W_bar[0] = quantize_stochastic(a * W, bits, noise[0])
            over = self.headroom.excess(W_bar)
            if over < 0:
                break
            bits -= max(1, math.floor(over))
        if not np.square(W_bar[0], dtype=np.float64).sum() >= (0.5 / COARSE) ** 2 * np.count_nonzero(W):
            raise HeadroomError(
                f"the range of the field must leave more than rounding errors of the weights, got {bits} bits for them "
                f"in iteration {iteration}: take --primes 3, fewer --data-bits, or no polynomial"
            )
        powers = (descent.params.degree - 1) // 2 * 2 * (self._bits + argument_bits)
        observe = descent.observe
        g = self._workers.polynomial(
            iteration, W_bar, 2 * self._bits + bits + powers, True, lambda: observe(iteration, observed)
        )
        return g, np.multiply(W_bar[0], 2.0**-bits / a, dtype=np.float64)


def public_coefficients(params: Params, problem: Problem) -> list[int]:
    """The integers c̄_0 … c̄_r that the workers get; c̄_0 is 0, for it is the master's."""
    assert params.degree is not None
    if params.fixed_bits:
        return [0, *params.coefficients[1:]]
    argument = problem.precision.data_bits + problem.precision.argument_bits
    odd = (params.degree - 1) // 2 * 2 + 1
    coefficients = [0] * (params.degree + 1)
    for n in range(1, odd + 1, 2):
        coefficients[n] = (-1) ** ((n - 1) // 2) * 2 ** ((odd - n) * argument)
    return coefficients
