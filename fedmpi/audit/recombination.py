"""What a coalition of workers computes from its shares of the data, with Lagrange codes and with Shamir's sharing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice, product

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.recording import Recorded
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import row_blocks
from fedmpi.core import FieldArray, LagrangeCode, Residues, Shamir
from fedmpi.core.lagrange import lagrange_basis
from fedmpi.data import load

MOST_CANDIDATES = 100_000
"""Values of K features at once that are tried."""

MOST_COALITIONS = 200
"""Coalitions among which those are chosen that see most."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Hidden:
    """What was shared: known to the judge; its range, and the code, to everybody."""

    params: Params
    blocks: Integers
    """The K blocks that were coded, or the rows of the first group, shape (K, rows, d)."""
    residues: Residues
    codes: tuple[LagrangeCode, ...]
    """One for each prime; none with Shamir's sharing."""

    @classmethod
    def of(cls, run: Recorded) -> "Hidden":
        """Load, scale and quantize the data as the master did."""
        options, params, workers = run.options, run.parameters(Params), len(run.ranks) - 1
        arguments = options.load_arguments()
        if options.dataset is None:
            arguments["classes"] = arguments["classes"] or ["4", "9"]
        data = load(options.dataset or "digits", seed=options.seed, **arguments)
        problem = Problem.prepare(params, data.X_train, data.y_train, len(data.classes))
        X_bar, residues = problem.X_bar, problem.precision.residues
        codes = tuple(params.code(workers, field) for field in residues.fields if run.method == "coded")
        places = row_blocks(len(X_bar), codes[0].parallelization if codes else len(params.groups(workers)[1]))
        blocks = np.zeros((len(places), places[0].stop, X_bar.shape[1]), np.int64)
        for block, place in zip(blocks, places, strict=True):
            rows = X_bar[place]
            block[: len(rows)] = rows
        return cls(params, blocks if codes else blocks[:1], residues, codes)

    @cached_property
    def candidates(self) -> Integers:
        """All values that K features at one place can have, shape (candidates, K); none if they are too many."""
        values, K = range(int(self.blocks.min()), int(self.blocks.max()) + 1), len(self.blocks)
        if len(values) ** K > MOST_CANDIDATES:
            return np.zeros((0, K), np.int64)
        return np.array(list(product(values, repeat=K)), np.int64)


def coalitions(hidden: Hidden, group: range, size: int, count: int) -> list[tuple[int, ...]]:
    """Those that can tell most values apart."""
    all_of_them = list(islice(combinations(group, size), MOST_COALITIONS))
    if not hidden.codes or size <= hidden.codes[0].privacy:
        return all_of_them[:count]
    # Modulo the first prime: with more of them any coalition tells all values apart.
    told = {ranks: len(np.unique(_sums_of(hidden, hidden.codes[0], ranks)[1], axis=0)) for ranks in all_of_them}
    return sorted(all_of_them, key=lambda ranks: -told[ranks])[:count]


def recombine(hidden: Hidden, group: range, ranks: Sequence[int], shares: Sequence[FieldArray]) -> Integers:
    """What the ranks take for the data, shape (blocks, elements); not all blocks, if they know nothing.

    Parameters
    ----------
    shares : sequence of arrays
        Of each rank, shape (primes, elements).
    """
    if hidden.codes:
        return _coded(hidden, ranks, shares)
    found = []  # as if the degree were one less than there are shares
    for j, field in enumerate(hidden.residues.fields):
        known = {group.index(rank): values[j] for rank, values in zip(ranks, shares, strict=True)}
        found.append(Shamir(field, len(group), len(ranks) - 1).reconstruct(known))
    return _integers(hidden, np.stack(found))[None]


def _coded(hidden: Hidden, ranks: Sequence[int], shares: Sequence[FieldArray]) -> Integers:
    """Combine shares so that the masks cancel, and look for the small integers that explain the sums.

    s workers have s - T such combinations, and none if s ≤ T: then they take a share as it is.
    """
    K, T = hidden.codes[0].parallelization, hidden.codes[0].privacy
    if len(ranks) >= K + T:
        blocks = []
        for j, code in enumerate(hidden.codes):
            vectors = lagrange_basis(code.field, [code.alphas[rank - 1] for rank in ranks], code.betas[:K])
            blocks.append(code.field.matmul(vectors, [share[j] for share in shares]))
        return _integers(hidden, np.stack(blocks))
    if len(ranks) <= T or not len(hidden.candidates):
        return _integers(hidden, shares[0])[None]
    sums, expected = [], []
    for j, code in enumerate(hidden.codes):
        null, values = _sums_of(hidden, code, ranks)
        expected.append(values)
        p, own = code.field.p, [share[j].astype(np.int64) for share in shares]
        sums.append(sum(n[:, None] * share % p for n, share in zip(null.T, own, strict=True)) % p)
    told = zip(np.concatenate(expected, axis=1).tolist(), hidden.candidates, strict=True)
    explained = {tuple(one): candidate for one, candidate in told}
    unexplained = np.full(K, -1)
    return np.stack([explained.get(tuple(one), unexplained) for one in np.concatenate(sums).T.tolist()], axis=1)


def _integers(hidden: Hidden, values: FieldArray) -> Integers:
    """Residues (primes, *s) as integers, s; those beyond 2^53, which no feature is, are rounded."""
    return hidden.residues.reals(values, 0).astype(np.int64)


def _sums_of(hidden: Hidden, code: LagrangeCode, ranks: Sequence[int]) -> tuple[Integers, Integers]:
    """Combinations without masks, shape (s - T, s), and their values for each candidate."""
    p, K = code.field.p, code.parallelization
    encoding = code.encoding_matrix[[rank - 1 for rank in ranks]].astype(np.int64)
    null = null_space(encoding[:, K:].T, p)
    left = (null.astype(object) @ encoding[:, :K].astype(object) % p).astype(np.int64)
    return null, hidden.candidates @ left.T % p


def null_space(matrix: NDArray[np.int64], p: int) -> NDArray[np.int64]:
    """Vectors n with matrix·n = 0 in F_p, shape (dimension, columns); small matrices only."""
    rows = [[int(value) % p for value in row] for row in matrix]
    pivots: list[int] = []
    columns = matrix.shape[1]
    for column in range(columns):
        at = len(pivots)
        pivot = next((i for i in range(at, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[at], rows[pivot] = rows[pivot], rows[at]
        inverse = pow(rows[at][column], -1, p)
        rows[at] = [value * inverse % p for value in rows[at]]
        for i, row in enumerate(rows):
            if i != at and row[column]:
                factor = row[column]
                rows[i] = [(a - factor * b) % p for a, b in zip(row, rows[at], strict=True)]
        pivots.append(column)
    basis = []
    for free in (column for column in range(columns) if column not in pivots):
        vector = [0] * columns
        vector[free] = 1
        for i, column in enumerate(pivots):
            vector[column] = -rows[i][free] % p
        basis.append(vector)
    return np.array(basis, np.int64).reshape(-1, columns)
