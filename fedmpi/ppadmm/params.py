"""What PPADMM is run with."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

from fedmpi.crypto.masks import KINDS, MaskKind
from fedmpi.errors import UsageError
from fedmpi.rules import at_least, positive

SUMS, SQUARES, FIRST_ITERATION = 0, 1, 2
"""The stages of a training: what is added up first, then, and from then on."""


AHEAD_BYTES = 1 << 20
"""Masks that a participant makes ahead in one go."""


@dataclass(frozen=True)
class Params:
    """Parameters of PPADMM, public to all ranks.

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    method: Literal["ppadmm", "admm", "dssgd"] = "ppadmm"
    """ppadmm: consensus ADMM, masked updates. admm: the same in the clear, not private. dssgd: distributed selective
    SGD with Laplace noise [Shokri and Shmatikov 2015]."""
    penalty: float = 10.0
    """λ of λ(r‖x‖₁ + (1−r)/2·‖x‖₂²) beside ½‖Ax − b‖²; scikit-learn's Lasso calls λ/m alpha."""
    l1_ratio: float = 1.0
    """r: 1 for the Lasso, 0 for ridge regression, between them the elastic net."""
    rho: str = "auto"
    """ρ of the augmented Lagrangian, for scaled columns and targets: a number; mean: the mean eigenvalue of the
    A_iᵀA_i; auto: that, and from there on what balances the residuals [Boyd et al. 2011, section 3.4.1]."""
    iterations: int = 500
    """Iterations of training. At most so many, see --tolerance."""
    tolerance: float = 1e-10
    """Stop when primal and dual residual are below it, absolute and relative [Boyd et al. 2011, section 3.3.1];
    0 for all iterations."""
    fit_intercept: bool = True
    """Centre features and targets by their means, which are added up under masks too."""
    standardize: bool = False
    """Penalize the coefficients of features that are divided by their standard deviations, in place of those of the
    features as they are."""
    fraction_bits: int = 40
    """Bits f behind the point of masked numbers. An update is rounded to 2^−f."""
    mask: MaskKind = "aes-ctr"
    """sha256: digests in counter mode, as in the paper. aes-ctr, chacha20: a keystream a round."""
    precompute: bool = False
    """Make the masks of all iterations before the training starts."""
    rekey_every: int = 0
    """Rounds after which participants and S2 agree on new keys; 0: never."""
    min_participants: int | None = None
    """S2 answers for no set smaller than this. Default: max(2, ⌈N/2⌉)."""
    on_dropout: Literal["stop", "continue", "rejoin"] = "continue"
    """When a participant dies or misses the deadline: stop the run; continue without it; or let it return."""
    deadline: float = 60.0
    """Seconds that a round waits for an update."""
    epsilon: float = 1.0
    """dssgd: ε of one upload. A participant makes one in each iteration."""
    share_fraction: float = 0.1
    """dssgd: part θ of the coordinates that is sent. They are drawn at random."""
    coordinate_clip: float = 10.0
    """dssgd: γ, each coordinate of a gradient is clipped to [−γ, γ]."""
    learning_rate: float = 0.5
    """dssgd: step size η."""
    split_by: str | None = None
    """Column whose values say whose a row is. Default: rows are dealt out evenly."""

    def __post_init__(self) -> None:
        at_least(self, penalty=0, tolerance=0, fraction_bits=0, iterations=1, rekey_every=0, min_participants=2)
        positive(self, "deadline", "epsilon", "coordinate_clip", "learning_rate")
        if self.fraction_bits > 52:
            raise UsageError(f"--fraction-bits must be at most 52, the bits of a double, got {self.fraction_bits}")
        if not 0 <= self.l1_ratio <= 1:
            raise UsageError(f"--l1-ratio must be in [0, 1], got {self.l1_ratio}")
        if not 0 < self.share_fraction <= 1:
            raise UsageError(f"--share-fraction must be in (0, 1], got {self.share_fraction}")
        if self.mask not in KINDS:
            raise UsageError(f"--mask must be one of {', '.join(KINDS)}, got {self.mask}")
        if self.method == "dssgd" and self.standardize:
            raise UsageError("--standardize must not be given with --method dssgd, which has no secure sum for it")
        if self.method == "dssgd" and self.on_dropout == "rejoin":
            raise UsageError("--on-dropout must be stop or continue with --method dssgd, got rejoin")
        if self.precompute and self.rekey_every:
            raise UsageError("--precompute must not be given together with --rekey-every, which changes the keys")
        if self.rho not in ("auto", "mean"):
            try:
                rho = float(self.rho)
            except ValueError:
                rho = 0.0
            if not 0 < rho < float("inf"):
                raise UsageError(f"--rho must be auto, mean or a positive number, got {self.rho}")

    def fewest(self, participants: int) -> int:
        """The smallest set that S2 answers for.

        Raises
        ------
        UsageError
            If there are fewer participants than that.
        """
        fewest = max(2, -(-participants // 2)) if self.min_participants is None else self.min_participants
        if participants < fewest:
            ranks = f"(start {fewest + 2} ranks or more: two servers and the participants)"
            raise UsageError(f"the number of participants N must be at least {fewest}, got N={participants} {ranks}")
        return fewest

    def first_rho(self, curvature: float) -> float:
        """ρ of the first iteration, from the mean eigenvalue of the A_iᵀA_i."""
        return curvature if self.rho in ("auto", "mean") else float(self.rho)

    def tells(self, stiffness: float) -> bool:
        """Whether the fixed point tells residuals of the tolerance from 0, with ρ so many times the mean eigenvalue.

        An update is rounded to 2^−f, which moves the gradient by ρ times that: an iteration that stands still may be
        one whose steps are too small for the fixed point.
        """
        if self.method != "ppadmm" or not self.tolerance:
            return True
        return stiffness * 2.0 ** -(self.fraction_bits + 1) <= self.tolerance

    def epoch(self, round: int) -> int:
        """Which keys mask this round."""
        return round // self.rekey_every if self.rekey_every else 0

    def coming_rounds(self, first: int, count: int) -> range:
        """The rounds of one epoch, from the first on, whose masks of `count` words a participant makes in one go.

        Code and tables of a cipher have left the caches after each update: many small masks cost little more than one.
        """
        first = max(first, FIRST_ITERATION)
        stop = min(first + max(1, AHEAD_BYTES // (8 * count)), self.precomputed_rounds.stop)
        return range(first, min(stop, (self.epoch(first) + 1) * self.rekey_every) if self.rekey_every else stop)

    @property
    def precomputed_rounds(self) -> range:
        """The rounds whose masks --precompute makes: those of the iterations, if none fails."""
        return range(FIRST_ITERATION, FIRST_ITERATION + self.iterations)

    def to_json(self) -> str:
        """All values, in an order of their own."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)
