"""All rows of a batch from the gradient of a fully connected layer with ReLU behind it [Dimitrov et al. 2024, SPEAR].

The gradient of the layer is a product Dᵀ X: X holds the b rows of the batch, D what is propagated back to each unit for
each of them, which is zero where a unit is silent for a row. So its rank is b. Of all ways to write a matrix L of its
left factors as D Q⁻¹, the true one is told by its zeros: a column q of Q is orthogonal to the rows of L of all units
that are silent for one row of the batch. Units are drawn until some are silent together, which is seen by more zeros
coming along than were asked for.

A protocol that sends c such gradients of one batch and one pattern of silence, as PBPFL sends its gradient, σ and β,
gives c equations for each unit, so that (b - 1)/c units have to be silent together in place of b - 1: about 2^(b/c)
tries. Several steps on the same rows add up to one product with the same X, in which a unit is silent for a row where
it was so in all steps.

Who knows the layer's parameters knows which units a row leaves silent, and so whether what was found is true.
"""

from collections.abc import Iterator
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

SINGLE = 1e-3
"""Several rows share the silent units if the second smallest singular value is below this part of the largest."""

FEWEST = 12
"""A row leaves silent at least one in so many of the units that are not silent for all rows."""

AGREED = 0.95
"""A row is true if the layer's parameters say so of this part of the units: which are silent for it."""


@dataclass(frozen=True, eq=False)
class Found:
    """What came of it.

    Attributes
    ----------
    rows : array, shape (k, N)
        Inputs of the layer, one for each direction that was found: all of the batch if k is `batch`.
    factors : array, shape (k, M)
        What the first of the gradients propagates back to each unit for each row.
    batch : int
        The rank of the gradient: rows of the batch, if no more than the layer has units for.
    tries : int
    agreement : array or None, shape (k,)
        Part of the units that a row leaves silent, or does not, as the layer's parameters say; None without them.
    """

    rows: Matrix
    factors: Matrix
    batch: int
    tries: int
    agreement: Matrix | None = None

    @property
    def whole(self) -> bool:
        """Whether all rows of the batch are there, and true as far as the parameters tell."""
        true = self.agreement is None or bool((self.agreement >= AGREED).all())
        return true and 0 < self.batch == len(self.rows)


def batch_rows(
    weights: Matrix,
    biases: Matrix,
    *,
    layer: tuple[Matrix, Matrix] | None = None,
    tries: int = 100_000,
    seed: int = 0,
    most: int | None = None,
) -> Found:
    """The inputs of a fully connected layer with ReLU behind it, from gradients of one batch.

    Parameters
    ----------
    weights : array, shape (c, M, N)
        Gradients of the M units' weights; c of them are of one batch, with the same units silent for a row.
    biases : array, shape (c, M)
    layer : tuple of array, optional
        Weights (M, N) and biases (M,) of the layer, where the adversary has them: the search goes on while what was
        found does not agree with them.
    tries : int
        Choices of units, at most.
    seed : int
        Of the choices.
    most : int, optional
        Rows that the batch has, where that is known: a gradient of higher rank is none of so few rows (but noise, or of
        other rows too), and nothing is searched for in it.

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
    With a single gradient (c = 1) directions that mix rows are not always told from true ones without `layer`.
    """
    W, b = np.asarray(weights, np.float64), np.asarray(biases, np.float64)
    if W.ndim != 3 or b.shape != W.shape[:2]:
        raise UsageError(f"gradients must have shapes (c, M, N) and (c, M), got {W.shape}, {b.shape}")
    joined = np.concatenate([W, b[..., None]], axis=2)  # a row of the batch ends in 1
    sent = np.abs(joined).max(axis=(0, 2)) > 0  # units that are silent for all rows tell nothing
    if not sent.any():
        raise UsageError("gradients must not be zero, got zeros")
    scales = np.linalg.norm(joined[:, sent], axis=(1, 2), keepdims=True)
    c, M, _ = (joined := joined[:, sent] / scales).shape
    left, sizes, right = np.linalg.svd(joined.reshape(c * M, -1), full_matrices=False)
    batch = int((sizes > RANK * sizes[0]).sum())
    if most is not None and batch > most:
        return Found(np.empty((0, W.shape[2])), np.empty((0, W.shape[1])), batch, 0)
    L = (left[:, :batch] * sizes[:batch]).reshape(c, M, batch).swapaxes(0, 1)  # of each unit c rows
    found = Found(np.empty((0, W.shape[2])), np.empty((0, W.shape[1])), batch, 0)
    for Q, tried in _directions(L, tries, np.random.default_rng(seed)):
        if not len(Q):
            return Found(found.rows, found.factors, batch, tried)
        X = np.linalg.pinv(Q.T) @ right[:batch]
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.nan_to_num(X[:, :-1] / X[:, -1:])
        factors = np.zeros((len(rows), W.shape[1]))
        factors[:, sent] = X[:, -1:] * (L[:, 0] @ Q.T).T * scales[0, 0, 0]
        found = Found(rows, factors, batch, tried, None if layer is None else _agreement(rows, factors, *layer))
        if found.whole:
            break
    return found


def _agreement(rows: Matrix, factors: Matrix, weights: Matrix, biases: Matrix) -> Matrix:
    outputs = rows @ np.asarray(weights, np.float64).T + np.asarray(biases, np.float64)
    active = np.abs(factors) > NEARLY * np.abs(factors).max(axis=1, keepdims=True)
    units = active.any(axis=0)  # the others may lead to nothing, active or not
    parts: Matrix = ((outputs > 0) == active)[:, units].mean(axis=1)
    return parts


def _directions(L: Matrix, tries: int, rng: np.random.Generator) -> Iterator[tuple[Matrix, int]]:
    """Guesses at Q, each with its columns as rows (k, b), after how many choices of units; the last may be in part."""
    M, c, b = L.shape
    chosen = max(-(-(b - 1) // c), 1)
    if b == 1 or chosen >= M:
        yield np.ones((int(b == 1), b)), 0
        return
    # the size of an equation says nothing; in turned coordinates no number of a direction is zero by accident
    L = L / np.maximum(np.linalg.norm(L, axis=2, keepdims=True), np.finfo(float).tiny)
    turn, _ = np.linalg.qr(rng.normal(size=(b, b)))
    flat = (L := L @ turn).reshape(M * c, b)
    least, silences, known, zeros = max(chosen + 3, M // FEWEST), np.ones(M), np.empty((0, b)), np.empty(0, int)
    for tried in range(DRAWN, tries + DRAWN, DRAWN):
        # units that are silent for many known rows are more likely to be so for another one
        units = np.argpartition(rng.exponential(size=(DRAWN, M)) / silences**2, chosen, axis=1)[:, :chosen]
        equations = L[units].reshape(DRAWN, chosen * c, b)[:, : b - 1]
        guesses = np.ones((b, DRAWN))
        square = equations[..., : b - 1] + 1e-12 * rng.normal(size=(DRAWN, b - 1, b - 1))  # units may be twins
        guesses[: b - 1] = -np.linalg.solve(square, equations[..., b - 1 :])[..., 0].T
        sizes = np.sqrt(np.square(flat @ guesses).reshape(M, c, DRAWN).sum(axis=1))
        sizes /= sizes.max(axis=0)
        silent, new = sizes < NEARLY, False
        for at in np.flatnonzero(silent.sum(axis=0) >= least):
            guess = guesses[:, at] / np.linalg.norm(guesses[:, at])
            if len(known) and np.abs(known @ guess).max() > 1 - 1e-6:
                continue
            exact = sizes[:, at] < SILENT  # a unit that is nearly silent spoils the direction of those that are
            q = np.linalg.svd(L[exact if exact.sum() >= least else silent[:, at]].reshape(-1, b))[2][-1]
            left = np.linalg.norm(L @ q, axis=1)
            exact = left < SILENT * left.max()
            if exact.sum() >= least and _alone(L[exact]):
                known, zeros, new = np.vstack([known, q]), np.append(zeros, exact.sum()), True
                silences += exact
        if new and len(Q := _most_silent(known, zeros)) == b:
            yield Q @ turn.T, tried
    yield _most_silent(known, zeros) @ turn.T, tries


def _most_silent(known: Matrix, zeros: NDArray[np.int64]) -> Matrix:
    """Of directions the independent ones for which most units are silent: a mixture of rows leaves fewer silent."""
    chosen: list[Matrix] = []
    basis: list[Matrix] = []
    for q in known[np.argsort(-zeros, kind="stable")]:
        rest = q - sum(((q @ one) * one for one in basis), np.zeros_like(q))
        if np.linalg.norm(rest) > 1e-5:
            chosen.append(q)
            basis.append(rest / np.linalg.norm(rest))
    return np.array(chosen).reshape(-1, known.shape[1])


def _alone(L: Matrix) -> bool:
    """Whether no other direction is orthogonal to all rows of some units, or to those of all but one of the units.

    A direction that mixes several rows of the batch can be orthogonal to a unit that is not silent for them, if its
    factors are chosen for that one unit.
    """
    *_, b = L.shape
    for left_out in (None, *range(len(L))):
        rows = (L if left_out is None else np.delete(L, left_out, axis=0)).reshape(-1, b)
        if len(rows) < b - 1:
            return False
        strengths = np.linalg.svd(rows, compute_uv=False)
        if not strengths[b - 2] > SINGLE * strengths[0]:
            return False
    return True
