"""CodedPrivateML with the conventions of scikit-learn."""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fedmpi.codedml.cluster import current
from fedmpi.codedml.params import Params
from fedmpi.codedml.service import dismiss, serve
from fedmpi.codedml.training import Outcome, Problem, train
from fedmpi.core import DEFAULT_PRIME
from fedmpi.core.sigmoid import sigmoid
from fedmpi.errors import UsageError
from fedmpi.net import Channel, run_local


class CodedLogisticRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Logistic regression, trained on Lagrange-coded data [So et al. 2021, Algorithm 1].

    The workers are threads of this process, or inside ``with workers():`` the other ranks of an MPI job. More
    than two classes are trained one against the rest, in one pass over the data.

    Parameters
    ----------
    n_workers : int
        N, the number of threads; not used inside ``with workers():``.
    parallelization, privacy, case, degree, fit_range, data_bits, weight_bits, coefficient_bits, prime, \
    iterations, learning_rate, decay, scale, center, bias
        As in `fedmpi.codedml.params.Params`.
    random_state : int, RandomState or None
        Seed of the public rounding noise. Masks are secret and never depend on it.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
    coef_ : array, shape (1 or n_classes, n_features)
        In the units of the features given to `fit`.
    intercept_ : array, shape (1 or n_classes,)
    n_iter_ : int
    headroom_bits_ : float
        Bits between the largest decoded value that was possible and p/2.
    """

    def __init__(
        self,
        n_workers: int = 10,
        *,
        parallelization: int | None = None,
        privacy: int | None = None,
        case: Literal[1, 2] | None = None,
        degree: int = 1,
        fit_range: tuple[float, float] = (-5.0, 5.0),
        data_bits: int = 2,
        weight_bits: int = 6,
        coefficient_bits: int = 3,
        prime: int = DEFAULT_PRIME,
        iterations: int = 50,
        learning_rate: str = "auto",
        decay: float = 0.0,
        scale: str = "max",
        center: bool = False,
        bias: bool = True,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.n_workers = n_workers
        self.parallelization = parallelization
        self.privacy = privacy
        self.case = case
        self.degree = degree
        self.fit_range = fit_range
        self.data_bits = data_bits
        self.weight_bits = weight_bits
        self.coefficient_bits = coefficient_bits
        self.prime = prime
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.decay = decay
        self.scale = scale
        self.center = center
        self.bias = bias
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> "CodedLogisticRegression":
        """Train on rows X, shape (n_samples, n_features), with classes y, shape (n_samples,)."""
        features, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(f"y must hold two classes or more, got 1 class: {self.classes_[0]}")
        settings = self.get_params()
        n_workers, seed = settings.pop("n_workers"), _seed(settings.pop("random_state"))
        params = Params(**settings)
        problem = Problem.prepare(params, features, labels, len(self.classes_))
        channel = current()
        if channel is not None:
            outcome = train(channel, params, problem, seed)
        else:
            params.code(n_workers)  # refuse impossible numbers before a thread starts
            outcome = _train_on_threads(params, problem, seed, n_workers)
        self.coef_, self.intercept_ = problem.transform.original_units(outcome.W)
        self.n_iter_ = self.iterations
        self.headroom_bits_ = outcome.headroom_bits
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-odds: shape (n_samples,) for two classes, (n_samples, n_classes) for more."""
        check_is_fitted(self)
        features = validate_data(self, X, reset=False)
        z: NDArray[np.float64] = features @ self.coef_.T + self.intercept_
        return z[:, 0] if len(self.classes_) == 2 else z

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row."""
        z = self.decision_function(X)
        chosen: NDArray[Any] = self.classes_[(z > 0).astype(int) if z.ndim == 1 else z.argmax(axis=1)]
        return chosen

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, shape (n_samples, n_classes); of more than two classes normalized to sum to 1."""
        s = sigmoid(self.decision_function(X))
        if s.ndim == 1:
            return np.column_stack([1 - s, s])
        totals = s.sum(axis=1, keepdims=True)
        uniform = np.full_like(s, 1 / s.shape[1])
        return np.asarray(np.divide(s, totals, out=uniform, where=totals > 0))


def _seed(random_state: Any) -> int:
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(2**31))
    if not isinstance(random_state, int | np.integer) or random_state < 0:
        raise UsageError(f"random_state must be None, a RandomState or an integer from 0, got {random_state!r}")
    return int(random_state)


def _train_on_threads(params: Params, problem: Problem, seed: int, n_workers: int) -> Outcome:
    def master(ch: Channel) -> Outcome:
        outcome = train(ch, params, problem, seed)
        dismiss(ch)
        return outcome

    outcome: Outcome = run_local([master, *[serve] * n_workers])[0]
    return outcome
