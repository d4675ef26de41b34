"""All rows of a batch from the gradient of a fully connected layer with ReLU behind it [Dimitrov et al. 2024, SPEAR].

The gradient of the layer is a product Dᵀ X: X holds the b rows of the batch, D what is propagated back to each unit for
each of them, which is zero where a unit is silent for a row. So its rank is b. Of all ways to write a matrix L of its
left factors as D Q⁻¹, the true one is told by its zeros: a column q of Q is orthogonal to the rows of L of all units
that are silent for one row of the batch. The paper draws units until some are silent together, about 2^(b - 1) times;
here q is improved from wherever it begins (`silence`).

A protocol that sends c such gradients of one batch and one pattern of silence, as PBPFL sends its gradient, σ and β,
gives c equations for each unit. Several steps on the same rows add up to one product with the same X, in which a unit
is silent for a row where it was so in all steps.

Who knows the layer's parameters knows which units a row leaves silent. That shows where to begin: a row that is still
missing is orthogonal to all directions that were found, and a guess at it tells units that may be silent. It also shows
whether what was found is true.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from fedmpi.attacks.silence import DEVIATIONS, SILENT, STARTS, Matrix, Search, Silent, others
from fedmpi.errors import UsageError

Layer = tuple[Matrix, Matrix]
"""Weights (M, N) and biases (M,)."""

RANK, NOISE = 1e-5, 1e-4
"""Singular values below the first part of the largest are rounding; so are those of more rows than there are, below the
second one."""

ABOVE = 3.0
"""A singular value is no noise if it is so many times what is."""

FAINT = 100.0
"""Gradients of units that are no more than so many times the noise are left out."""

LEFT_OUT = (0.0, 0.1, 0.3)
"""Part of the directions that are not trusted when a missing row is guessed at, by turns: some may be false."""

CARRIED = 2000.0
"""So many times the noise a direction may be away from the true one."""

CERTAIN, BELIEVED = 4, 0.98
"""So many units for each missing row, and the part of them that one has to tell apart, are no chance."""

RIDGE = 1e-5
"""Of the logistic regression."""

AGREED, SURE = 0.95, 0.99
"""A row is true if the layer's parameters say so of this part of the units: which are silent for it. Below the second a
better one is looked for, but only as long again as it took to find this one: parameters may be no more than near."""


@dataclass(frozen=True, eq=False)
class Found:
    """What came of it.

    Attributes
    ----------
    rows : array, shape (b, N)
        Inputs of the layer; none if no direction was found.
    factors : array, shape (b, M)
        What the first of the gradients propagates back to each unit for each row.
    batch : int
        The rank of the gradient: rows of the batch, if no more than the layer has units for.
    directions : int
        How many were found; the last `batch` - `directions` rows are guesses, and the others may be mixed with them.
    tries : int
        Starts of the search.
    agreement : array or None, shape (b,)
        Part of the units that a row leaves silent, or does not, as the layer's parameters say; None without them.
    """

    rows: Matrix
    factors: Matrix
    batch: int
    directions: int
    tries: int
    agreement: Matrix | None = None

    @property
    def true(self) -> Silent:
        """Of each row whether it is one of the batch: none before all directions are there; without parameters, all."""
        if self.agreement is None or self.directions < self.batch:
            return np.full(len(self.rows), 0 < self.batch == self.directions)
        agreed: Silent = self.agreement >= AGREED
        return agreed

    @property
    def sure(self) -> Silent:
        """Of each row whether the parameters leave no doubt of it."""
        sure: Silent = np.zeros(len(self.rows), bool) if self.agreement is None else self.agreement > SURE
        return sure

    @property
    def whole(self) -> bool:
        """Whether all rows of the batch are there, and true as far as the parameters tell."""
        return len(self.rows) > 0 and bool(self.true.all())


def batch_rows(
    weights: Matrix,
    biases: Matrix,
    *,
    layer: Layer | None = None,
    tries: int = 20_000,
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
        Weights (M, N) and biases (M,) of the layer, where the adversary has them: the search begins where they show it
        to, and goes on while what was found does not agree with them. Where that is not sure, or without parameters, it
        goes on as long again as it took to find what it has.
    tries : int
        Starts of the search, at most.
    seed : int
        Of the starts.
    most : int, optional
        Rows that the batch has, where that is known: a gradient of higher rank is none of so few rows (but noise, or of
        other rows too), and nothing is searched for in it.

    Returns
    -------
    Found
        Its `rows` are those of the batch in no order.

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
    if not np.abs(joined).max() > 0:
        raise UsageError("gradients must not be zero, got zeros")
    product = _factored(joined, most)
    if product.batch == 1:
        return product.read(np.ones((1, 1)), 0, layer)
    nothing = product.read(np.empty((0, product.batch)), 0, layer)
    if most is not None and product.batch > most:
        return nothing
    search, rng = Search(product.left, product.noise, np.random.default_rng(seed)), np.random.default_rng([seed, 1])
    if not search.possible:
        return nothing
    product = product.turned(search.frame)
    found, basis, changed, tried = nothing, search.found, 0, 0
    with threadpool_limits(1):  # threads only get in one another's way, with matrices as small as these
        while tried < tries and not (found.whole and (found.sure.all() or tried >= 2 * changed)):
            sure = found.sure if len(basis) == product.batch else np.zeros(len(basis), bool)
            believed = partial(product.believed, basis if len(basis) < product.batch else basis[found.sure], layer)
            lucky = layer is None or tried // STARTS % 4 == 3  # the parameters may be no more than near
            silent = search.drawn() if layer is None or lucky else product.guessed(basis, sure, layer, rng)
            mended = len(basis) == product.batch and layer is not None and tried // STARTS % 4 < 2
            new, tried = search.improve(silent, believed, mended), tried + STARTS
            if new:
                basis, before = search.found, found.whole
                found = product.read(basis, tried, layer)
                changed = changed if layer is not None and before else tried
    return replace(found, tries=tried)


@dataclass(frozen=True, eq=False)
class _Product:
    """The gradients as L R."""

    left: Matrix
    """L, shape (m, c, b): of the m units that were sent."""
    right: Matrix
    """R, shape (b, N + 1)."""
    sent: Silent
    """Units, shape (M,)."""
    scale: float
    """Of the first gradient."""
    noise: float
    """Standard deviation of each number of L."""

    @property
    def batch(self) -> int:
        return len(self.right)

    def turned(self, frame: Matrix) -> "_Product":
        """The same in other coordinates."""
        return replace(self, left=self.left @ frame, right=np.asarray(np.linalg.solve(frame, self.right), np.float64))

    def read(self, Q: Matrix, tried: int, layer: Layer | None) -> Found:
        """The rows that go with directions, which are the rows of Q (k, b)."""
        M = len(self.sent)
        if not len(Q):
            return Found(np.empty((0, self.right.shape[1] - 1)), np.empty((0, M)), self.batch, 0, tried)
        directions = np.vstack([Q, others(Q)])
        X = np.linalg.solve(directions.T, self.right)
        with np.errstate(divide="ignore", invalid="ignore"):
            rows = np.nan_to_num(X[:, :-1] / X[:, -1:])
        factors = np.zeros((self.batch, M))
        factors[:, self.sent] = X[:, -1:] * (self.left[:, 0] @ directions.T).T * self.scale
        made = np.linalg.norm(self.left @ directions.T, axis=1)  # (m, b)
        largest = np.linalg.norm(self.left, axis=(1, 2))[:, None] * np.linalg.norm(directions, axis=1)
        floor = DEVIATIONS * self.noise * np.linalg.norm(directions, axis=1)
        active = made > floor + (SILENT + CARRIED * self.noise) * largest
        agreement = None if layer is None else self._agreement(rows, active.T, *layer)
        return Found(rows, factors, self.batch, len(Q), tried, agreement)

    def _agreement(self, rows: Matrix, active: Silent, weights: Matrix, biases: Matrix) -> Matrix:
        """Of each row the part of the units that are active (b, m) where the layer says so, and nowhere else."""
        outputs = rows @ np.asarray(weights, np.float64).T + np.asarray(biases, np.float64)
        parts: Matrix = ((outputs[:, self.sent] > 0) == active).mean(axis=1)
        return parts

    def guessed(self, Q: Matrix, sure: Silent, layer: Layer, rng: np.random.Generator) -> Silent:
        """Which units missing rows may leave silent, shape (STARTS, m): rows that are orthogonal to directions Q.

        Some directions (k,) may be false, so that each start leaves out others of those that are not sure.
        """
        rows = np.linalg.inv(np.vstack([Q, others(Q)])).T
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        outputs = self._outputs(rows @ self.right, layer)
        taken = np.ones((STARTS, self.batch), bool)
        taken[:, : len(Q)] = (rng.random((STARTS, len(Q))) < rng.choice(LEFT_OUT, (STARTS, 1))) & ~sure
        if len(Q) == self.batch:
            taken[np.arange(STARTS), rng.choice(np.flatnonzero(~sure), STARTS)] = True
        guesses = (rng.normal(size=taken.shape) * taken) @ outputs
        silent: Silent = guesses[:, :-1] * np.sign(guesses[:, -1:]) <= 0
        return silent

    def believed(self, Q: Matrix, layer: Layer | None, silent: Silent) -> bool:
        """Whether a row that is orthogonal to directions Q leaves just these units (m,) silent."""
        if layer is None or len(silent) < CERTAIN * (self.batch - len(Q)):
            return False
        signs = np.append(np.where(silent, -1.0, 1.0), 1.0)
        outputs = self._outputs(others(Q) @ self.right, layer).T * signs[:, None]
        outputs /= np.linalg.norm(outputs, axis=1, keepdims=True) + np.finfo(float).tiny
        row = np.zeros(outputs.shape[1])
        for _ in range(40):
            wrong = 1 / (1 + np.exp(np.clip(outputs @ row, -50, 50)))
            curved = (outputs.T * (wrong * (1 - wrong))) @ outputs + RIDGE * np.eye(len(row))
            row = row + np.linalg.solve(curved, outputs.T @ wrong - RIDGE * row)
        return bool((outputs @ row > 0).mean() >= BELIEVED)

    def _outputs(self, vectors: Matrix, layer: Layer) -> Matrix:
        """What the layer makes of vectors (k, N + 1), and their ends, shape (k, m + 1)."""
        weights, biases = (np.asarray(part, np.float64)[self.sent] for part in layer)
        outputs: Matrix = np.c_[vectors[:, :-1] @ weights.T + vectors[:, -1:] * biases, vectors[:, -1]]
        return outputs


def _factored(joined: Matrix, most: int | None) -> _Product:
    """Gradients (c, M, N + 1) as a product, with what is noise left out."""
    c = len(joined)
    scales = np.maximum(np.linalg.norm(joined, axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    flat = (joined / scales).swapaxes(0, 1)  # (M, c, N + 1)
    left, sizes, right = np.linalg.svd(flat.reshape(-1, flat.shape[2]), full_matrices=False)
    floor = RANK * sizes[0]
    if most is not None and len(sizes) > most:
        floor = max(floor, min(ABOVE * sizes[most], NOISE * sizes[0]))
    batch = int((sizes > floor).sum())
    free = (len(left) - batch) * (flat.shape[2] - batch)
    noise = float(np.sqrt(np.square(sizes[batch:]).sum() / max(free, 1)))
    L = (left[:, :batch] * sizes[:batch]).reshape(-1, c, batch)
    sent = np.linalg.norm(L, axis=(1, 2)) > FAINT * noise  # units that are silent for all rows tell nothing
    return _Product(L[sent], right[:batch], sent, float(scales[0, 0, 0]), noise)
