"""How many bits, and which field: chosen before any data is encoded."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml.transform import Erased, Transform, row_chunks
from fedmpi.core import DEFAULT_PRIME, WIDE_PRIMES, Residues
from fedmpi.errors import HeadroomError

if TYPE_CHECKING:
    from fedmpi.codedml.params import Params

ROUNDING = 2.0**-5
"""The largest rounding error of a vector that is sent, as a part of its size, that is taken for small enough."""

COARSE = 2.0**-2
"""With a larger one, which only a given field leads to, nothing sensible is trained."""

_FEATURE_ROUNDING = 2.0**-6
_DATA_BITS = range(4, 21)
_COLUMNS_TOLD = 0.01
_CANDIDATES = ((DEFAULT_PRIME,), (WIDE_PRIMES[0],), (2**31 - 1,), WIDE_PRIMES[:2], WIDE_PRIMES)


@dataclass(frozen=True)
class Norms:
    """What is known of the scaled features X, shape (m, d), before they are quantized."""

    rows: int
    columns: int
    entry: float
    """The largest |x_ij|."""
    row: float
    """The largest ‖x_i‖."""
    column: float
    """The largest ‖x^j‖."""
    whole: float
    """‖X‖_F."""
    means: NDArray[np.float64]
    """Of each column."""
    squares: NDArray[np.float64]
    """Σ_i x_ij², of each column."""
    rounding: NDArray[np.float64]
    """√(non-zero entries / 12) over ‖x^j - mean‖: with b bits the rounding of a column is 2^-b times this."""

    @classmethod
    def of(cls, transform: Transform, X: Any) -> "Norms":
        """One pass over the training rows X, shape (m, features)."""
        rows, columns = X.shape[0], transform.columns
        sums, squares, counts = np.zeros(columns), np.zeros(columns), np.zeros(columns)
        largest = entry = 0.0
        for part in row_chunks(rows, columns):
            x = transform.apply(X[part])
            squared = np.square(x)
            entry = max(entry, float(squared.max(initial=0.0)))
            largest = max(largest, float(squared.sum(axis=1).max(initial=0.0)))
            sums += x.sum(axis=0)
            squares += squared.sum(axis=0)
            counts += np.count_nonzero(x, axis=0)
        means = sums / max(rows, 1)
        spread = np.maximum(squares - rows * np.square(means), 0.0)
        # A column that is constant has no spread but for the rounding of these sums, and no information.
        varies = spread > 1e-12 * squares
        rounding = np.sqrt(np.divide(counts / 12, spread, out=np.zeros(columns), where=varies))
        column = math.sqrt(squares.max(initial=0.0))
        whole = math.sqrt(squares.sum())
        return cls(rows, columns, math.sqrt(entry), math.sqrt(largest), column, whole, means, squares, rounding)

    @cached_property
    def data_bits(self) -> int:
        """The fewest bits with which at most 1 % of the columns are rounded by more than 1/64 of their spread.

        No more than what leaves every entry a float32 integer.
        """
        left_aside = int(_COLUMNS_TOLD * self.columns)
        wanted = float(np.sort(self.rounding)[-1 - left_aside]) if self.columns else 0.0
        enough = next((bits for bits in _DATA_BITS if wanted * 2.0**-bits <= _FEATURE_ROUNDING), _DATA_BITS[-1])
        return max(min(enough, 23 - math.frexp(self.entry)[1]), _DATA_BITS[0])


@dataclass(frozen=True)
class Precision:
    """Bits and field of one training.

    Parameters
    ----------
    data_bits : int
        l_x.
    primes : tuple of int
    rounding : float
        The rounding error of the vectors that are sent, as a part of their size, that is to be expected.
    argument_bits : int
        Of a polynomial of degree 3 or more whose weights have no fixed bits: fractional bits of what stands in place
        of its higher powers.
    """

    data_bits: int
    primes: tuple[int, ...]
    rounding: float = 0.0
    argument_bits: int = 0

    @cached_property
    def residues(self) -> Residues:
        """Z modulo the product of the primes."""
        return Residues(self.primes)

    def text(self, erased: Erased | None = None) -> str:
        """What was chosen, and what it erases, in one line for people."""
        names = " and ".join(f"2^{p.bit_length()}-{2 ** p.bit_length() - p}" for p in self.primes)
        line = f"precision: {self.data_bits} fractional bits of the features"
        line += "" if erased is None else f", which erase {erased.text}"
        return f"{line}; computed modulo {names}" + (
            f", with rounding errors of {self.rounding:.1%}" if self.rounding else ""
        )


def choose(params: "Params", norms: Norms) -> Precision:
    """The bits and the smallest field with which the rounding error of every product stays small.

    Raises
    ------
    HeadroomError
        If the field or the bits that are given leave no useful precision; the message names what does.
    """
    bits = norms.data_bits if params.data_bits is None else params.data_bits
    given = given_primes(params)
    if params.fixed_bits or params.method == "plain":
        return Precision(bits, given or (DEFAULT_PRIME,))
    candidates = _CANDIDATES if given is None else (given,)
    # Fewer bits of the features where even the widest field has no room for all of them.
    enough = (
        (b, p)
        for b in (range(bits, _DATA_BITS[0] - 1, -1) if params.data_bits is None else (bits,))
        for p in candidates
        if expected_rounding(params, norms, b, p) <= ROUNDING
    )
    bits, primes = next(enough, (bits, candidates[-1]))
    rounding = expected_rounding(params, norms, bits, primes)
    if rounding > COARSE:
        wider = [p for p in (WIDE_PRIMES[:2], WIDE_PRIMES) if expected_rounding(params, norms, bits, p) <= COARSE]
        fewer = [b for b in range(bits) if expected_rounding(params, norms, b, primes) <= COARSE]
        remedies = [f"--primes {len(p)}" for p in wider[:1]] + [f"--data-bits {b}" for b in fewer[-1:]]
        raise HeadroomError(
            f"the range of the field must leave rounding errors of at most {COARSE:.0%} for {norms.rows} rows and "
            f"{norms.columns} columns of {bits} bits, got {rounding:.0%} modulo {' · '.join(map(str, primes))}: "
            f"{'take ' + ' or '.join(remedies) if remedies else 'take fewer rows, or --scale column'}"
        )
    return Precision(bits, primes, rounding, argument_bits(params, norms))


def given_primes(params: "Params") -> tuple[int, ...] | None:
    """The primes that the options name, if they do."""
    if params.prime is not None:
        return (params.prime,)
    return None if params.primes is None else WIDE_PRIMES[: params.primes]


def argument_bits(params: "Params", norms: Norms) -> int:
    """Fractional bits of the factors of a polynomial's higher powers: rounding changes those by at most 1/32."""
    if params.degree is None or params.degree < 3:
        return 0
    return max(0, math.ceil(math.log2(max(norms.row, 1.0)))) + 4


def expected_rounding(params: "Params", norms: Norms, bits: int, primes: tuple[int, ...]) -> float:
    """The rounding error of what is sent in each exchange, as a part of its size, if it takes up the whole range.

    A vector v̄ of n integers has |x̄ᵀv̄| ≤ ‖x̄‖·‖v̄‖, so ‖v̄‖ may reach M/(2‖x̄‖); its rounding error is about √n/2.

    Parameters
    ----------
    bits : int
        l_x.
    primes : tuple of int
        Their product is M.
    """
    half = math.log2(Residues(primes).half)
    row, column, whole = (math.log2(max(norm, 2.0**-bits)) + bits for norm in (norms.row, norms.column, norms.whole))
    if params.degree is None:
        m, d = max(norms.rows, 1), max(norms.columns, 1)
        return max(math.exp2(row - half) * math.sqrt(d), math.exp2(column - half) * math.sqrt(m)) / 2
    powers = (params.degree - 1) // 2 * 2 * (bits + argument_bits(params, norms))
    return math.exp2(column + whole + powers - half) * math.sqrt(max(norms.columns, 1)) / 2
