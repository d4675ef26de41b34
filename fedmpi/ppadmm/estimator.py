"""PPADMM with the conventions of scikit-learn."""

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from fedmpi.crypto.masks import MaskKind
from fedmpi.data.partition import rows_of
from fedmpi.errors import UsageError
from fedmpi.net import Channel, run_local
from fedmpi.ppadmm import SYSTEM
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Own, Training, participant, primary_server
from fedmpi.ppadmm.secure_sum import AUXILIARY
from fedmpi.ppadmm.service import salt_of
from fedmpi.rules import at_least, parameters_of_python


class PrivateLasso(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Lasso, elastic net or ridge regression of many participants, whose rows no server sees.

    The servers and the participants are threads of this process: for trying things out. Where the rows are in
    different places, start ``python -m fedmpi.ppadmm`` under mpirun.

    Parameters
    ----------
    n_participants : int
        N; not used where `fit` gets groups.
    alpha : float
        As for scikit-learn's Lasso and ElasticNet: λ/m.
    l1_ratio : float
        1 for the Lasso, 0 for ridge regression.
    fit_intercept, standardize, rho, mask, rekey_every, fraction_bits
        As in `fedmpi.ppadmm.params.Params`.
    max_iter : int
        Iterations, at most.
    tol : float
        Of the primal and dual residuals.

    Attributes
    ----------
    coef_ : array, shape (n_features,)
        In the units of the features given to `fit`.
    intercept_ : float
    n_iter_ : int
    """

    def __init__(
        self,
        n_participants: int = 5,
        *,
        alpha: float = 1.0,
        l1_ratio: float = 1.0,
        fit_intercept: bool = True,
        standardize: bool = False,
        rho: str = "auto",
        max_iter: int = 1000,
        tol: float = 1e-10,
        mask: MaskKind = "aes-ctr",
        rekey_every: int = 0,
        fraction_bits: int = 40,
    ):
        self.n_participants = n_participants
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.rho = rho
        self.max_iter = max_iter
        self.tol = tol
        self.mask = mask
        self.rekey_every = rekey_every
        self.fraction_bits = fraction_bits

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> "PrivateLasso":
        """Train on rows X, shape (n_samples, n_features), with targets y, shape (n_samples,).

        Parameters
        ----------
        groups : array, shape (n_samples,), optional
            Which participant each row belongs to. Default: rows are dealt out evenly.
        """
        features, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        owners = None if groups is None else column_or_1d(groups)
        if owners is not None and owners.shape != targets.shape:
            raise UsageError(f"groups must have shape {targets.shape} like y, got {owners.shape}")
        N = self.n_participants if owners is None else len(np.unique(owners))
        with parameters_of_python({"penalty": "alpha", "iterations": "max_iter", "tolerance": "tol"}):
            at_least(self, n_participants=1, alpha=0)
            params = self._params(len(targets))
            params.fewest(N)
            parts = [rows_of(part, N, len(targets), owners) for part in range(N)]
            training = _train_on_threads(params, [(features[rows], targets[rows]) for rows in parts])
        if not training.converged:
            reason = f"the residuals must be below tol={self.tol}, got more after {training.iterations} iterations"
            warnings.warn(reason, ConvergenceWarning, stacklevel=2)
        self.coef_, self.intercept_ = training.coefficients, training.intercept
        self.n_iter_ = training.iterations
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Targets, shape (n_samples,)."""
        check_is_fitted(self)
        prediction: NDArray[np.float64] = validate_data(self, X, reset=False) @ self.coef_ + self.intercept_
        return prediction

    def _params(self, rows: int) -> Params:
        settings = self.get_params()
        for name in ("n_participants", "alpha"):
            del settings[name]
        iterations, tolerance = settings.pop("max_iter"), settings.pop("tol")
        return Params(penalty=self.alpha * rows, iterations=iterations, tolerance=tolerance, **settings)


def _train_on_threads(params: Params, parts: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Training:
    salt = salt_of(params)

    def first(ch: Channel) -> Training:
        return primary_server(ch, params)

    def second(ch: Channel) -> None:
        auxiliary_server(ch, params, salt)

    def member(ch: Channel) -> None:
        participant(ch, params, Own(*parts[ch.rank - AUXILIARY - 1], salt))

    training: Training = run_local([first, second, *[member] * len(parts)], role_of=SYSTEM.role_of)[0]
    return training
