"""Classification by any system, with the conventions of scikit-learn."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fedmpi.api.training import train
from fedmpi.errors import UsageError


class FederatedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier whose rows are those of many clients, trained by a system of fedmpi in threads of this process.

    Parameters
    ----------
    system : str
        codedml, niss, pbpfl, spn, or one that is installed.
    ranks : int, optional
        As in `fedmpi.train`.
    random_state : int, RandomState or None
        Seed of public randomness; noise that protects rows is secret, and differs from fit to fit.
    **options
        Others of `fedmpi.train`, such as ``method``, ``rounds``, ``clients`` or ``model``. They are parameters of the
        estimator like those above, for `set_params` and searches.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
    model_ : fedmpi.runs.model.Model
    result_ : dict
        What result.json of the run said.
    """

    def __init__(
        self,
        system: str = "niss",
        *,
        ranks: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        **options: Any,
    ):
        self.system = system
        self.ranks = ranks
        self.random_state = random_state
        for name, value in options.items():
            setattr(self, name, value)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All parameters, also those of the system that were given."""
        found: dict[str, Any] = super().get_params(deep=deep)
        return found | self._options()

    def set_params(self, **params: Any) -> "FederatedClassifier":
        """Set parameters; those of a system need not have been given before."""
        for name in params.keys() - self.get_params(deep=False).keys():
            if hasattr(type(self), name) or name.endswith("_") or "__" in name:
                raise ValueError(f"Invalid parameter {name!r} for estimator {self}.")
            setattr(self, name, None)
        super().set_params(**params)
        return self

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> "FederatedClassifier":
        """Train on all rows X, shape (n_samples, n_features), with classes y, shape (n_samples,).

        Parameters
        ----------
        groups : array, shape (n_samples,), optional
            Which client each row belongs to. Default: rows are dealt out.
        """
        if hasattr(X, "columns"):  # whose text becomes columns
            validate_data(self, X, skip_check_array=True)
            rows, y = X, np.asarray(y)
        else:
            rows, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(f"y must hold two classes or more, got 1 class: {self.classes_[0]}")
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = int(check_random_state(seed).randint(2**31))
        given: dict[str, Any] = {"test_fraction": 0.0, "progress": False} | self._options()
        run = train(self.system, rows, labels, groups=groups, ranks=self.ranks, seed=int(seed), **given)
        if not run.result["dataset"]["classes"]:
            raise UsageError(f"system must be one that trains classifiers, got {self.system}")
        self.model_, self.result_ = run.model, run.result
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row, shape (n_samples,)."""
        rows = self._checked(X)
        codes = np.asarray(self.model_.predict(rows)).astype(np.int64)
        chosen: NDArray[Any] = self.classes_[codes]
        return chosen

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of the classes, shape (n_samples, n_classes).

        Raises
        ------
        UsageError
            If the system's model gives none: pbpfl trains on squared errors.
        """
        rows = self._checked(X)
        return self.model_.predict_proba(rows)

    def _checked(self, X: ArrayLike) -> Any:
        check_is_fitted(self)
        if hasattr(X, "columns"):
            validate_data(self, X, reset=False, skip_check_array=True)
            return X
        return validate_data(self, X, reset=False, dtype=np.float64)

    def _options(self) -> dict[str, Any]:
        own = {"system", "ranks", "random_state"}
        return {
            name: v for name, v in vars(self).items() if name not in own and not name.endswith("_") and name[0] != "_"
        }
