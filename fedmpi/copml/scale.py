"""How real numbers become integers, and how much of the ring is left to hide them: all of it is public.

Features are X̄/2^l_x, weights w̄/2^l_w, and s(z) = c_0 + c_1 z has l_c bits behind the point. What is truncated is
a = X̄ᵀ(s̄(X̄w̄) - ȳ), and all shares are modulo M = p_1 p_2 p_3, each prime apart.
"""

import math
from dataclasses import dataclass

from fedmpi.copml.params import Params
from fedmpi.core import Residues
from fedmpi.core.residues import WIDE_PRIMES
from fedmpi.core.sigmoid import quantize_polynomial, sigmoid_polynomial
from fedmpi.errors import UsageError

COEFFICIENT_BITS = 3
"""l_c, as in the paper: c_1 = 1/8."""

STABLE = 1.5
"""Steps are at most so much over the curvature: below 2, no step makes the residuals longer."""

MOST_BITS = 20
"""Of l_x and l_w: more precision than that has no use."""


def residues() -> Residues:
    """The ring Z_M: every prime is a field of its own for masks, shares and codes, and a value is opened by all.

    One field of 26 bits has no room: see the errata in README.md. Three have 78 bits.
    """
    return Residues(WIDE_PRIMES)


@dataclass(frozen=True)
class Scale:
    """Bits of one training."""

    data_bits: int
    """l_x."""
    weight_bits: int
    """l_w."""
    bound: int
    """B: |a| is below it."""
    mask_bits: int
    """Of each contribution to the mask of a truncation."""
    contributors: int
    """T + 1."""

    @classmethod
    def choose(cls, params: Params, threshold: int, rows: int, largest: float) -> "Scale":
        """From what all owners know.

        Parameters
        ----------
        threshold : int
            T.
        rows : int
            m, of all owners.
        largest : float
            At least the absolute value of every feature.

        Raises
        ------
        UsageError
            If the bits that are asked for leave too few to hide.

        Notes
        -----
        w = 0 begins with residuals of norm √m/2, and no step makes them longer but for its rounding. With
        twice that for the rounding, |a_j| ≤ ‖x̄_j‖·√m ≤ m·max|x̄|, times the scale of s̄.
        """
        contributors = threshold + 1
        M = residues().modulus
        mask_bits = (M // contributors).bit_length() - 1
        while contributors * 2**mask_bits + (M >> 20) >= M:  # the bound of a is far below M / 2^20
            mask_bits -= 1
        free = mask_bits - params.kappa - 1 - math.ceil(math.log2(max(rows, 1) * largest)) - COEFFICIENT_BITS
        data_bits = params.data_bits
        if data_bits is None:
            left = free if params.weight_bits is None else 2 * (free - params.weight_bits)
            data_bits = max(0, min(left // 4, MOST_BITS))
        weight_bits = params.weight_bits
        if weight_bits is None:
            weight_bits = min(free - 2 * data_bits, MOST_BITS)
        bound = math.ceil(rows * largest * 2.0 ** (2 * data_bits + weight_bits + COEFFICIENT_BITS))
        scale = cls(data_bits, weight_bits, bound, mask_bits, contributors)
        if weight_bits < 1 or scale.hiding_bits < params.kappa:
            raise UsageError(
                f"--kappa must be at most {max(0, math.floor(scale.hiding_bits + min(weight_bits - 1, 0)))} for {rows} "
                f"rows with l_x={data_bits} and l_w={max(weight_bits, 1)}, got {params.kappa}"
            )
        return scale

    @property
    def hiding_bits(self) -> float:
        """κ of each number that is opened: views of two values differ by 2^-κ, in statistical distance, at most.

        Of the T + 1 contributions at least one is of an owner outside any T, uniform on 2^mask_bits numbers, and
        two values are less than 2B apart.
        """
        return self.mask_bits - math.log2(2 * self.bound)

    @property
    def residual_bits(self) -> int:
        """Behind the point of s̄ and ȳ."""
        return self.data_bits + self.weight_bits + COEFFICIENT_BITS

    @property
    def coefficients(self) -> list[int]:
        """c̄_0 and c̄_1."""
        return quantize_polynomial(sigmoid_polynomial(1), COEFFICIENT_BITS, self.data_bits + self.weight_bits)

    @property
    def slope(self) -> float:
        """c_1."""
        return float(self.coefficients[1]) * 2.0**-COEFFICIENT_BITS

    def step_bits(self, eigenvalue: float) -> int:
        """E of the step 2^-e, a power of two so that it is a truncation: the longest that is stable.

        Parameters
        ----------
        eigenvalue : float
            At least λ_max of XᵀX.
        """
        return max(0, math.ceil(math.log2(max(eigenvalue, 1e-9) * self.slope / STABLE)))

    def truncated_bits(self, step_bits: int) -> int:
        """What a loses on its way to the scale of w̄."""
        return 2 * self.data_bits + COEFFICIENT_BITS + step_bits

    def text(self) -> str:
        """For people."""
        return (
            f"l_x={self.data_bits}, l_w={self.weight_bits}, modulo three primes of 26 bits; an opened number tells at "
            f"most 2^-{self.hiding_bits:.1f} of what it hides"
        )
