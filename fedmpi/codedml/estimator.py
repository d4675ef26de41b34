"""CodedPrivateML with the conventions of scikit-learn."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fedmpi.codedml.cluster import current, turn
from fedmpi.codedml.objective import Objective
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.service import serve
from fedmpi.codedml.training import Outcome, new_task, train
from fedmpi.core.sigmoid import sigmoid
from fedmpi.errors import UsageError
from fedmpi.net import Channel, run_local
from fedmpi.net.orders import dismiss
from fedmpi.rules import parameters_of_python


class _Coded(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators share."""

    _model: Literal["logistic", "linear"]

    def __init__(
        self,
        n_workers: int = 10,
        *,
        parallelization: int | None = None,
        privacy: int | None = None,
        case: Literal[1, 2] | None = None,
        degree: int | None = None,
        bits: Literal["auto", "paper"] = "auto",
        data_bits: int | None = None,
        weight_bits: int | None = None,
        coefficient_bits: int | None = None,
        prime: int | None = None,
        primes: Literal[1, 2, 3] | None = None,
        iterations: int = 50,
        tolerance: float | None = None,
        solver: Literal["lbfgs", "cg", "nesterov", "gradient"] | None = None,
        l2: float | None = None,
        learning_rate: str = "auto",
        decay: float = 0.0,
        average: bool = False,
        scale: str | None = None,
        center: bool = False,
        bias: bool = True,
        spares: int = 0,
        byzantine: int = 0,
        paper: bool = False,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.n_workers = n_workers
        self.parallelization = parallelization
        self.privacy = privacy
        self.case = case
        self.degree = degree
        self.bits = bits
        self.data_bits = data_bits
        self.weight_bits = weight_bits
        self.coefficient_bits = coefficient_bits
        self.prime = prime
        self.primes = primes
        self.iterations = iterations
        self.tolerance = tolerance
        self.solver = solver
        self.l2 = l2
        self.learning_rate = learning_rate
        self.decay = decay
        self.average = average
        self.scale = scale
        self.center = center
        self.bias = bias
        self.spares = spares
        self.byzantine = byzantine
        self.paper = paper
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _train(self, X: Any, y: NDArray[Any], n_classes: int, weights: NDArray[np.float64] | None) -> None:
        on_ranks = current() is not None
        with parameters_of_python(_SHORT_FLAGS, ranks=on_ranks):
            self._train_as_told(X, y, n_classes, weights, on_ranks)

    def _train_as_told(
        self, X: Any, y: NDArray[Any], n_classes: int, weights: NDArray[np.float64] | None, on_ranks: bool
    ) -> None:
        settings = {name: _whole(name, value) for name, value in self.get_params().items()}
        n_workers, seed = settings.pop("n_workers"), _seed(settings.pop("random_state"))
        settings.pop("class_weight", None)
        params = Params(model=self._model, **settings)
        if not on_ranks:
            params.code(n_workers)  # refuse impossible numbers before a thread starts
        problem = Problem.prepare(params, X, y, n_classes, weights)
        if on_ranks:
            with turn() as channel:
                outcome = train(channel, replace(new_task(params, problem, seed), keep=True))
        else:
            outcome = _train_on_threads(params, problem, seed, n_workers)
        self._transform, self._weights = problem.transform, outcome.slope * outcome.W
        self.coef_, self.intercept_ = problem.transform.original_units(self._weights)
        self.n_iter_ = outcome.iterations
        self.converged_ = outcome.converged
        self.headroom_bits_ = outcome.headroom_bits
        self.data_bits_, self.primes_ = problem.precision.data_bits, problem.precision.primes

    def _outputs(self, X: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        features = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        if len(self._transform.clipped):
            return self._transform.outputs(features, self._weights)
        return np.asarray(features @ self.coef_.reshape(-1, features.shape[1]).T + self.intercept_)


class CodedLogisticRegression(ClassifierMixin, _Coded):  # type: ignore[misc]  # scikit-learn has no types
    """Logistic regression, trained on Lagrange-coded data [So et al. 2021, Algorithm 1].

    The objective is that of scikit-learn's ``LogisticRegression``, on features that are scaled by column: the loss
    summed over the rows, softmax for more than two classes, plus ``l2``/2 times the squared weights. The workers are
    threads of this process, or inside ``with workers():`` the other ranks of an MPI job, where several fits on the same
    rows send the coded data once.

    Parameters
    ----------
    n_workers : int
        N, the number of threads; not used inside ``with workers():``.
    parallelization, privacy, case, degree, fit_range, bits, data_bits, weight_bits, coefficient_bits, prime, primes, \
    iterations, tolerance, solver, l2, learning_rate, decay, average, scale, center, bias, spares, byzantine, paper
        As in `fedmpi.codedml.params.Params`. With a degree the model is trained with a polynomial in place of the
        sigmoid, more than two classes one against the rest; its probabilities are calibrated by one slope.
    class_weight : dict, "balanced" or None
        As in scikit-learn.
    random_state : int, RandomState or None
        Seed of the public rounding noise. Masks are secret and never depend on it.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
    coef_ : array, shape (1 or n_classes, n_features)
        In the units of the features given to `fit`. Where these have outliers, of features that are cut off.
    intercept_ : array, shape (1 or n_classes,)
    n_iter_ : int
    converged_ : bool
        Whether the tolerance was reached.
    headroom_bits_ : float
        Bits between the largest value that was possible and the largest that fits in the field.
    data_bits_ : int
        Fractional bits of the scaled features.
    primes_ : tuple of int
        The field, or the fields side by side.
    """

    _model = "logistic"

    def __init__(
        self,
        n_workers: int = 10,
        *,
        parallelization: int | None = None,
        privacy: int | None = None,
        case: Literal[1, 2] | None = None,
        degree: int | None = None,
        fit_range: tuple[float, float] | None = None,
        bits: Literal["auto", "paper"] = "auto",
        data_bits: int | None = None,
        weight_bits: int | None = None,
        coefficient_bits: int | None = None,
        prime: int | None = None,
        primes: Literal[1, 2, 3] | None = None,
        iterations: int = 50,
        tolerance: float | None = None,
        solver: Literal["lbfgs", "cg", "nesterov", "gradient"] | None = None,
        l2: float | None = None,
        learning_rate: str = "auto",
        decay: float = 0.0,
        average: bool = False,
        scale: str | None = None,
        center: bool = False,
        bias: bool = True,
        spares: int = 0,
        byzantine: int = 0,
        paper: bool = False,
        class_weight: Any = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        super().__init__(
            n_workers,
            parallelization=parallelization,
            privacy=privacy,
            case=case,
            degree=degree,
            bits=bits,
            data_bits=data_bits,
            weight_bits=weight_bits,
            coefficient_bits=coefficient_bits,
            prime=prime,
            primes=primes,
            iterations=iterations,
            tolerance=tolerance,
            solver=solver,
            l2=l2,
            learning_rate=learning_rate,
            decay=decay,
            average=average,
            scale=scale,
            center=center,
            bias=bias,
            spares=spares,
            byzantine=byzantine,
            paper=paper,
            random_state=random_state,
        )
        self.fit_range = fit_range
        self.class_weight = class_weight

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "CodedLogisticRegression":
        """Train on rows X, shape (n_samples, n_features), with classes y and optional weights, shape (n_samples,).

        Weights are the master's alone: no worker sees which rows count, and rows of weight 0 do not.
        """
        features, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(f"y must hold two classes or more, got 1 class: {self.classes_[0]}")
        weights = None
        if sample_weight is not None or self.class_weight is not None:
            weights = _check_sample_weight(sample_weight, features, dtype=np.float64, ensure_non_negative=True)
            if self.class_weight is not None:
                weights = weights * compute_sample_weight(self.class_weight, y)
        self._train(features, labels, len(self.classes_), weights)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-odds, shape (n_samples,), for two classes; scores, shape (n_samples, n_classes), for more."""
        z = self._outputs(X)
        return z[:, 0] if len(self.classes_) == 2 else z

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row."""
        z = self.decision_function(X)
        chosen: NDArray[Any] = self.classes_[(z > 0).astype(int) if z.ndim == 1 else z.argmax(axis=1)]
        return chosen

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, shape (n_samples, n_classes)."""
        z = self._outputs(X)
        if z.shape[1] == 1:
            s = sigmoid(z[:, 0])
            return np.column_stack([1 - s, s])
        if self.degree is None and not self.paper:
            return Objective("softmax", np.zeros_like(z)).activation(z)
        s = sigmoid(z)  # one against the rest
        totals = s.sum(axis=1, keepdims=True)
        uniform = np.full_like(s, 1 / s.shape[1])
        return np.asarray(np.divide(s, totals, out=uniform, where=totals > 0))

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))


class CodedLinearRegression(RegressorMixin, _Coded):  # type: ignore[misc]  # scikit-learn has no types
    """Least squares, or with ``l2`` ridge regression, trained on Lagrange-coded data [So et al. 2021, Remark 1].

    The parameters are those of `CodedLogisticRegression`, but for `fit_range` and `class_weight`.

    Attributes
    ----------
    coef_ : array, shape (n_features,)
        In the units of features and target.
    intercept_ : float
    n_iter_ : int
    converged_ : bool
    headroom_bits_ : float
    data_bits_ : int
    primes_ : tuple of int
    """

    _model = "linear"

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "CodedLinearRegression":
        """Train on rows X, shape (n_samples, n_features), with targets y and optional weights, shape (n_samples,)."""
        features, targets = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, y_numeric=True)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, features, dtype=np.float64, ensure_non_negative=True)
        self._train(features, np.asarray(targets, np.float64), 0, weights)
        self.coef_, self.intercept_ = self.coef_[0], self.intercept_[0]
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The expected target of each row."""
        return self._outputs(X).reshape(-1)


_WHOLE = {
    "n_workers", "parallelization", "privacy", "case", "degree", "data_bits", "weight_bits", "coefficient_bits",
    "prime", "primes", "iterations", "byzantine", "spares",
}  # fmt: skip


_SHORT_FLAGS = {"K": "parallelization", "T": "privacy", "r": "degree"}


def _whole(name: str, value: Any) -> Any:
    """A parameter; as an int where it must be one, also if it came as 4.0 or a number of numpy's."""
    if name not in _WHOLE or value is None:
        return value
    if not isinstance(value, int | float | np.integer | np.floating) or not float(value).is_integer():
        raise UsageError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _seed(random_state: Any) -> int:
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(2**31))
    if not isinstance(random_state, int | np.integer) or random_state < 0:
        raise UsageError(f"random_state must be None, a RandomState or an integer from 0, got {random_state!r}")
    return int(random_state)


def _train_on_threads(params: Params, problem: Problem, seed: int, n_workers: int) -> Outcome:
    def master(ch: Channel) -> Outcome:
        outcome = train(ch, new_task(params, problem, seed))
        dismiss(ch)
        return outcome

    outcome: Outcome = run_local([master, *[serve] * n_workers])[0]
    return outcome
