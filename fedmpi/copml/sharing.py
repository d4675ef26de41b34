"""Shamir shares modulo each prime of the ring, and random ones whose secrets nobody knows."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from fedmpi.core import FieldArray, Residues, Shamir
from fedmpi.core.hyperinvertible import hyperinvertible
from fedmpi.crypto.random import FieldRandom


class Ring:
    """Sharings of degree T among N owners; owner i has the point i + 1.

    Arrays have the residues of one number for each prime along their first axis.

    Parameters
    ----------
    residues : Residues
    owners : int
        N.
    threshold : int
        T.
    """

    def __init__(self, residues: Residues, owners: int, threshold: int):
        self.residues, self.owners, self.threshold = residues, owners, threshold
        self.shamirs = [Shamir(field, owners, threshold) for field in residues.fields]
        self.uniforms = [FieldRandom(field.p) for field in residues.fields]
        self._recombination = lru_cache(maxsize=64)(self._recombinations)  # often the same owners are the fastest
        self._extraction = [hyperinvertible(field, owners - threshold, owners) for field in residues.fields]

    def __len__(self) -> int:
        return len(self.residues)

    def share(self, secret: FieldArray) -> FieldArray:
        """Shape (q, *s) → (N, q, *s)."""
        shares = np.empty((self.owners, *secret.shape), np.uint32)
        for j, (shamir, part, uniform) in enumerate(zip(self.shamirs, secret, self.uniforms, strict=True)):
            shamir.share(part, uniform, shares[:, j])
        shares.flags.writeable = False  # lets the channel send them without a copy
        return shares

    def uniform(self, shape: tuple[int, ...]) -> FieldArray:
        """Fresh uniform elements modulo each prime, shape (q, *shape)."""
        return np.stack([uniform(shape) for uniform in self.uniforms])

    def open(self, shares: Mapping[int, FieldArray], degree: int | None = None) -> FieldArray:
        """The secret of a sharing, of degree T by default, from the shares of some owners, shapes (q, *s)."""
        degree = self.threshold if degree is None else degree
        owners = sorted(shares)[: degree + 1]
        opened: FieldArray = self.combine(self._recombination(tuple(owners), degree), [shares[i] for i in owners])[0]
        return opened

    def _recombinations(self, owners: tuple[int, ...], degree: int) -> list[FieldArray]:
        return [shamir.recombination_vector([*owners], degree) for shamir in self.shamirs]

    def open_checked(self, shares: Mapping[int, FieldArray], errors: int) -> tuple[FieldArray, set[int]]:
        """The same where up to so many shares may be wrong, and the owners of those that are.

        Raises
        ------
        DecodingError
            If some are wrong, but it can't be told which.
        """
        values, liars = [], set[int]()
        for j, (shamir, uniform) in enumerate(zip(self.shamirs, self.uniforms, strict=True)):
            own = {i: share[j] for i, share in shares.items()}
            value, wrong = shamir.reconstruct_checked(own, self.threshold, errors, uniform)
            values.append(value)
            liars |= wrong
        return np.stack(values), liars

    def combine(
        self, factors: list[FieldArray], rows: Sequence[FieldArray], out: FieldArray | None = None
    ) -> FieldArray:
        """Σ_k factors[j][:, k] · rows[k] modulo each prime j: (n, k) for each, and k arrays (q, *s) → (n, q, *s).

        `out` is where they are written, as for `PrimeField.matmul`.
        """
        combined = np.empty((len(factors[0]), *rows[0].shape), np.uint32) if out is None else out
        for j, (field, matrix) in enumerate(zip(self.residues.fields, factors, strict=True)):
            field.matmul(matrix, [row[j] for row in rows], combined[:, j])
        if out is None:
            combined.flags.writeable = False
        return combined

    def batch(self, count: int) -> int:
        """How many random numbers each owner deals so that `count` come of them that nobody knows."""
        return -(-count // (self.owners - self.threshold))

    def deal(self, count: int) -> FieldArray:
        """An owner's own random numbers for so many, as shares, shape (N, q, batch)."""
        return self.share(self.uniform((self.batch(count),)))

    def extract(self, dealt: Sequence[FieldArray] | FieldArray, count: int) -> FieldArray:
        """An owner's shares of `count` numbers that no T owners know, from those of all dealers, shape (q, count).

        N dealers give N - T: a hyper-invertible matrix mixes what N - T honest ones have drawn [Beerliová-Trubíniová
        and Hirt 2008].
        """
        mixed = np.empty((len(self), self.owners - self.threshold, self.batch(count)), np.uint32)
        self.combine(self._extraction, list(dealt), mixed.swapaxes(0, 1))
        return np.ascontiguousarray(mixed.reshape(len(self), -1)[:, :count])

    def add(self, a: FieldArray, b: FieldArray) -> FieldArray:
        """The sum."""
        return self.residues.add(a, b)

    def subtract(self, a: FieldArray, b: FieldArray) -> FieldArray:
        """The difference a - b."""
        fields = self.residues.fields
        return np.stack([field.subtract(x, y) for field, x, y in zip(fields, a, b, strict=True)])

    def times(self, factor: int, a: FieldArray) -> FieldArray:
        """An integer of any size times a."""
        fields = self.residues.fields
        return np.stack(
            [field.multiply(x, field.array([factor % field.p])) for field, x in zip(fields, a, strict=True)]
        )

    def plus(self, constant: int, a: FieldArray) -> FieldArray:
        """A plus an integer of any size; on shares too, since a constant is shared by itself."""
        fields = self.residues.fields
        return np.stack([field.add(x, field.array([constant % field.p])) for field, x in zip(fields, a, strict=True)])


class Once:
    """Shares that are handed out once: a mask that is used twice shows a difference.

    Parameters
    ----------
    shares : FieldArray, shape (q, count)
    """

    def __init__(self, shares: FieldArray):
        self._shares, self._next = shares, 0

    def take(self, count: int) -> FieldArray:
        """The next `count`, shape (q, count). Raises ValueError when too few are left."""
        start, self._next = self._next, self._next + count
        if self._next > self._shares.shape[1]:
            raise ValueError(f"shares must be used once: {self._shares.shape[1]} were made, {self._next} are asked for")
        return self._shares[:, start : self._next]
