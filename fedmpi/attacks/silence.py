"""Directions for which most units of a layer are silent: sparse vectors in a subspace, by reweighted least squares.

To draw units that are silent together takes luck, about 2^(b - 1) times. Here a direction is improved from wherever it
begins: an equation counts the more, the less a direction leaves of it, until many are met exactly [Candès, Wakin and
Boyd 2008; that such problems have few false ends: Sun, Qu and Wright 2017].
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Silent = NDArray[np.bool_]

STARTS = 64
"""Directions that are improved at once."""

STEPS, POWER = 40, 0.5
"""Least squares for each of them, with the lengths' power as what is made small in the end."""

BEGIN, END = (-2.0, 0.0), -2.0
"""Powers of ten: lengths far below do not count as smaller. Where that is drawn from at first, and where it ends."""

WEAK, FAINTLY = 1e-3, 1e-9
"""Weight at first of the units that are not taken for silent, and where it is sure that the others are."""

NEARLY, CLOSER = 3e-2, (1e-3, 1e-4, 1e-5, 1e-6)
"""Lengths below which units may be silent, and those that do not count as smaller in the steps that make it sure."""

SILENT, LOUD, DEVIATIONS = 1e-5, 1e-3, 5.0
"""Lengths below which a unit is silent, but for so many standard deviations of noise; with more it tells nothing."""

DEPENDENT = 1e-3
"""An equation of a unit of which no larger part is new to the others tells nothing."""

MIXED = 1e-3
"""A direction of which no larger part is new mixes those that are known."""

SINGLE = 1e-3
"""Several rows share the silent units if the second smallest singular value is below this part of the largest."""

FEWEST = 12
"""A row leaves silent at least one in so many of the units that are not silent for all rows."""


class Search:
    """Looks for vectors q ≠ 0 with L_u q = 0 for as many units u as there can be.

    Parameters
    ----------
    L : array, shape (M, c, b)
        Of each unit c equations.
    noise : float
        Standard deviation of each number of L.
    rng : Generator
        Of the starts.

    Attributes
    ----------
    frame : array, shape (b, b)
        Turns what is found into vectors of L: in its coordinates all directions are alike to the units as a whole.
    found : array, shape (k, b)
        Directions of length 1.
    zeros : array, shape (k,)
        Units that are silent for each of them.
    """

    def __init__(self, L: Matrix, noise: float, rng: np.random.Generator):
        (self.units, c, self.rank), self._rng = L.shape, rng
        self.equations, self.frame, sizes = tight(L)
        self._flat = self.equations.reshape(-1, self.rank)
        squares = np.einsum("mci,mcj->mij", self.equations, self.equations)
        self._squares = squares.reshape(self.units, -1)
        self._noise = DEVIATIONS * noise / sizes
        self._chosen = max(-(-(self.rank - 1) // c), 1)
        self._least = max(self._chosen + 3, self.units // FEWEST)
        self.found, self.zeros = np.empty((0, self.rank)), np.empty(0, np.int64)

    @property
    def possible(self) -> bool:
        """Whether there are more units than any direction can be chosen for."""
        return bool(self._least <= self.units)

    def drawn(self) -> Silent:
        """Guesses at units that are silent together, not enough of them to tell a direction, shape (STARTS, M)."""
        few = max(self._chosen * 3 // 4, 1)
        numbers = self._rng.random((STARTS, self.units))
        found: Silent = numbers < np.partition(numbers, few, axis=1)[:, few, None]
        return found

    def improve(self, silent: Silent, believed: Callable[[Silent], bool], sure: bool = False) -> bool:
        """Look from where some units are silent, shape (k, M), or are so for `sure`; whether a direction was found.

        One that hangs on a single unit is kept if it is believed that a row leaves its units (M,) silent.
        """
        before = self.found
        directions = self._rng.normal(size=(len(silent), self.rank))
        for _ in range(2 if sure else 1):
            directions = self._better(directions, silent.astype(np.float64) + (FAINTLY if sure else WEAK))
        begin: Matrix = self._rng.uniform(*BEGIN, size=(len(silent), 1))
        for step in range(0 if sure else STEPS):
            near = np.power(10.0, begin + (END - begin) * step / STEPS)
            directions = self._better(directions, self._weights(directions, near))
        count = (self._lengths(directions) < NEARLY).sum(axis=1)
        for q in directions[count >= self._least]:
            if not self._known(q, 1e-5):
                self._settle(q, believed)
        return self.found is not before

    def _weights(self, q: Matrix, near: float | Matrix) -> Matrix:
        """Of the units' equations for directions q, shape (k, M)."""
        weights: Matrix = (self._lengths(q) ** 2 + near**2) ** (POWER / 2 - 1)
        return weights

    def _better(self, q: Matrix, weights: Matrix) -> Matrix:
        """Towards directions of which least is left by weights of the units, shape (k, b)."""
        gram = (weights @ self._squares).reshape(-1, self.rank, self.rank)
        better: Matrix = np.linalg.solve(gram, q[..., None])[..., 0]
        better /= np.linalg.norm(better, axis=1, keepdims=True)
        return better

    def _lengths(self, q: Matrix) -> Matrix:
        """Of what the units leave of directions, shape (k, M): 1 in the quadratic mean."""
        left = (self._flat @ q.T).reshape(self.units, self.equations.shape[1], len(q))
        lengths: Matrix = np.sqrt(np.square(left).sum(axis=1)).T
        return lengths

    def _known(self, q: Matrix, near: float) -> bool:
        return len(self.found) > 0 and bool(np.abs(self.found @ q).max() > 1 - near)

    def _settle(self, q: Matrix, believed: Callable[[Silent], bool]) -> None:
        """Keep the direction near q for which units are silent, if there is one, and it is new.

        A row may leave silent no unit that another one does not, or one alone. Where the direction of that other one is
        known, its mate, the new one is told but for a part of the mate, which changes nothing but the row of the mate.
        """
        noise = self._noise * float(np.linalg.norm(self.frame @ q))
        least = max(float(np.median(noise)), CLOSER[-1])
        for near in CLOSER:
            q = self._better(q[None], self._weights(q[None], max(near, least)))[0]
        for limit in (10 * SILENT, SILENT):
            silent = (self._lengths(q[None])[0] < limit + noise) & (noise < LOUD)
            if silent.sum() < self._least:
                return
            q = np.linalg.svd(self.equations[silent].reshape(-1, self.rank))[2][-1]
        loud = self._lengths(self.found)[:, silent] >= SILENT + noise[silent]
        basis = others(self.found[~loud.any(axis=1)])
        equations = self.equations[silent]
        sizes, turn = np.linalg.svd((equations @ basis.T).reshape(-1, len(basis)))[1:]
        if len(sizes) < len(basis) - 1 or (len(basis) > 1 and not sizes[len(basis) - 2] > SINGLE * sizes[0]):
            return
        q = turn[-1] @ basis
        if (self._lengths(q[None])[0] >= 10 * SILENT + noise)[silent].any():  # nothing but what was found
            return
        mates = loud.sum(axis=1) <= 1
        rest = others(self.found[mates]).T
        least = equations[~loud[mates].any(axis=0)] @ rest
        if np.linalg.norm(q @ rest) < MIXED:  # it mixes mates: a better one, if more units are silent than for one
            parts = np.abs(np.linalg.lstsq(self.found[mates].T, q, rcond=None)[0])
            new = silent.sum() > self.zeros[mates][parts > MIXED].min(initial=self.units)
        else:
            new = alone(least) or believed(silent)
        if new and not self._known(q, 1e-6):
            self.found, self.zeros = np.vstack([self.found, q]), np.append(self.zeros, silent.sum())
            self._sort()

    def _sort(self) -> None:
        """Keep the independent ones for which most units are silent: a mixture of rows leaves fewer."""
        chosen: list[int] = []
        basis = np.empty((0, self.rank))
        for i in np.argsort(-self.zeros, kind="stable"):
            rest = self.found[i] - (basis @ self.found[i]) @ basis
            if (size := np.linalg.norm(rest)) > MIXED:
                chosen.append(i)
                basis = np.vstack([basis, rest / size])
        self.found, self.zeros = self.found[chosen], self.zeros[chosen]


def tight(L: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Equations that say the same, with none larger than others: B = S L F for turns and scales S of each unit's.

    Returns
    -------
    B : array, shape (M, min(c, b), b)
        About orthonormal rows for each unit, and Σ B_uᵀ B_u = M I over all of them.
    F : array, shape (b, b)
    sizes : array, shape (M,)
        What a unit's smallest equation was divided by.
    """
    frame = np.eye(L.shape[2])
    for _ in range(5):  # it converges fast, and need not be exact
        _, sizes, B = np.linalg.svd(L @ frame, full_matrices=False)
        new = sizes > DEPENDENT * sizes[:, :1]
        B *= new[..., None]
        strengths, turn = np.linalg.eigh(np.einsum("mci,mcj->ij", B, B) / len(B))
        turn /= np.sqrt(np.maximum(strengths, 1e-12 * strengths[-1]))
        frame = frame @ turn
    return B @ turn, frame, np.where(new, sizes, np.inf).min(axis=1)


def others(Q: Matrix) -> Matrix:
    """An orthonormal basis of what is orthogonal to the rows of Q (k, b), which are independent, shape (b - k, b)."""
    rest: Matrix = np.linalg.svd(Q)[2][len(Q) :] if len(Q) else np.eye(Q.shape[1])
    return rest


def alone(equations: Matrix) -> bool:
    """Whether no other direction is orthogonal to all equations of some units, or to those of all but one of the units.

    A direction that mixes several rows of the batch can be orthogonal to a unit that is not silent for them, if its
    factors are chosen for that one unit. Then that unit alone says something of a direction: its part is a whole one.
    """
    units, c, b = equations.shape
    if b < 2:
        return bool(b > 0)
    left, strengths, _ = np.linalg.svd(equations.reshape(units * c, b), full_matrices=False)
    if len(strengths) < b - 1 or not strengths[b - 2] > SINGLE * strengths[0]:
        return False
    parts = np.linalg.svd(left[:, : b - 1].reshape(units, c, b - 1), compute_uv=False)[:, 0]
    return bool((1 - parts**2).min() > SINGLE)
