"""What is attacked, and how."""

from dataclasses import dataclass, replace
from typing import Literal

from fedmpi.attacks import deep_leakage, inverting
from fedmpi.errors import UsageError


@dataclass(frozen=True)
class Params:
    """An attack on the gradients of fresh models, each of one batch of the test part.

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    attack: Literal["linear", "dlg", "textbook", "inverting", "secret-head"] = "dlg"
    """linear: the input of a first fully connected layer, in closed form. dlg: deep leakage. textbook: the same as in
    the DLG paper's program. inverting: cosine distance, signed Adam. secret-head: dlg by who knows of SPN."""
    model: str = "dlnet"
    """mlp, cnn, dlnet, dlnet-tanh, alexnet, vgg16, or package.module:Class."""
    reach: float | None = None
    """Draw all parameters from U(-reach, reach). Default: as the model does (dlnet: 0.3; the DLG program has 0.5)."""
    defence: Literal["none", "dp", "ppdl", "spn"] = "none"
    """What the client does to its gradient."""
    noise: float = 0.0
    """σ of --defence dp and ppdl."""
    noise_kind: Literal["gaussian", "laplace"] = "gaussian"
    """Of the noise."""
    fraction: float = 0.05
    """θ of --defence ppdl: the part of the gradient that is sent, the largest magnitudes first."""
    alpha: float = 0.1
    """α₂ of --defence spn: weight of the polarization loss."""
    bits: int = 64
    """K of --defence spn."""
    hidden: int = 256
    """Units of the secret layer of --defence spn."""
    margin: float = 1.0
    """m of --defence spn."""
    cases: int = 6
    """Attacks: case i has seed i, and batch i of the test part."""
    first: int = 0
    """The first case."""
    batch_size: int = 1
    """Rows whose mean gradient is attacked."""
    steps: int | None = None
    """At most. Default: dlg and secret-head 150, textbook 300 (of L-BFGS, 20 iterations each); inverting 2400."""
    init: Literal["grey", "normal", "uniform", "pattern"] = "grey"
    """Where dlg and secret-head begin."""
    success: float = 1e-3
    """An image counts as recovered below this mean squared error, with pixels in [0, 1]."""

    def __post_init__(self) -> None:
        for name in ("cases", "batch_size", "bits", "hidden"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if self.first < 0 or (self.steps is not None and self.steps < 1):
            raise UsageError(f"--first must not be negative and --steps at least 1, got {self.first} and {self.steps}")
        if not 0 < self.fraction <= 1:
            raise UsageError(f"--fraction must be in (0, 1], got {self.fraction}")
        if not (0 <= self.noise < float("inf") and 0 <= self.alpha < float("inf")):
            raise UsageError(f"--noise and --alpha must not be negative, got {self.noise} and {self.alpha}")
        if not 1 <= self.margin < float("inf"):
            raise UsageError(f"--margin must be at least 1, got {self.margin}")
        if self.reach is not None and not 0 < self.reach < float("inf"):
            raise UsageError(f"--reach must be positive, got {self.reach}")
        if self.attack in ("linear", "inverting", "secret-head") and self.batch_size != 1:
            raise UsageError(f"--batch-size must be 1 for --attack {self.attack}, got {self.batch_size}")

    @property
    def search(self) -> deep_leakage.Settings:
        """Of deep leakage."""
        base = deep_leakage.TEXTBOOK if self.attack == "textbook" else deep_leakage.DEFAULT
        base = replace(base, steps=self.steps or base.steps)
        if self.attack == "textbook":
            return base
        return replace(base, init=self.init, sent_only=self.defence == "ppdl")

    @property
    def inversion(self) -> inverting.Settings:
        """Of inverting gradients."""
        return inverting.Settings() if self.steps is None else inverting.Settings(steps=self.steps)
