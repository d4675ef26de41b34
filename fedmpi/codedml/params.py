"""What CodedPrivateML is run with."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from fedmpi.codedml.transform import SCALES, parse_scale
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
    """How N workers are used if K and T are not given. 1: T = 1, all else for speed. 2: T = max(1, ⌊(N-3)/6⌋), with a
    polynomial of degree r max(1, ⌊(N-3)/(2(2r+1))⌋). In both K + T = ⌊(N-1)/f⌋ + 1, f = 2, or 2r+1 with a
    polynomial. Default: 2."""
    subgroups: Annotated[int, tyro.conf.arg(aliases=["-G"])] = 3
    """G: bgw and bh08 split the workers into so many groups, each with 1/G of the rows."""
    degree: Annotated[int | None, tyro.conf.arg(aliases=["-r"])] = None
    """r: degree of a polynomial in place of the sigmoid, for one exchange an iteration as in the paper; with r = 1 the
    model is one of least squares. Default: no polynomial. The workers multiply by X, the master applies the sigmoid
    itself (softmax for more than two classes), and the workers multiply by Xᵀ. Default of bgw and bh08: 1."""
    fit_range: tuple[float, float] | None = None
    """The interval on which the polynomial is fitted to the sigmoid. Default: -5 5; where r is 3 or more and l_w and
    l_c are not given, what XW takes, anew in each iteration."""
    bits: Literal["auto", "paper"] = "auto"
    """How the bits and the primes below are chosen, where they are not given. auto: from the norms of the data, before
    any of it is sent, so that the rounding error of a vector stays below 1/32 of its size. paper: l_x=2, l_w=6, l_c=3,
    p=33554393."""
    data_bits: int | None = None
    """l_x: fractional bits of the features after scaling. Default: by --bits."""
    weight_bits: int | None = None
    """l_w: fractional bits of the weights, with a polynomial. Default: by --bits; auto: as many as fit, anew in each
    iteration."""
    coefficient_bits: int | None = None
    """l_c: fractional bits of the polynomial's coefficients. Default: by --bits; auto: the weights take them up."""
    prime: int | None = None
    """p: the field of the computation; 33554393, 67108859 or 2147483647. Default: by --bits."""
    primes: Literal[1, 2, 3] | None = None
    """Compute modulo so many primes of 26 bits side by side: 25, 51 or 77 bits of range for 1, 2 or 3 times the work.
    Default: by --bits."""
    iterations: int = 50
    """Iterations of training. At most so many, J, see --tolerance."""
    tolerance: float | None = None
    """Stop once further steps promise to lower the objective by less than this part of it; 0: never. Default: 0.001,
    below 10000 rows 1e-7 of their number, but not less than 0.0001; of a linear model 0.00001; of nesterov and gradient
    0."""
    solver: Literal["lbfgs", "cg", "nesterov", "gradient"] | None = None
    """lbfgs, cg: quasi-Newton or conjugate directions, with a line search by the master that costs no byte. nesterov:
    accelerated gradient steps. gradient: the paper's. Default: lbfgs, with r = 1 cg."""
    l2: float | None = None
    """Weight of ½‖w‖² beside the loss summed over the rows, w in units of the scaled features: scikit-learn's 1/C. The
    intercept is not penalized. Default: 1; of a linear model, and with --paper, 0."""
    learning_rate: str = "auto"
    """Step size η of nesterov and gradient. 2/L, 1/L or a number; L = λ_max(X̄ᵀX̄)/(4m). auto: 2/L; with nesterov or a
    linear model, where L = λ_max(X̄ᵀX̄)/m, 1/L."""
    decay: float = 0.0
    """Decreasing step of gradient (Remark 3): iteration t uses η / (1 + decay·t)."""
    average: bool = False
    """End with the mean of the weights of all iterations, of which Theorem 1 speaks; with --solver gradient."""
    scale: str | None = None
    """Divide the features by: column (each by its largest absolute value; outliers, left aside, are cut off at 3 times
    that, of a linear model at 1000 times), std (each by its standard deviation), max (all by the largest absolute
    value), none, or a number. Default: column; with --paper max."""
    center: bool = False
    """Subtract each feature's mean first, before the features are scaled."""
    bias: bool = True
    """Train an intercept."""
    paper: bool = False
    """Train as the paper does: -r 1 --bits paper --scale max --solver gradient --l2 0, where these are not given."""
    byzantine: Annotated[int, tyro.conf.arg(aliases=["-A"])] = 0
    """A: catch up to so many lying workers, N ≥ R + 2A. bgw, bh08: where a group has members to spare."""
    spares: int = 0
    """Ranks that may die or be slow, where K or T is chosen here: N ≥ R + 2A + spares."""
    insecure_repeatable_masks: bool = False
    """Masks from --seed instead of the operating system. For tests: whoever knows the seed sees the data."""

    def __post_init__(self) -> None:
        for name, value in self._unset().items():
            object.__setattr__(self, name, value)
        at_least(self, degree=1, subgroups=1, data_bits=0, weight_bits=0, coefficient_bits=0, iterations=1)
        at_least(self, decay=0, byzantine=0, spares=0, tolerance=0, l2=0)
        if self.case is not None and not self.parallelization is self.privacy is None:
            raise UsageError("--case must not be given together with -K or -T")
        if self.method in ("bgw", "bh08") and not self.parallelization is self.case is None:
            raise UsageError(f"-K and --case must not be given with --method {self.method}, which takes -T and -G")
        if self.method != "coded" and self.spares:
            raise UsageError(f"--spares must not be given with --method {self.method}, which needs every worker")
        if self.model == "linear" and self.degree not in (None, 1):
            raise UsageError(f"--degree must be 1 for a linear model, got {self.degree}")
        if self.scale not in SCALES:
            parse_scale(str(self.scale))
        self._check_solver()
        self._check_bits()
        if self.learning_rate not in ("auto", "2/L", "1/L"):
            try:
                rate = float(self.learning_rate)
            except ValueError:
                rate = 0.0
            if not 0 < rate < float("inf"):
                raise UsageError(f"--learning-rate must be 2/L, 1/L or a positive number, got {self.learning_rate}")

    def _unset(self) -> dict[str, Any]:
        """What holds for options that are not given, and for which the data is not needed."""
        degree = self.degree
        if degree is None and (self.paper or self.method in ("bgw", "bh08")):
            degree = 1
        bits = "paper" if self.paper else self.bits
        steps = self.paper or self.weight_bits is not None or (bits == "paper" and degree is not None)
        solver = self.solver or ("gradient" if steps else "cg" if degree in (1, 2) else "lbfgs")
        defaults: dict[str, Any] = {
            "degree": degree,
            "bits": bits,
            "scale": "max" if self.paper else "column",
            "solver": solver,
            "l2": 0.0 if self.paper or self.model == "linear" else 1.0,
            "tolerance": 0.0 if solver in ("nesterov", "gradient") else 1e-5 if self.model == "linear" else None,
        }
        if bits == "paper":
            defaults |= {
                "data_bits": 2,
                "weight_bits": 6 if degree else None,
                "coefficient_bits": 3 if degree else None,
            }
            if self.primes is None:
                defaults["prime"] = DEFAULT_PRIME
        return {name: value for name, value in defaults.items() if name == "bits" or getattr(self, name) is None}

    def _check_solver(self) -> None:
        if self.average and self.solver != "gradient":
            raise UsageError(f"--average must be used with --solver gradient, got {self.solver}")
        if self.solver == "cg" and self.degree is not None and self.degree > 2 and self.method != "plain":
            raise UsageError(f"--solver cg must be used with -r 1 or no -r, got {self.degree}: take lbfgs")

    def _check_bits(self) -> None:
        if self.prime is not None and self.primes is not None:
            raise UsageError("--prime and --primes must not be given together")
        if self.method == "plain":
            return
        if self.degree is None and (self.weight_bits, self.coefficient_bits) != (None, None):
            raise UsageError(
                "--weight-bits and --coefficient-bits must be used with a polynomial, -r 1 or more, got none"
            )
        if self.fit_range is not None:
            self._check_fit_range(*self.fit_range)
        if (self.weight_bits is None) != (self.coefficient_bits is None):
            raise UsageError("--weight-bits and --coefficient-bits must be given together, got one of them")
        if self.fixed_bits and self.solver in ("lbfgs", "cg"):
            raise UsageError(f"--weight-bits must be used with --solver gradient or nesterov, got {self.solver}")
        if self.prime is not None:
            PrimeField(self.prime)  # raises where it is composite
        if self.fixed_bits and self.data_bits is not None:
            _ = self.coefficients  # raises where a coefficient vanishes

    def _check_fit_range(self, low: float, high: float) -> None:
        if self.degree is None:
            raise UsageError("--fit-range must be used with a polynomial, -r 1 or more, got none")
        sigmoid_polynomial(self.degree, low, high)  # raises where the range does not rise
        if not self.fixed_bits and low != -high:
            raise UsageError(
                f"--fit-range must be as wide on both sides of 0 unless --weight-bits are given, got {low} {high}"
            )

    @property
    def penalty(self) -> float:
        """λ of λ/2 ‖w‖²."""
        return self.l2 or 0.0

    def stop_below(self, rows: int) -> float:
        """The tolerance for so many rows of training data; 0 where training never stops early."""
        return min(max(rows * 1e-7, 1e-4), 1e-3) if self.tolerance is None else self.tolerance

    @property
    def fixed_bits(self) -> bool:
        """Whether the weights have a fixed number of fractional bits, as in the paper."""
        return self.weight_bits is not None

    @property
    def exact(self) -> bool:
        """Whether the sigmoid itself is used, in two exchanges an iteration, and no polynomial."""
        return self.degree is None

    @property
    def softmax(self) -> bool:
        """Whether more than two classes share one softmax; with a polynomial each is trained against the rest."""
        return self.exact

    @property
    def has_ones(self) -> bool:
        """Whether X̄ has a column of ones: polynomials of XW need it, and so do steps in the units of X̄."""
        return self.bias and (self.degree is not None or self.solver in ("nesterov", "gradient"))

    @property
    def interval(self) -> tuple[float, float]:
        """Where the polynomial is fitted, if that does not follow the data."""
        return (-5.0, 5.0) if self.fit_range is None else self.fit_range

    @property
    def coefficients(self) -> list[int]:
        """c̄_0 … c̄_r, integers of scale r(l_x+l_w) + l_c. A linear model has s(z) = z exactly."""
        assert self.degree is not None and self.data_bits is not None
        assert self.weight_bits is not None and self.coefficient_bits is not None
        if self.model == "linear":
            return [0, 2**self.coefficient_bits]
        polynomial = sigmoid_polynomial(self.degree, *self.interval)
        return quantize_polynomial(polynomial, self.coefficient_bits, self.data_bits + self.weight_bits)

    @property
    def gradient_bits(self) -> int:
        """L = l_x + r(l_x + l_w) + l_c: the scale of a decoded gradient."""
        assert self.degree is not None and self.data_bits is not None
        assert self.weight_bits is not None and self.coefficient_bits is not None
        return self.data_bits + self.degree * (self.data_bits + self.weight_bits) + self.coefficient_bits

    @property
    def power(self) -> int:
        """The degree of what a worker computes in its coded inputs: 2r + 1, or 2 for a product of two."""
        return 2 if self.degree is None else 2 * self.degree + 1

    def code(self, workers: int, field: PrimeField | None = None) -> LagrangeCode:
        """The Lagrange code for N workers, by default over 2^25 - 39.

        Raises
        ------
        UsageError
            If N workers can't reach the recovery threshold; the message shows the arithmetic.
        """
        f = self.power
        reserve = 2 * self.byzantine + self.spares
        usable = workers - reserve
        total = (usable - 1) // f + 1
        K, T = self.parallelization, self.privacy
        if K is None and T is None:
            if total < 2:
                raise UsageError(
                    f"the number of workers N must be at least {f}·(K+T-1)+1{self._reserve} = {f + 1 + reserve} "
                    f"for K = T = 1{self._degree_text}, got N={workers} (start {f + 2 + reserve} ranks or more)"
                )
            T = 1 if self.case == 1 else max(1, (usable - 3) // (2 * max(f, 3)))
        if T is None:
            T = max(1, total - (K or 0))
        if K is None:
            K = max(1, total - T)
        code = LagrangeCode(field or PrimeField(), K, T, workers, f)
        if workers < code.recovery_threshold + reserve:
            raise UsageError(
                f"the number of workers N must be at least R{self._reserve} = {code.recovery_threshold + reserve}, "
                f"got N={workers}"
            )
        return code

    @property
    def _degree_text(self) -> str:
        return "" if self.degree is None else f" and degree r={self.degree}"

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
            rule = "1/L" if self.model == "linear" or self.solver == "nesterov" else "2/L"
        if rule not in ("2/L", "1/L"):
            return float(rule)
        smoothness = largest_eigenvalue / ((1 if self.model == "linear" else 4) * rows)
        return float(f"{(2 if rule == '2/L' else 1) / smoothness:.6g}") if smoothness else 1.0
