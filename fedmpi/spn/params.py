"""What SPN is run with."""

from dataclasses import dataclass
from typing import Literal

from fedmpi.errors import UsageError
from fedmpi.learn.local_training import LocalTraining
from fedmpi.learn.names import AUTO
from fedmpi.rules import at_least, positive


@dataclass(frozen=True)
class Params:
    """Parameters of SPN [Fan et al. 2020, Tables 2 and 3].

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    method: Literal["spn", "fedavg", "dp", "ppdl", "standalone"] = "spn"
    """spn: secret polarization networks. fedavg: no defence. dp: noise on every gradient. ppdl: only the largest
    changes are shared, with noise if --noise-std is given. standalone: each client for itself, nothing is shared."""
    model: str = AUTO
    """mlp, cnn, dlnet, dlnet-tanh, alexnet, vgg16, or package.module:Class, called with (input_shape, classes); auto:
    dlnet for images, mlp for tables."""
    clients: int | None = None
    """Clients K, spread evenly over the ranks that host them. Default: one per rank."""
    aggregation: Literal["fedavg", "round-robin"] = "fedavg"
    """fedavg: the mean of all changes (Algorithm 3). round-robin: one client after another (Algorithm 4)."""
    rounds: int = 100
    """Rounds of training."""
    epochs: int = 1
    """Passes over its rows that a client makes in a round."""
    batch_size: int = 32
    """Rows of a batch."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """adam: β = 0.9, 0.999. sgd: with --momentum. Both begin anew in each round."""
    learning_rate: float = 0.003
    """Step size η."""
    momentum: float = 0.9
    """Momentum μ of local gradient descent, from zero in each round. Of --optimizer sgd."""
    decay_rounds: tuple[int, ...] = ()
    """Before these rounds η is halved: 100 200 in Table 3. Default: never."""
    partition: Literal["iid", "shards", "dirichlet"] = "iid"
    """How the rows are spread: evenly, two shards of rows sorted by label each, or Dirichlet(α) for each label."""
    dirichlet_alpha: float = 0.9
    """α of --partition dirichlet: small values give clients few labels."""
    split_by: str | None = None
    """Column whose values say whose a row is. Default: rows are dealt out by --partition."""
    alpha1: float = 1.0
    """spn: weight α₁ of the cross-entropy."""
    alpha2: float = 0.1
    """spn: weight α₂ of the polarization loss."""
    bits: int = 64
    """spn: bits K of a code: outputs of the secret network."""
    hidden: int = 256
    """spn: units of the secret network's hidden layer."""
    margin: float = 1.0
    """spn: margin m ≥ 1 of the polarization loss."""
    secret_reach: float | None = None
    """spn: draw the secret network's parameters from U(-reach, reach). Default: 0.3 for dlnet and dlnet-tanh (Table 2);
    for other models Kaiming's uniform (Table 3: of alexnet and vgg16), biases zero."""
    noise_std: float = 0.0
    """dp, ppdl: standard deviation σ of the noise of each coordinate. Of the gradient of every batch."""
    noise_kind: Literal["gaussian", "laplace"] = "gaussian"
    """dp, ppdl: distribution of the noise."""
    share_fraction: float = 0.05
    """ppdl: part θ of the coordinates that is sent. The largest changes are."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the clients' computation. Sums are float64."""
    device: str = "cpu"
    """Where clients compute: cpu, cuda, cuda:1, …; auto: each rank takes the GPU of its place on its machine."""

    def __post_init__(self) -> None:
        at_least(self, clients=1, rounds=1, bits=1, hidden=1, margin=1, alpha1=0, alpha2=0, noise_std=0)
        positive(self, "dirichlet_alpha", "secret_reach")
        if not 0 < self.share_fraction <= 1:
            raise UsageError(f"--share-fraction must be in (0, 1], got {self.share_fraction}")
        if self.noise_std and self.method not in ("dp", "ppdl"):
            raise UsageError(f"--noise-std must be given with dp or ppdl only, got --method {self.method}")
        if self.method == "dp" and not self.noise_std:
            raise UsageError("--noise-std must be positive with --method dp, got 0")
        _ = self.training

    @property
    def training(self) -> LocalTraining:
        """Epochs, batches and η of a client."""
        return LocalTraining(self.epochs, self.batch_size, self.learning_rate, self.momentum)

    def learning_rate_of(self, round_: int) -> float:
        """η in a round (counted from 0)."""
        return self.learning_rate * 0.5 ** sum(round_ >= start for start in self.decay_rounds)
