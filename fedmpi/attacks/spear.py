"""All rows of a batch from the gradient of a first fully connected layer with ReLU [Dimitrov et al. 2024, SPEAR].

The gradient of the layer is a product Dᵀ X: X holds the b rows of the batch, D what is propagated back to each unit for
each of them, which is zero where a unit is silent for a row. So its rank is b. Of all ways to write a matrix L of its
left factors as D Q⁻¹, the true one is told by its zeros: a column q of Q is orthogonal to the rows of L of all units
that are silent for one row of the batch. Units are drawn until some are silent together, which is seen by more zeros
coming along than were asked for.

A protocol that sends c such gradients of one batch and one pattern of silence, as PBPFL sends its gradient, σ and β,
gives c equations for each unit, so that (b - 1)/c units have to be silent together in place of b - 1: about 2^(b/c)
tries.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError

Matrix = NDArray[np.float64]

DRAWN = 256
"""Choices of units that are tried at once."""

NEARLY, SILENT = 1e-3, 2e-5
"""Parts of the largest value that is propagated back to a unit: below the first a unit is taken for silent, below the
second it is."""

RANK = 1e-5
"""Singular values below this part of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class Found:
    """What came of it.

    Attributes
    ----------
    rows : array, shape (k, N)
        Inputs of the layer, one for each direction that was found: all of the batch if k is `batch`.
    batch : int
        The rank of the gradient: rows of the batch, if no more than the layer has units for.
    tries : int
    """

    rows: Matrix
    batch: int
    tries: int


SINGLE = 1e-3
"""Several rows share the silent units if the second smallest singular value is below this part of the largest."""


def batch_rows(weights: Matrix, biases: Matrix, *, tries: int = 100_000, seed: int = 0) -> Found:
    """The inputs of a fully connected layer with ReLU behind it, from gradients of one batch.

    Parameters
    ----------
    weights : array, shape (c, M, N)
        Gradients of the M units' weights; c of them are of one batch, with the same units silent for a row.
    biases : array, shape (c, M)
    tries : int
        Choices of units, at most.
    seed : int
        Of the choices.

    Returns
    -------
    Found
        Its `rows` are those of the batch in no order. Where some were not found, the others may be mixed with them.

    Raises
    ------
    UsageError
        If the gradients are zero, or have other shapes.

    Notes
    -----
    With a single gradient (c = 1), SPEAR's own case, directions that mix rows are not always told from true ones.
    """
    W, b = np.asarray(weights, np.float64), np.asarray(biases, np.float64)
    if W.ndim != 3 or b.shape != W.shape[:2]:
        raise UsageError(f"gradients must have shapes (c, M, N) and (c, M), got {W.shape}, {b.shape}")
    joined = np.concatenate([W, b[..., None]], axis=2)  # a row of the batch ends in 1
    joined = joined[:, np.abs(joined).max(axis=(0, 2)) > 0]  # units that are silent for all rows tell nothing
    if not joined.size:
        raise UsageError("gradients must not be zero, got zeros")
    joined = joined / np.linalg.norm(joined, axis=(1, 2), keepdims=True)
    c, M, _ = joined.shape
    left, sizes, right = np.linalg.svd(joined.reshape(c * M, -1), full_matrices=False)
    batch = int((sizes > RANK * sizes[0]).sum())
    L = (left[:, :batch] * sizes[:batch]).reshape(c, M, batch).swapaxes(0, 1)  # of each unit c rows
    Q, tried = _directions(L, tries, np.random.default_rng(seed))
    if not len(Q):
        return Found(np.empty((0, W.shape[2])), batch, tried)
    X = np.linalg.pinv(Q.T) @ right[:batch]
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = np.nan_to_num(X[:, :-1] / X[:, -1:])
    return Found(rows, batch, tried)


def _directions(L: Matrix, tries: int, rng: np.random.Generator) -> tuple[Matrix, int]:
    """The columns of Q that were found, shape (k, b), and after how many choices of units."""
    M, c, b = L.shape
    chosen = max(-(-(b - 1) // c), 1)
    if b == 1:
        return np.ones((1, 1)), 0
    if chosen >= M:
        return np.empty((0, b)), 0
    # the size of an equation says nothing
    L = L / np.maximum(np.linalg.norm(L, axis=2, keepdims=True), np.finfo(float).tiny)
    least, silences, Q = max(chosen + 3, M // 4), np.ones(M), np.empty((0, b))
    for tried in range(0, tries, DRAWN):
        # units that are silent for many known rows are more likely to be so for another one
        units = np.argsort(rng.exponential(size=(DRAWN, M)) / silences**2, axis=1)[:, :chosen]
        _, _, V = np.linalg.svd(L[units].reshape(DRAWN, chosen * c, b))
        sizes = np.linalg.norm(L @ V[:, -1].T[None], axis=1)  # (M, DRAWN)
        silent = sizes < NEARLY * sizes.max(axis=0)
        for at in np.flatnonzero(silent.sum(axis=0) >= least):
            q = _only(L[silent[:, at]])
            if q is None or (len(Q) and np.abs(Q @ q).max() > 1 - 1e-6):
                continue
            left = np.linalg.norm(L @ q, axis=1)
            if (left[silent[:, at]] < SILENT * left.max()).all():
                Q = np.vstack([Q, q])
                silences += silent[:, at]
                if len(Q) == b:
                    return Q, tried + DRAWN
    return Q, tries


def _only(L: Matrix) -> Matrix | None:
    """The direction orthogonal to all rows of some units; None if there are others, or were without one of the units.

    A direction that mixes several rows of the batch can be orthogonal to a unit that is not silent for them, if its
    factors are chosen for that one unit.
    """
    *_, b = L.shape
    for left_out in (None, *range(len(L))):
        rows = (L if left_out is None else np.delete(L, left_out, axis=0)).reshape(-1, b)
        if len(rows) < b - 1:
            return None
        _, strengths, directions = np.linalg.svd(rows)
        if not strengths[b - 2] > SINGLE * strengths[0]:
            return None
        if left_out is None:
            found: Matrix = directions[-1]
    return found
