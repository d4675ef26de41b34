"""Exact arithmetic in a prime field, on arrays of uint32."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmpi.core.galois_arrays import galois_in, galois_in_and_out
from fedmpi.core.native import compiled as _compiled
from fedmpi.core.native import pointer as _pointer
from fedmpi.errors import UsageError

FieldArray = NDArray[np.uint32]
"""Elements of F_p in canonical form: uint32 in [0, p)."""

DEFAULT_PRIME = 2**25 - 39

_LARGEST = 2**64 - 1


def kernels_are_compiled() -> bool:
    """Whether the C kernels were built at install time."""
    return _compiled is not None


class PrimeField:
    """The field F_p for a prime p < 2^31, with arrays as uint32 in [0, p), or as those of galois.GF(p).

    Parameters
    ----------
    p : int
        The modulus. Primes p = 2^b - c with a small c (2^25 - 39, 2^26 - 5, 2^31 - 1) use the C kernels,
        which fold instead of dividing; every other prime works with numpy.
    compiled : bool, optional
        False forces the numpy twin; by default the C kernels are used where they can be.

    Raises
    ------
    UsageError
        If p is not a prime below 2^31. The message names the factors and the nearest prime below.
    """

    def __init__(self, p: int = DEFAULT_PRIME, *, compiled: bool = True):
        if not 2 < p < 2**31:
            raise UsageError(f"the modulus must be an odd prime below 2^31, got {p}")
        if not _is_prime(p):
            product = "·".join(map(str, factorize(p)))
            raise UsageError(f"the modulus must be prime, got {p} = {product}; nearest below: {prime_below(p)}")
        self.p = p
        self.bits = p.bit_length()
        self._max_terms = (_LARGEST - (p - 1)) // (p - 1) ** 2
        self._prime = self._kernel_constants() if compiled and _compiled else None

    def __repr__(self) -> str:
        return f"PrimeField({self.p})"

    @property
    def compiled(self) -> bool:
        """Whether this field uses the C kernels."""
        return self._prime is not None

    def _kernel_constants(self) -> Any:
        """The constants of _kernels.c, or None where three folds do not bring every uint64 below 2p."""
        c = (1 << self.bits) - self.p

        def fold(bound: int) -> int:
            return (1 << self.bits) - 1 + (bound >> self.bits) * c

        if fold(fold(fold(_LARGEST))) >= 2 * self.p:
            return None
        wide = self._max_terms < 64
        term = fold((self.p - 1) ** 2) if wide else (self.p - 1) ** 2
        terms = 2**26 if wide else self._max_terms
        if terms * term + self.p > _LARGEST:
            return None
        small = _largest(lambda n: fold(fold(n * term)) < 2 * self.p, terms)
        return _compiled.ffi.new("fedmpi_prime *", [self.p, self.bits, c, 0 if wide else terms, small])

    # -- elements ---------------------------------------------------------------------------------------------

    @galois_in
    def array(self, values: ArrayLike) -> FieldArray:
        """Integers of any size and sign, reduced to [0, p)."""
        values = np.asarray(values)
        if values.dtype.kind == "f" and values.size:
            raise TypeError("field elements must be integers, got floating point")
        if values.dtype.kind != "O":  # the small dtypes can't hold p
            values = values.astype(np.uint64 if values.dtype == np.uint64 else np.int64)
        reduced: FieldArray = np.mod(values, self.p).astype(np.uint32)
        return reduced

    def from_signed(self, values: NDArray[Any]) -> FieldArray:
        """φ of [So et al. 2021, eq. (5)]: integers in (-p/2, p/2), of an integer or floating dtype."""
        integers: NDArray[np.int32] = values.astype(np.int32)
        np.add(integers, self.p, out=integers, where=integers < 0)
        return integers.view(np.uint32)

    @galois_in
    def to_signed(self, values: FieldArray) -> NDArray[np.int64]:
        """φ⁻¹ of [So et al. 2021, eq. (24)]: the representative in (-p/2, p/2)."""
        signed = values.astype(np.int64)
        signed[signed > self.p // 2] -= self.p
        return signed

    @galois_in
    def contains(self, values: FieldArray) -> bool:
        """Whether every element is in [0, p)."""
        return values.dtype == np.uint32 and (values.size == 0 or int(values.max()) < self.p)

    @galois_in_and_out
    def inverse(self, value: int) -> int:
        """1/value. Raises ZeroDivisionError for multiples of p."""
        if value % self.p == 0:
            raise ZeroDivisionError(f"0 has no inverse modulo {self.p}")
        return pow(int(value), -1, self.p)

    # -- linear algebra ---------------------------------------------------------------------------------------

    @galois_in_and_out
    def matmul(
        self, matrix: FieldArray, rows: Sequence[FieldArray] | FieldArray, out: FieldArray | None = None
    ) -> FieldArray:
        """Product of a small matrix and a stack of equally shaped arrays.

        Parameters
        ----------
        matrix : FieldArray, shape (n, k)
        rows : k arrays of one shape s, or one array of shape (k, *s)
            Kept where they are: blocks of a large array need not be stacked.
        out : FieldArray, shape (n, *s), optional
            Where the product is written. Each of its n arrays must lie in one piece; they need not lie side by side.

        Returns
        -------
        FieldArray, shape (n, *s)
        """
        if matrix.ndim != 2 or matrix.shape[1] != len(rows) or len(rows) == 0:
            raise ValueError(f"matmul: the matrix must have one column per row, got {matrix.shape} and {len(rows)}")
        shape = rows[0].shape
        if any(row.shape != shape or row.dtype != np.uint32 for row in rows):
            kinds = sorted({(str(row.dtype), row.shape) for row in rows})
            raise ValueError(f"matmul: rows must be uint32 arrays of one shape, got {kinds}")
        if out is None:
            out = np.empty((matrix.shape[0], *shape), np.uint32)
        elif out.shape != (len(matrix), *shape) or out.dtype != np.uint32 or not out[:1].flags.c_contiguous:
            raise ValueError(f"matmul: out must have rows of uint32 in one piece, shape {(len(matrix), *shape)}")
        if self._prime is None:
            return self._matmul_numpy(matrix, rows, out)
        matrix = _ready(matrix)
        rows = [_ready(row) for row in rows]
        _compiled.lib.fedmpi_matmul(
            _pointer(matrix),
            *matrix.shape,
            _pointers(rows),
            rows[0].size,
            _pointers(out[n : n + 1] for n in range(len(out))),
            self._prime,
        )
        return out

    def _matmul_numpy(self, matrix: FieldArray, rows: Iterable[FieldArray], out: FieldArray) -> FieldArray:
        for n, coefficients in enumerate(matrix):
            total = np.zeros(out.shape[1:], np.uint64)
            for k, row in enumerate(rows):
                if k and k % self._max_terms == 0:
                    total %= np.uint64(self.p)
                total += np.uint64(coefficients[k]) * row.astype(np.uint64)
            out[n] = total % np.uint64(self.p)
        return out

    @galois_in_and_out
    def product(self, X: FieldArray, W: FieldArray) -> FieldArray:
        """Z = X W, shape (m, k), for X of shape (m, d) and a few columns W of shape (d, k)."""
        (m, d), (rows, outputs) = X.shape, W.shape
        if rows != d:
            raise ValueError(f"product: shapes must fit, got {X.shape} and {W.shape}")
        weights = _ready(W.T)
        if self._prime is None:
            x = X.astype(np.uint64)
            return np.stack([self._dot(x, w.astype(np.uint64)) for w in weights], axis=1).astype(np.uint32)
        X = _ready(X)
        padded, out = np.empty(8 * d, np.uint32), np.empty((outputs, m), np.uint32)
        _compiled.lib.fedmpi_product(
            _pointer(X), m, d, _pointer(weights), outputs, _pointer(padded), _pointer(out), self._prime
        )
        return np.ascontiguousarray(out.T)

    @galois_in_and_out
    def transposed_product(self, X: FieldArray, S: FieldArray) -> FieldArray:
        """XᵀS, shape (d, k), for X of shape (m, d) and a few columns S of shape (m, k)."""
        (m, d), (rows, outputs) = X.shape, S.shape
        if rows != m:
            raise ValueError(f"transposed_product: shapes must fit, got {X.shape} and {S.shape}")
        if self._prime is None:
            return self.product(X.T, S)
        X, factors, out = _ready(X), _ready(S.T), np.empty((outputs, d), np.uint32)
        g, padded = np.zeros(outputs * d, np.uint64), np.empty(8 * d, np.uint32)
        _compiled.lib.fedmpi_transposed_product(
            _pointer(X), m, d, _pointer(factors), outputs, _pointer(g, "uint64_t"), _pointer(padded), _pointer(out),
            self._prime,
        )  # fmt: skip
        return np.ascontiguousarray(out.T)

    @galois_in_and_out
    def multiply(self, a: FieldArray, b: FieldArray) -> FieldArray:
        """Element by element, with broadcasting."""
        product = a.astype(np.uint64) * b
        product %= np.uint64(self.p)
        return product.astype(np.uint32)

    @galois_in_and_out
    def add(self, a: FieldArray, b: FieldArray) -> FieldArray:
        """Element by element, with broadcasting."""
        total = np.asarray(a + b)  # below 2^32
        np.subtract(total, self.p, out=total, where=total >= self.p)
        return total

    @galois_in_and_out
    def subtract(self, a: FieldArray, b: FieldArray) -> FieldArray:
        """Element by element, with broadcasting."""
        return self.add(a, np.uint32(self.p) - b)

    @galois_in_and_out
    def gradient(self, X: FieldArray, W: FieldArray, coefficients: FieldArray) -> FieldArray:
        """Xᵀ s(X W), s = Σ_i c_i Π_{j≤i} X w_j, for several outputs in one pass over X.

        [So et al. 2021, eqs. (15), (18)] by two matrix-vector products instead of XᵀX.

        Parameters
        ----------
        X : FieldArray, shape (m, d)
        W : FieldArray, shape (d, r, C)
            r independent quantizations of the weights of each of C outputs.
        coefficients : FieldArray, shape (r + 1,)

        Returns
        -------
        FieldArray, shape (d, C)
        """
        (m, d), (rows, degree, outputs) = X.shape, W.shape
        if rows != d or coefficients.shape != (degree + 1,):
            raise ValueError(f"gradient: shapes must fit, got {X.shape}, {W.shape} and {coefficients.shape}")
        weights, coefficients = _ready(W.transpose(2, 1, 0)), _ready(coefficients)
        if self._prime is None:
            return self._gradient_numpy(X, weights, coefficients)
        X = _ready(X)
        out = np.empty((outputs, d), np.uint32)
        g, padded, z = (
            np.zeros(outputs * d, np.uint64),
            np.empty(8 * d, np.uint32),
            np.empty(degree * 8, np.uint32),
        )
        _compiled.lib.fedmpi_gradient(
            _pointer(X), m, d, _pointer(weights), outputs, degree, _pointer(coefficients),
            _pointer(g, "uint64_t"), _pointer(padded), _pointer(z), _pointer(out), self._prime,
        )  # fmt: skip
        return np.ascontiguousarray(out.T)

    def _gradient_numpy(self, X: FieldArray, weights: FieldArray, coefficients: FieldArray) -> FieldArray:
        p = np.uint64(self.p)
        outputs, degree, d = weights.shape
        total = np.zeros((outputs, d), np.uint64)
        step = max(1, min(self._max_terms, 2**20 // max(d, 1)))  # also bounds the temporary copy of X
        for start in range(0, len(X), step):
            x = X[start : start + step].astype(np.uint64)
            for o in range(outputs):
                s, power = np.full(len(x), coefficients[0], np.uint64), np.ones(len(x), np.uint64)
                for i in range(degree):
                    power = power * self._dot(x, weights[o, i].astype(np.uint64)) % p
                    s = (s + power * np.uint64(coefficients[i + 1])) % p
                total[o] = (total[o] + s @ x) % p
        return np.ascontiguousarray(total.T.astype(np.uint32))

    def _dot(self, x: NDArray[np.uint64], w: NDArray[np.uint64]) -> NDArray[np.uint64]:
        total = np.zeros(len(x), np.uint64)
        for start in range(0, x.shape[1], self._max_terms):
            part = slice(start, start + self._max_terms)
            total = (total + x[:, part] @ w[part]) % np.uint64(self.p)
        return total


def _ready(array: FieldArray) -> FieldArray:
    """The array as the kernels read it. Keep a reference to it for as long as they do."""
    array = np.asarray(array)
    if array.dtype != np.uint32:
        raise TypeError(f"field elements must be uint32, got {array.dtype}")
    return np.ascontiguousarray(array)


def _pointers(arrays: Iterable[NDArray[Any]]) -> Any:
    return _compiled.ffi.new("uint32_t *[]", [_pointer(array) for array in arrays])


def _largest(holds: Any, limit: int) -> int:
    """The largest n in [0, limit] for which a monotone condition holds."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def factorize(n: int) -> list[int]:
    """Prime factors of n >= 2 in rising order, with repetition."""
    factors, divisor = [], 2
    while divisor * divisor <= n:
        while n % divisor == 0:
            factors.append(divisor)
            n //= divisor
        divisor += 1 if divisor == 2 else 2
    return [*factors, n] if n > 1 else factors


@cache  # a training makes many fields of a few primes, and to divide takes half a millisecond
def _is_prime(n: int) -> bool:
    return factorize(n) == [n]


def prime_below(n: int) -> int:
    """The largest prime smaller than n."""
    return next(q for q in range(n - 1, 1, -1) if factorize(q) == [q])
