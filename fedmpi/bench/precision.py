"""Accuracy and log loss of private training without any option, beside scikit-learn's, on many data sets."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from fedmpi.codedml import CodedLogisticRegression
from fedmpi.data import load
from fedmpi.errors import UsageError

POINTS_BELOW = 1.0
"""Percentage points that accuracy may be below scikit-learn's."""

TIMES_LOSS = 1.1
"""How many times scikit-learn's log loss may be reached."""


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on, and rows to test on."""

    X: Any
    y: NDArray[np.int64]
    X_test: Any
    y_test: NDArray[np.int64]


Maker = Callable[[Path | None, int], Split]
"""(folder of the data sets, seed) → a data set."""


def bundled(function: Callable[..., Any]) -> Maker:
    """A set that scikit-learn brings along; 30 % of the rows are for testing."""

    def make(folder: Path | None, seed: int) -> Split:
        X, y = function(return_X_y=True)
        return divided(X, y, seed)

    return make


def known(name: str, classes: Sequence[str] = (), positive: str | None = None, above: float | None = None) -> Maker:
    """A set of `fedmpi.data`.

    Parameters
    ----------
    positive : str, optional
        This class against all others.
    above : float, optional
        Of a regression set: targets above this quantile of the training rows' against the others.
    """

    def make(folder: Path | None, seed: int) -> Split:
        data = load(name, data_dir=folder, classes=classes, seed=seed, regression=above is not None)
        y, y_test = data.y_train, data.y_test
        if positive is not None:
            y, y_test = (labels == data.classes.index(positive) for labels in (y, y_test))
        elif above is not None:
            limit = np.quantile(y, above)
            y, y_test = y > limit, y_test > limit
        return Split(data.X_train, y.astype(np.int64), data.X_test, y_test.astype(np.int64))

    return make


def good_wines(folder: Path | None, seed: int) -> Split:
    """White wines of quality 6 or more."""
    data = load("wine", data_dir=folder, seed=seed, regression=True)
    y, y_test = ((quality >= 6).astype(np.int64) for quality in (data.y_train, data.y_test))
    return Split(data.X_train, y, data.X_test, y_test)


def words(folder: Path | None, seed: int) -> Split:
    """Word counts of texts on two subjects: 2000 x 4900, 99 % zeros, counts up to more than 100."""
    rng, rows, columns = np.random.default_rng(seed), 2000, 4900
    common = 1 / np.arange(1, columns + 1)  # Zipf's law
    subjects = common * np.exp(rng.normal(0, 0.7, (2, columns)))
    subjects /= subjects.sum(axis=1, keepdims=True)
    y = rng.integers(0, 2, rows)
    lengths = rng.lognormal(3.8, 1.1, rows) + 5
    return divided(csr_matrix(rng.poisson(lengths[:, None] * subjects[y]).astype(np.float64)), y, seed)


def heavy_tails(folder: Path | None, seed: int) -> Split:
    """Log-normal features with sigma 2, whose logarithms decide."""
    rng = np.random.default_rng(seed)
    logarithms = rng.normal(0, 2, (3000, 12))
    return divided(np.exp(logarithms), decided(rng, logarithms / 2), seed)


def mixed_units(folder: Path | None, seed: int) -> Split:
    """Lengths, incomes, shares, years and counts beside one another, and a few entries that are far off."""
    rng, rows = np.random.default_rng(seed), 3000
    incomes = rng.lognormal(10, 1, rows)
    features = np.column_stack(
        [
            rng.normal(170, 10, rows),
            incomes,
            rng.exponential(1e-6, rows),
            rng.integers(0, 2, rows),
            rng.integers(1950, 2010, rows),
            rng.poisson(0.1, rows),
            rng.uniform(-1e6, 1e6, rows),
        ]
    )
    seen = features.copy()
    seen[:, 1] = np.log(incomes)
    y = decided(rng, (seen - seen.mean(axis=0)) / seen.std(axis=0))
    for column in (0, 1, 6):
        features[rng.integers(0, rows, 5), column] *= 1e4
    return divided(features, y, seed)


def decided(rng: np.random.Generator, Z: NDArray[np.float64]) -> NDArray[np.int64]:
    """Labels by a logistic model of standardized features, shape (m, d)."""
    weights = rng.normal(size=Z.shape[1])
    logits = 2 * Z @ weights / np.linalg.norm(weights)
    return (logits + rng.logistic(size=len(Z)) > 0).astype(np.int64)


def divided(X: Any, y: NDArray[Any], seed: int) -> Split:
    """30 % of each class are for testing."""
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=seed, stratify=y)
    return Split(X[train], y[train], X[test], y[test])


SETS: dict[str, Maker] = {
    "digits": known("digits"),
    "breast cancer": bundled(datasets.load_breast_cancer),
    "wine cultivars": bundled(datasets.load_wine),
    "iris": bundled(datasets.load_iris),
    "diabetes above its median": known("diabetes", above=0.5),
    "words, sparse": words,
    "heavy tails": heavy_tails,
    "mixed units, outliers": mixed_units,
    "white wine, 6 or better": good_wines,
    "bank": known("bank"),
    "HAM10000, nv or not": known("ham10000", positive="nv"),
    "MNIST 4/9": known("mnist", classes=("4", "9")),
    "MNIST 3/8": known("mnist", classes=("3", "8")),
    "CIFAR-10 plane/car": known("cifar10", classes=("airplane", "automobile")),
    "MNIST": known("mnist"),
}
"""Those that need no file first."""


def compare(split: Split) -> dict[str, Any]:
    """Train both on the same rows, and test them on the same rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 iterations are what users get
        theirs = make_pipeline(MaxAbsScaler(), LogisticRegression()).fit(split.X, split.y)
    ours = CodedLogisticRegression().fit(split.X, split.y)
    figures: dict[str, Any] = {"rows": split.X.shape[0], "columns": split.X.shape[1], "classes": len(ours.classes_)}
    for name, model in (("scikit-learn", theirs), ("coded", ours)):
        loss = log_loss(split.y_test, model.predict_proba(split.X_test), labels=ours.classes_)
        figures[name] = {"accuracy": float(model.score(split.X_test, split.y_test)), "log_loss": float(loss)}
    coded, reference = figures["coded"], figures["scikit-learn"]
    figures["iterations"] = ours.n_iter_
    figures["primes"] = list(ours.primes_)
    figures["bits"] = ours.data_bits_
    figures["points"] = 100 * (coded["accuracy"] - reference["accuracy"])
    figures["loss_ratio"] = coded["log_loss"] / reference["log_loss"]
    figures["reached"] = bool(figures["points"] >= -POINTS_BELOW and figures["loss_ratio"] <= TIMES_LOSS)
    return figures


def measure(sets: Sequence[str] = (), data_dir: Path | None = None, seed: int = 0) -> dict[str, Any]:
    """A row of figures for each set; of one that is not there, why not.

    Raises
    ------
    UsageError
        If a set is not known.
    """
    for name in sets:
        if name not in SETS:
            raise UsageError(f"a set must be one of {', '.join(SETS)}, got {name}")
    figures: dict[str, Any] = {}
    for name in sets or SETS:
        try:
            split = SETS[name](data_dir, seed)
        except UsageError as error:
            figures[name] = {"missing": str(error)}
            continue
        figures[name] = compare(split)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'':<26}{'scikit-learn':^19}{'coded':^19}"]
    lines.append(
        f"{'data set':<26}{'accuracy':>9} {'log loss':>8} {'accuracy':>9} {'log loss':>8}"
        f"{'points':>8} {'ratio':>6} {'iterations':>10} {'bits':>4}  primes"
    )
    for name, row in figures.items():
        if "missing" in row:
            lines.append(f"{name:<26} left out: {row['missing']}")
            continue
        cells = [
            f"{100 * row[model]['accuracy']:>8.1f}% {row[model]['log_loss']:>8.4f}"
            for model in ("scikit-learn", "coded")
        ]
        primes = ", ".join(f"2^{p.bit_length()}-{2 ** p.bit_length() - p}" for p in row["primes"])
        line = f"{name:<26}{' '.join(cells)}{row['points']:>+8.2f} {row['loss_ratio']:>6.3f} {row['iterations']:>10}"
        lines.append(f"{line} {row['bits']:>4}  {primes}{'' if row['reached'] else '  NOT REACHED'}")
    rows = [row for row in figures.values() if "missing" not in row]
    lines.append(
        f"{sum(row['reached'] for row in rows)} of {len(rows)} sets: accuracy at most {POINTS_BELOW} points below "
        f"scikit-learn's, log loss at most {TIMES_LOSS} times"
    )
    return "\n".join(lines)
