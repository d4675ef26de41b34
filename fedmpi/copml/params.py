"""What COPML is run with."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from fedmpi.core import LagrangeCode, PrimeField
from fedmpi.errors import UsageError
from fedmpi.rules import at_least

POWER = 3
"""The degree 2r + 1 of what an owner computes, with a sigmoid of degree r = 1."""


@dataclass(frozen=True)
class Params:
    """Parameters of COPML [So et al. 2020, sections 3 and 5], whose sigmoid is a polynomial of degree r = 1.

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    method: Literal["copml", "bgw", "plain"] = "copml"
    """copml: Lagrange-coded training by the owners. bgw: the same training by products of Shamir shares, without
    coding. plain: the same in the clear on rank 0, not private."""
    parallelization: Annotated[int | None, tyro.conf.arg(aliases=["-K"])] = None
    """K: each owner computes on 1/K of the rows of all. Default: as large as N allows."""
    privacy: Annotated[int | None, tyro.conf.arg(aliases=["-T"])] = None
    """T: so many colluding owners learn nothing. Default: max(1, ⌊(N-3)/6⌋)."""
    encoding: Literal["joint", "own"] = "joint"
    """joint: as in the paper, rows are shared, and encoded on shares under masks that nobody knows. own: each owner
    encodes its rows itself, under its own masks; any T others see as little, for less traffic."""
    iterations: int = 50
    """Iterations of training."""
    data_bits: int | None = None
    """l_x: fractional bits of the features. Default: by the number of rows, so that --kappa holds."""
    weight_bits: int | None = None
    """l_w: fractional bits of the weights. Default: as many as --kappa leaves."""
    kappa: int = 40
    """κ: what is opened to round a shared number tells of it no more than 2^-κ, whatever it is."""
    byzantine: Annotated[int, tyro.conf.arg(aliases=["-A"])] = 0
    """A: catch up to so many lying owners, N ≥ R + 2A."""
    spares: int = 0
    """Ranks that may die or be slow, where K or T is chosen here: N ≥ R + 2A + spares. Once the rows are shared."""
    center: bool = False
    """Subtract each feature's mean first, before the features are scaled. Of images: the owners open the means of all
    rows, and learn them. Columns of tables are centred without it."""
    split_by: str | None = None
    """Column whose values say whose a row is. Default: every N-th row is an owner's."""

    def __post_init__(self) -> None:
        at_least(self, iterations=1, data_bits=0, weight_bits=0, kappa=1, byzantine=0, spares=0)
        at_least(self, parallelization=1, privacy=1)
        if self.method != "copml":
            for name, given in (
                ("-K", self.parallelization is not None),
                ("--encoding own", self.encoding != "joint"),
                ("--byzantine", self.byzantine),
                ("--spares", self.spares),
            ):
                if given:
                    raise UsageError(f"{name} must be given with --method copml, got {self.method}")

    def sizes(self, owners: int) -> dict[str, int]:
        """N, T, and K and R of the code.

        Raises
        ------
        UsageError
            If there are too few owners.
        """
        if self.method == "plain":
            return {"N": owners}
        if self.method == "bgw":
            T = self.privacy or max(1, (owners - 3) // 6)
            if owners < 2 * T + 1:
                raise UsageError(f"the number of owners N must be at least 2T + 1 = {2 * T + 1}, got N={owners}")
            return {"N": owners, "T": T}
        left = owners - 2 * self.byzantine - self.spares
        both = (left - 1) // POWER + 1  # K + T
        T = self.privacy or max(1, min((left - 3) // 6, both - (self.parallelization or 1)))
        K = self.parallelization or max(1, both - T)
        R = POWER * (K + T - 1) + 1
        if left < R:
            beside = f" + 2·{self.byzantine} + {self.spares}" if self.byzantine or self.spares else ""
            raise UsageError(
                f"the number of owners N must be at least {POWER}·(K+T-1)+1{beside} = "
                f"{POWER}·({K}+{T}-1)+1{beside} = {R + owners - left}, got N={owners}"
            )
        return {"N": owners, "T": T, "K": K, "R": R}

    def code(self, field: PrimeField, owners: int) -> LagrangeCode:
        """The code of the rows and the weights."""
        sizes = self.sizes(owners)
        return LagrangeCode(field, sizes["K"], sizes["T"], owners, POWER)
