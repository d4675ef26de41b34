"""Regression data of scikit-learn: made up with known parameters, and diabetes."""

from pathlib import Path

from fedmpi.data.dataset import Raw, check_size
from fedmpi.data.spec import numbers
from fedmpi.errors import UsageError

NAME = "synthetic-lasso"
DEFAULTS: dict[str, int | float] = {"n": 5000, "d": 100, "sparsity": 0.9, "noise": 20.0, "test": 1000}
"""Training rows, features, share of coefficients that are 0, standard deviation of the targets' noise, test rows."""


def parse(spec: str) -> dict[str, int | float]:
    """Read ``n=5000,d=100,sparsity=0.9,noise=20,test=1000``, any of them.

    Raises
    ------
    UsageError
        For a key that is unknown or given twice, or a value that is out of range.
    """
    types = {key: type(value) for key, value in DEFAULTS.items()}
    given = DEFAULTS | (numbers(spec, types, NAME) if spec else {})
    for key, least in (("n", 1), ("d", 1), ("noise", 0), ("test", 1)):
        if not least <= given[key] < float("inf"):
            raise UsageError(f"{key} of {NAME} must be at least {least}, got {given[key]}")
    if not 0 <= given["sparsity"] < 1:
        raise UsageError(f"sparsity of {NAME} must be in [0, 1), got {given['sparsity']:g}")
    return given


def make(spec: str, seed: int = 0) -> Raw:
    """Standard normal features, coefficients uniform in (0, 100) where they are not 0, no intercept.

    Parameters
    ----------
    spec : str
        What `parse` reads.
    seed : int
        Seed of the generator.

    Returns
    -------
    Raw
        X float64 of shape (n, d), y float64 of shape (n,), the test part, and the true coefficients.
    """
    from sklearn.datasets import make_regression

    p = parse(spec)
    n, d = int(p["n"]), int(p["d"])
    check_size(n + int(p["test"]), d, 8, NAME)
    X, y, coefficients = make_regression(
        n_samples=n + int(p["test"]),
        n_features=d,
        n_informative=max(1, round((1 - p["sparsity"]) * d)),
        noise=float(p["noise"]),
        coef=True,
        random_state=seed,
    )
    name = f"{NAME} ({n}x{d}, sparsity {p['sparsity']:g}, noise {p['noise']:g})"
    return Raw(name, X[:n], y[:n], X[n:], y[n:], coefficients=coefficients)


def diabetes(_: list[Path]) -> Raw:
    """The diabetes study's 442 patients, features as scikit-learn scales them."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    return Raw("diabetes", data.data, data.target, columns=tuple(data.feature_names))
