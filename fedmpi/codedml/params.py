"""What CodedPrivateML is run with."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import tyro

from fedmpi.codedml.transform import parse_scale
from fedmpi.core import DEFAULT_PRIME, LagrangeCode, PrimeField
from fedmpi.core.sigmoid import quantize_polynomial, sigmoid_polynomial
from fedmpi.errors import UsageError
from fedmpi.rules import at_least


@dataclass(frozen=True)
class Params:
    """Parameters of CodedPrivateML [So et al. 2021, section V].

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    method: Literal["coded", "bgw", "bh08", "plain"] = "coded"
    """coded: Lagrange-coded training on the workers. bgw, bh08: the baselines, multi-party computation between the
    workers. plain: conventional training on the master, not private."""
    model: Literal["logistic", "linear"] = "logistic"
    """logistic, or linear: least squares (Remark 1), with one real target."""
    parallelization: Annotated[int | None, tyro.conf.arg(aliases=["-K"])] = None
    """K: each worker holds 1/K of the coded data. Default: by --case."""
    privacy: Annotated[int | None, tyro.conf.arg(aliases=["-T"])] = None
    """T: so many colluding workers learn nothing. Default: by --case; of bgw and bh08 max(1, ⌊(N-G)/(2G)⌋)."""
    case: Literal[1, 2] | None = None
    """How N workers are used if K and T are not given. 1: T = 1, all else for speed. 2: half for privacy,
    T = max(1, ⌊(N-3)/(2(2r+1))⌋). In both K + T = ⌊(N-1)/(2r+1)⌋ + 1. Default: 2."""
    subgroups: Annotated[int, tyro.conf.arg(aliases=["-G"])] = 3
    """G: bgw and bh08 split the workers into so many groups, each with 1/G of the rows."""
    degree: Annotated[int, tyro.conf.arg(aliases=["-r"])] = 1
    """r: degree of the polynomial in place of the sigmoid."""
    fit_range: tuple[float, float] = (-5.0, 5.0)
    """The interval on which the polynomial is fitted to the sigmoid."""
    data_bits: int = 2
    """l_x: fractional bits of the features after scaling."""
    weight_bits: int = 6
    """l_w: fractional bits of the weights."""
    coefficient_bits: int = 3
    """l_c: fractional bits of the polynomial's coefficients."""
    prime: int = DEFAULT_PRIME
    """p: the field of the computation; 33554393, 67108859 or 2147483647."""
    iterations: int = 50
    """Iterations of training. J gradient steps."""
    learning_rate: str = "auto"
    """Step size η. 2/L, 1/L or a number; L = λ_max(X̄ᵀX̄)/(4m). auto: 2/L, for a linear model 1/L with
    L = λ_max(X̄ᵀX̄)/m."""
    decay: float = 0.0
    """Decreasing step (Remark 3): iteration t uses η / (1 + decay·t)."""
    scale: str = "max"
    """Divide the features by: max (their largest absolute value), none, or a number."""
    center: bool = False
    """Subtract each feature's mean first."""
    bias: bool = True
    """Add a column of ones."""
    byzantine: Annotated[int, tyro.conf.arg(aliases=["-A"])] = 0
    """A: catch up to so many lying workers, N ≥ R + 2A. bgw, bh08: where a group has members to spare."""
    spares: int = 0
    """Workers that may die or be slow, where K or T is chosen here: N ≥ R + 2A + spares."""
    insecure_repeatable_masks: bool = False
    """Masks from --seed instead of the operating system. For tests: whoever knows the seed sees the data."""

    def __post_init__(self) -> None:
        at_least(self, degree=1, subgroups=1, data_bits=0, weight_bits=0, coefficient_bits=0, iterations=1)
        at_least(self, decay=0, byzantine=0, spares=0)
        if self.case is not None and not self.parallelization is self.privacy is None:
            raise UsageError("--case must not be given together with -K or -T")
        if self.method in ("bgw", "bh08") and not self.parallelization is self.case is None:
            raise UsageError(f"-K and --case must not be given with --method {self.method}, which takes -T and -G")
        if self.method != "coded" and self.spares:
            raise UsageError(f"--spares must not be given with --method {self.method}, which needs every worker")
        if self.model == "linear" and self.degree != 1:
            raise UsageError(f"--degree must be 1 for a linear model, got {self.degree}")
        if self.scale != "max":
            parse_scale(self.scale)
        if self.learning_rate not in ("auto", "2/L", "1/L"):
            try:
                rate = float(self.learning_rate)
            except ValueError:
                rate = 0.0
            if not 0 < rate < float("inf"):
                raise UsageError(f"--learning-rate must be 2/L, 1/L or a positive number, got {self.learning_rate}")
        _ = self.field, self.coefficients  # raise where p is composite or a coefficient vanishes

    @cached_property
    def field(self) -> PrimeField:
        """F_p."""
        return PrimeField(self.prime)

    @cached_property
    def coefficients(self) -> list[int]:
        """c̄_0 … c̄_r, integers of scale r(l_x+l_w) + l_c. A linear model has s(z) = z exactly."""
        if self.model == "linear":
            return [0, 2**self.coefficient_bits]
        polynomial = sigmoid_polynomial(self.degree, *self.fit_range)
        return quantize_polynomial(polynomial, self.coefficient_bits, self.data_bits + self.weight_bits)

    @property
    def gradient_bits(self) -> int:
        """L = l_x + r(l_x + l_w) + l_c: the scale of a decoded gradient."""
        return self.data_bits + self.degree * (self.data_bits + self.weight_bits) + self.coefficient_bits

    def code(self, workers: int) -> LagrangeCode:
        """The Lagrange code for N workers.

        Raises
        ------
        UsageError
            If N workers can't reach the recovery threshold; the message shows the arithmetic.
        """
        f = 2 * self.degree + 1
        reserve = 2 * self.byzantine + self.spares
        usable = workers - reserve
        total = (usable - 1) // f + 1
        K, T = self.parallelization, self.privacy
        if K is None and T is None:
            if total < 2:
                raise UsageError(
                    f"the number of workers N must be at least {f}·(K+T-1)+1{self._reserve} = {f + 1 + reserve} "
                    f"for K = T = 1 and degree r={self.degree}, got N={workers} (start {f + 2 + reserve} ranks or more)"
                )
            T = 1 if self.case == 1 else max(1, (usable - 3) // (2 * f))
        if T is None:
            T = max(1, total - (K or 0))
        if K is None:
            K = max(1, total - T)
        code = LagrangeCode(self.field, K, T, workers, f)
        if workers < code.recovery_threshold + reserve:
            raise UsageError(
                f"the number of workers N must be at least R{self._reserve} = {code.recovery_threshold + reserve}, "
                f"got N={workers}"
            )
        return code

    @property
    def _reserve(self) -> str:
        """What N needs beyond R, for messages."""
        texts = {f" + 2A (A={self.byzantine})": self.byzantine, f" + {self.spares} spares": self.spares}
        return "".join(text for text, count in texts.items() if count)

    def groups(self, workers: int) -> tuple[int, list[range]]:
        """The threshold T and the ranks of each group for --method bgw and bh08.

        All groups have 2T + 1 workers but the last, which has the rest; T = ⌊(N-G)/(2G)⌋ by default.

        Raises
        ------
        UsageError
            If N workers are too few; the message shows the arithmetic.
        """
        G = self.subgroups
        T = max(1, (workers - G) // (2 * G)) if self.privacy is None else self.privacy
        if T < 1:
            raise UsageError(f"privacy T must be at least 1, got {T}")
        size = 2 * T + 1
        if workers < G * size:
            raise UsageError(
                f"the number of workers N must be at least G·(2T+1) = {G}·(2·{T}+1) = {G * size}, got N={workers}"
            )
        if self.byzantine > T:
            raise UsageError(
                f"--byzantine must be at most T={T} with --method {self.method}: a group of {size} does not notice "
                f"more liars, got {self.byzantine}"
            )
        starts = [1 + g * size for g in range(G)]
        return T, [range(a, b) for a, b in zip(starts, [*starts[1:], workers + 1], strict=True)]

    def step(self, largest_eigenvalue: float, rows: int) -> float:
        """η, rounded to 6 digits so that the last bits of a BLAS do not change the weights.

        Parameters
        ----------
        largest_eigenvalue : float
            λ_max(X̄ᵀX̄), X̄ in real units.
        rows : int
            m.
        """
        rule = self.learning_rate
        if rule == "auto":
            rule = "1/L" if self.model == "linear" else "2/L"
        if rule not in ("2/L", "1/L"):
            return float(rule)
        smoothness = largest_eigenvalue / ((1 if self.model == "linear" else 4) * rows)
        return float(f"{(2 if rule == '2/L' else 1) / smoothness:.6g}") if smoothness else 1.0
