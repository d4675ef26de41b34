"""What is attacked, and how."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fedmpi.errors import UsageError
from fedmpi.rules import at_least, positive

if TYPE_CHECKING:
    from fedmpi.attacks import deep_leakage, inverting


SEARCHES = ("dlg", "textbook", "inverting", "secret-head")
"""Attacks that follow the derivatives of a model."""

DESCRIPTION = "Reconstruct rows of the test part from the gradients that a client shares of them."


@dataclass(frozen=True)
class Params:
    """An attack on the gradients of fresh models, each of one batch of the test part.

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    attack: Literal["linear", "dlg", "textbook", "inverting", "secret-head", "spear", "cocktail"] = "dlg"
    """linear: the input of a first fully connected layer, in closed form. dlg: deep leakage. textbook: the same as in
    the DLG paper's program. inverting: signed Adam on the features that a fully connected layer tells, else on the
    cosine distance. secret-head: dlg by who knows of SPN. spear: a whole batch, from the gradient of a first fully
    connected layer with ReLU. cocktail: images of a large batch, nearly, from the gradient of such a layer."""
    model: str = "dlnet"
    """mlp, logistic, cnn, dlnet, dlnet-tanh, alexnet, vgg16, or package.module:Class, called with (input_shape,
    classes)."""
    reach: float | None = None
    """Draw all parameters from U(-reach, reach). Default: as the model does (dlnet: 0.3; the DLG program has 0.5)."""
    weights: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of a run of `fedmpi run` that ended with such a model: its weights, in every case. Default: fresh ones."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the clients' computation. dlg and secret-head search in float64 whatever it is, textbook in float32."""
    device: str = "cpu"
    """Where dlg, textbook, inverting and secret-head search: cpu, cuda, cuda:1, …; auto: each rank takes the GPU of its
    place on its machine. The other attacks are linear algebra on the processor."""
    defence: Literal["none", "dp", "ppdl", "spn"] = "none"
    """What the client does to its gradient."""
    noise_std: float = 0.0
    """dp, ppdl: standard deviation σ of the noise of each coordinate."""
    noise_kind: Literal["gaussian", "laplace"] = "gaussian"
    """dp, ppdl: distribution of the noise."""
    share_fraction: float = 0.05
    """ppdl: part θ of the coordinates that is sent. The largest are."""
    alpha2: float = 0.1
    """spn: weight α₂ of the polarization loss."""
    bits: int = 64
    """spn: bits K of a code: outputs of the secret network."""
    hidden: int = 256
    """spn: units of the secret network's hidden layer."""
    margin: float = 1.0
    """spn: margin m ≥ 1 of the polarization loss."""
    secret_reach: float | None = None
    """spn: draw the secret network's parameters from U(-reach, reach). Default: 0.3 for dlnet and dlnet-tanh; for other
    models Kaiming's uniform, biases zero."""
    cases: int = 6
    """Attacks that are made: case i has seed i, and batch i of the test part."""
    first: int = 0
    """Number of the first case."""
    batch_size: int = 1
    """Rows of a batch. Its mean gradient is attacked."""
    steps: int | None = None
    """Steps of the search, at most. Default: dlg and secret-head 150, textbook 300 (of L-BFGS, 20 iterations each),
    inverting 2400, spear 20000 (starts)."""
    smoothness: float = 0.01
    """inverting: weight of the total variation of an image, which noise has much of."""
    colour: float = 3.0
    """inverting: how many times as much as the brightness of an image its colours count in its total variation."""
    init: Literal["grey", "normal", "uniform", "pattern"] = "grey"
    """Where dlg and secret-head begin: an image of this kind."""
    success: float = 1e-3
    """A row counts as recovered below this mean squared error: of images with pixels in [0, 1], of tables with each
    column in units of its standard deviation."""

    def __post_init__(self) -> None:
        at_least(self, cases=1, batch_size=1, bits=1, hidden=1, margin=1, steps=1, first=0, noise_std=0, alpha2=0)
        at_least(self, smoothness=0, colour=0)
        positive(self, "reach", "secret_reach")
        if not 0 < self.share_fraction <= 1:
            raise UsageError(f"--share-fraction must be in (0, 1], got {self.share_fraction}")
        if self.weights is not None and self.reach is not None:
            raise UsageError(f"--reach must not be given with --weights, got {self.reach}")
        if self.device != "cpu" and self.attack not in SEARCHES:
            raise UsageError(f"--device must be cpu for --attack {self.attack}, got {self.device}")
        if self.attack in ("linear", "secret-head") and self.batch_size != 1:
            raise UsageError(f"--batch-size must be 1 for --attack {self.attack}, got {self.batch_size}")

    @property
    def search(self) -> "deep_leakage.Settings":
        """Of deep leakage."""
        from fedmpi.attacks import deep_leakage

        base = deep_leakage.TEXTBOOK if self.attack == "textbook" else deep_leakage.DEFAULT
        base = replace(base, steps=self.steps or base.steps)
        if self.attack == "textbook":
            return base
        return replace(base, init=self.init, sent_only=self.defence == "ppdl")

    @property
    def inversion(self) -> "inverting.Settings":
        """Of inverting gradients."""
        from fedmpi.attacks import inverting

        base = inverting.Settings(smoothness=self.smoothness, colour=self.colour)
        return base if self.steps is None else replace(base, steps=self.steps)
