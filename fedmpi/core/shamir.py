"""Shamir's secret sharing [Shamir 1979], batched over arrays."""

import numpy as np

from fedmpi.core.field import FieldArray, PrimeField
from fedmpi.core.galois_arrays import galois_in_and_out
from fedmpi.core.lagrange import Uniform, lagrange_basis
from fedmpi.core.reed_solomon import consistent, correctable, locate_errors
from fedmpi.errors import DecodingError, UsageError


class Shamir:
    """Shares of degree T for n parties at the points 1 … n; the secret is the value at 0.

    Parameters
    ----------
    field : PrimeField
    parties : int
        n.
    threshold : int
        T, the number of colluding parties that learn nothing.

    Raises
    ------
    UsageError
        Unless 0 ≤ T < n < p.
    """

    def __init__(self, field: PrimeField, parties: int, threshold: int):
        if not 0 <= threshold < parties < field.p:
            raise UsageError(f"sharing must have 0 ≤ T < n < p, got T={threshold}, n={parties}, p={field.p}")
        self.field = field
        self.parties = parties
        self.threshold = threshold
        self.points = tuple(range(1, parties + 1))
        self._vandermonde = np.array(
            [[pow(point, power, field.p) for power in range(threshold + 1)] for point in self.points],
            np.uint32,
        )

    @property
    def completion(self) -> FieldArray:
        """From the secret and the shares of the first T parties to the shares of the others, shape (n - T, 1 + T).

        Uniform shares of T parties are uniform coefficients, drawn another way: see `LagrangeCode.completion`.
        """
        first, others = self.points[: self.threshold], self.points[self.threshold :]
        return lagrange_basis(self.field, [0, *first], others)

    @galois_in_and_out
    def share(self, secret: FieldArray, uniform: Uniform, out: FieldArray | None = None) -> FieldArray:
        """Shares of an array of secrets, shape s → (n, *s) [So et al. 2021, appendix D].

        `uniform` gives the T coefficients of each polynomial; every call must return fresh uniform elements. `out` is
        where the shares are written, as for `PrimeField.matmul`.
        """
        coefficients = uniform((self.threshold, *secret.shape))
        return self.field.matmul(self._vandermonde, [secret, *coefficients], out)

    def recombination_vector(self, parties: list[int], degree: int) -> FieldArray:
        """Coefficients that turn the shares of degree + 1 parties (0 ≤ i < n) into the secret, shape (1, degree+1)."""
        if len(parties) < degree + 1:
            raise ValueError(f"shares must be at least {degree + 1} for degree {degree}, got {len(parties)}")
        return lagrange_basis(self.field, [self.points[i] for i in parties[: degree + 1]], [0])

    @galois_in_and_out
    def reconstruct(self, shares: dict[int, FieldArray], degree: int | None = None) -> FieldArray:
        """The secrets from the shares of any degree + 1 parties; the degree is T by default (2T after a product)."""
        degree = self.threshold if degree is None else degree
        parties = sorted(shares)
        vector = self.recombination_vector(parties, degree)
        secrets: FieldArray = self.field.matmul(vector, [shares[i] for i in parties[: degree + 1]])[0]
        return secrets

    @galois_in_and_out
    def reconstruct_checked(
        self, shares: dict[int, FieldArray], degree: int, max_errors: int, uniform: Uniform
    ) -> tuple[FieldArray, set[int]]:
        """The secrets from more shares than needed, of which up to `max_errors` may be wrong, and which those are.

        Parameters
        ----------
        shares : dict
            Party (0 ≤ i < n) → its share, arrays of one shape. All of them are used.
        degree : int
            Of the sharing: T, or 2T after a product.
        max_errors : int
            e. With degree + 1 + 2e shares or more all wrong ones are corrected; with fewer, as many as can be so
            that e are noticed; with fewer than degree + 1 + e, not even that.
        uniform : callable
            shape → secret uniform elements of F_p. Asked only when something is wrong.

        Raises
        ------
        DecodingError
            If some shares are wrong, but it can't be told which.
        ValueError
            If there are fewer than degree + 1 shares.
        """
        parties = sorted(shares)
        points, values = [self.points[i] for i in parties], [shares[i] for i in parties]
        if len(parties) <= degree or consistent(self.field, points, values, degree):
            return self.reconstruct(shares, degree), set()
        limit = correctable(len(parties), degree, max_errors)
        if limit == 0:
            raise DecodingError(
                f"all of {len(parties)} shares must lie on one polynomial of degree {degree}, got others: "
                f"too few shares to tell which are wrong"
            )
        wrong = {parties[k] for k in locate_errors(self.field, points, values, degree, limit, uniform)}
        return self.reconstruct({i: shares[i] for i in parties if i not in wrong}, degree), wrong
