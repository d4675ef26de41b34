"""Lagrange coded computing [Yu et al. 2019; So et al. 2021, section III-B and III-D]."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.field import FieldArray, PrimeField
from fedmpi.core.galois_arrays import galois_in_and_out
from fedmpi.errors import UsageError

Uniform = Callable[[tuple[int, ...]], FieldArray]
"""A source of independent uniform elements of F_p: shape → FieldArray."""


def lagrange_basis(field: PrimeField, nodes: Sequence[int], points: Sequence[int]) -> FieldArray:
    """Values of the Lagrange basis polynomials of `nodes` at `points`.

    Returns
    -------
    FieldArray, shape (len(points), len(nodes))
        Row i recombines the values of a polynomial at the nodes into its value at points[i]:
        Π_{k≠j} (x_i - t_k) / (t_j - t_k) [So et al. 2021, eqs. (9), (21)].
    """
    p = np.uint64(field.p)
    weights = barycentric_weights(field, nodes).astype(np.uint64)
    factors = _differences(field, points, nodes)
    # Products before each node and, from the other end, behind it: x_i may be t_j, so nothing is divided.
    both = np.stack([factors, factors[::-1]], axis=1)
    products = np.ones_like(both)
    for k in range(1, len(nodes)):
        np.multiply(products[k - 1], both[k - 1], out=products[k])
        products[k] %= p
    others = products[:, 0] * products[::-1, 1] % p
    return np.ascontiguousarray((others * weights[:, None] % p).T.astype(np.uint32))


def barycentric_weights(field: PrimeField, nodes: Sequence[int]) -> FieldArray:
    """1 / Π_{k≠j} (t_j - t_k) for each node t_j, shape (len(nodes),). Raises ValueError unless the nodes differ."""
    if len({node % field.p for node in nodes}) != len(nodes):
        raise ValueError(f"interpolation nodes must be distinct modulo {field.p}, got {list(nodes)}")
    p = np.uint64(field.p)
    factors = _differences(field, nodes, nodes)
    np.fill_diagonal(factors, 1)
    products = np.ones(len(nodes), np.uint64)
    for row in factors:
        products = products * row % p
    return np.array([field.inverse(product) for product in products.tolist()], np.uint32)


def _differences(field: PrimeField, points: Sequence[int], nodes: Sequence[int]) -> NDArray[np.uint64]:
    """x_i - t_k mod p, shape (len(nodes), len(points)), in integers that hold a product of two."""
    x, t = (np.array([value % field.p for value in values], np.uint64) for values in (points, nodes))
    return (x + (np.uint64(field.p) - t[:, None])) % np.uint64(field.p)


def run_starts(blocks: int, runs: int) -> NDArray[np.intp]:
    """Where runs begin into which blocks are divided as evenly as may be, the longer ones first."""
    run = np.arange(runs)
    return run * (blocks // runs) + np.minimum(run, blocks % runs)


class LagrangeCode:
    """K blocks and T uniform masks, coded for N workers that evaluate a polynomial of a given degree.

    The polynomial u with u(β_j) = block j (j < K) and u(β_j) = mask (K ≤ j < K+T) is evaluated at α_i for
    worker i. Any T workers see uniform values; any `recovery_threshold` answers give back f at every block.

    Parameters
    ----------
    field : PrimeField
    parallelization : int
        K, the number of blocks: each worker stores and computes 1/K of the data.
    privacy : int
        T, the number of colluding workers that learn nothing.
    workers : int
        N.
    degree : int
        Degree of the polynomial that the workers evaluate (2r + 1 for CodedPrivateML).

    Raises
    ------
    UsageError
        If K or T is below 1, or N below the recovery threshold, or p too small for the points.

    Notes
    -----
    Privacy rests on {α_i} being disjoint from all β_j (a worker at α_i = β_j, j < K, would receive a raw
    block), and on fresh uniform masks for every encoding. The code owns its points, so that no caller can
    break the first condition: β_j = j, α_i = K + T + i.
    """

    def __init__(self, field: PrimeField, parallelization: int, privacy: int, workers: int, degree: int):
        for name, value in (("parallelization K", parallelization), ("privacy T", privacy)):
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if degree < 1:
            raise UsageError(f"the degree of the computation must be at least 1, got {degree}")
        self.field = field
        self.parallelization = parallelization
        self.privacy = privacy
        self.workers = workers
        self.degree = degree
        if workers < self.recovery_threshold:
            raise UsageError(
                f"the number of workers N must be at least the recovery threshold "
                f"{degree}·(K+T-1)+1 = {degree}·({parallelization}+{privacy}-1)+1 = {self.recovery_threshold}, "
                f"got N={workers}"
            )
        blocks = parallelization + privacy
        if blocks + workers > field.p:
            raise UsageError(f"K+T+N must be at most p={field.p}, got {blocks + workers}")
        self.betas = tuple(range(blocks))
        self.alphas = tuple(range(blocks, blocks + workers))
        self.encoding_matrix = lagrange_basis(field, self.betas, self.alphas)
        self._decoded: list[int] = []  # whose answers were recombined last, and the matrix for them
        self._recombining = np.empty((0, 0), np.uint32)

    @property
    def completion(self) -> FieldArray:
        """From K blocks and the shares of the first T workers to the shares of the others, shape (N - T, K + T).

        Uniform shares of T workers and uniform masks are the same polynomial, drawn another way: for any blocks one
        follows from the other by an invertible map. So here, too, any T workers see uniform values.
        """
        first, others = self.alphas[: self.privacy], self.alphas[self.privacy :]
        return lagrange_basis(self.field, [*self.betas[: self.parallelization], *first], others)

    @property
    def recovery_threshold(self) -> int:
        """Answers needed to decode: degree·(K+T-1)+1 [So et al. 2021, Theorem 1]."""
        return self.degree * (self.parallelization + self.privacy - 1) + 1

    @galois_in_and_out
    def encode(self, blocks: Sequence[FieldArray] | FieldArray, uniform: Uniform) -> FieldArray:
        """Shares of K different blocks [So et al. 2021, eq. (10)].

        Parameters
        ----------
        blocks : K arrays of one shape s
        uniform : callable
            Gives the T masks; every call must return fresh uniform elements.

        Returns
        -------
        FieldArray, shape (N, *s)
        """
        if len(blocks) != self.parallelization:
            raise ValueError(f"encode: the number of blocks must be K={self.parallelization}, got {len(blocks)}")
        masks = uniform((self.privacy, *blocks[0].shape))
        return self.field.matmul(self.encoding_matrix, [*blocks, *masks])

    @galois_in_and_out
    def encode_repeated(self, block: FieldArray, uniform: Uniform) -> FieldArray:
        """Shares of one block repeated K times [So et al. 2021, eq. (12)], from T + 1 products instead of K + T."""
        masks = uniform((self.privacy, *block.shape))
        top, bottom = np.split(self.encoding_matrix, [self.parallelization], axis=1)
        repeated = self.field.array(top.sum(axis=1, keepdims=True, dtype=np.uint64))
        return self.field.matmul(np.hstack([repeated, bottom]), [block, *masks])

    @galois_in_and_out
    def decode(self, answers: dict[int, FieldArray]) -> FieldArray:
        """F at every block from the answers of any `recovery_threshold` workers [So et al. 2021, eq. (21)].

        Parameters
        ----------
        answers : dict
            Worker (0 ≤ i < N) → f at α_i, arrays of one shape s. Answers beyond the threshold are not used.

        Returns
        -------
        FieldArray, shape (K, *s)
        """
        return self.field.matmul(*self._recombination(answers))

    @galois_in_and_out
    def decode_sums(self, answers: dict[int, FieldArray], runs: int = 1) -> FieldArray:
        """The sums of F over so many runs of blocks, shape (runs, *s), for runs/K of the work of `decode`; see there.

        The runs begin at `run_starts`.
        """
        recombination, values = self._recombination(answers)
        starts = run_starts(len(recombination), runs)
        rows = self.field.array(np.add.reduceat(recombination, starts, axis=0, dtype=np.uint64))
        return self.field.matmul(rows, values)

    def decoding_sums(self, workers: Sequence[int]) -> FieldArray:
        """What `decode_sums` multiplies the answers of these R workers by, in their order, shape (1, R).

        It is linear: so shares of answers give shares of their decoded sum.
        """
        points = self.betas[: self.parallelization]
        recombination = lagrange_basis(self.field, [self.alphas[i] for i in workers], points)
        return np.asarray(self.field.array(recombination.sum(axis=0, keepdims=True, dtype=np.uint64)))

    def _recombination(self, answers: dict[int, FieldArray]) -> tuple[FieldArray, list[FieldArray]]:
        """The matrix that turns the answers of the first R workers into F at every block, and those answers."""
        if len(answers) < self.recovery_threshold:
            raise ValueError(f"decode: answers must be at least {self.recovery_threshold}, got {len(answers)}")
        workers = sorted(answers)[: self.recovery_threshold]
        points = self.betas[: self.parallelization]
        if self._decoded != workers:  # often the same are the fastest, or all are needed
            self._recombining = lagrange_basis(self.field, [self.alphas[i] for i in workers], points)
            self._decoded = workers
        return self._recombining, [answers[i] for i in workers]
