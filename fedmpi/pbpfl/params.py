"""What PBPFL is run with."""

from dataclasses import dataclass
from typing import Literal

from fedmpi.errors import UsageError
from fedmpi.rules import at_least, positive
from fedmpi.securesum.double_masking import DoubleMasking

VALUES = frozenset(["bank", "wine", "diabetes"])
"""Data sets whose label is a number to be predicted, unless --target says otherwise."""

EPOCHS, FEWEST_ROUNDS = 5, 600
"""Of a training that is given neither --total-epochs nor --rounds."""


@dataclass(frozen=True)
class Params:
    """Parameters of PBPFL [Feng et al. 2020, section 5.1].

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    method: Literal["pbpfl", "pbpfl-masked", "fedavg-mse", "fedavg-ce"] = "pbpfl"
    """pbpfl: clients train perturbed weights. pbpfl-masked: besides, the server sees no client's gradient alone.
    fedavg-mse, fedavg-ce: the same rounds in the clear, with squared error or cross-entropy."""
    model: str = "mlp-3"
    """mlp-3, mlp-5, mlp-7 (64 hidden units a layer), resnet20, resnet32, resnet56, mlp, cnn, or
    package.module:Class, called with (input_shape, outputs)."""
    clients: int | None = None
    """Clients K, spread evenly over the ranks that host them. Default: one per rank."""
    total_epochs: int | None = None
    """Passes in all over the rows of the client that has most; a round is one batch of every client. Default: 5, but
    so many that there are at least 600 rounds."""
    rounds: int | None = None
    """Rounds of training. Default: those of --total-epochs."""
    batch_size: int = 32
    """Rows of a batch. A client has one in a round."""
    learning_rate: float = 0.2
    """Step size η."""
    target: Literal["auto", "classes", "value"] = "auto"
    """classes: one output for each, 0 or 1. value: one output. auto: value for bank, wine and diabetes."""
    scale_target: bool = True
    """Train a value with mean 0 and deviation 1; the model gives it in its own units."""
    partition: Literal["iid", "shards", "dirichlet"] = "iid"
    """How the rows are spread: evenly, two shards of rows sorted by label each, or Dirichlet(α) for each label."""
    dirichlet_alpha: float = 0.5
    """α of --partition dirichlet: small values give clients few labels."""
    split_by: str | None = None
    """Column whose values say whose a row is. Default: rows are dealt out by --partition."""
    scaling: float = 10.0
    """pbpfl, pbpfl-masked: each r is drawn log-uniformly from [1/scaling, scaling]."""
    gamma_range: tuple[float, float] = (0.5, 2.0)
    """pbpfl, pbpfl-masked: the interval from which γ is drawn uniformly. 0 0: no noise on the outputs, so that clients
    see true predictions, and the server a gradient alone, as in federated averaging."""
    dropout: float = 0.0
    """For experiments: the probability that a client is lost in a round. It is lost before it sends its gradient."""
    threshold: int | None = None
    """pbpfl-masked: so many clients must be left in a round, and as many together could unmask one.
    Default: ⌊K/2⌋ + 1."""
    ring_bits: Literal[32, 64] = 64
    """pbpfl-masked: bits of the words that masked numbers travel in."""
    fraction_bits: int | None = None
    """pbpfl-masked: bits f behind the point of masked numbers. Default: 40 of 64, or 16 of 32."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the clients' computation. What travels has it too."""
    device: str = "cpu"
    """Where clients compute: cpu, cuda, cuda:1, …; auto: each rank takes the GPU of its place on its machine."""

    def __post_init__(self) -> None:
        at_least(self, clients=1, total_epochs=1, rounds=1, batch_size=1, threshold=2, scaling=1)
        positive(self, "learning_rate", "dirichlet_alpha")
        low, high = self.gamma_range
        if not (0 < low <= high < float("inf") or low == high == 0):
            raise UsageError(f"--gamma-range must be two positive numbers in order, or 0 0, got {low} {high}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout must be in [0, 1), got {self.dropout}")
        most = self.ring_bits - 2
        if self.fraction_bits is not None and not 0 <= self.fraction_bits <= most:
            raise UsageError(f"--fraction-bits must be in [0, {most}], got {self.fraction_bits}")

    @property
    def perturbed(self) -> bool:
        """Whether clients get perturbed weights."""
        return self.method in ("pbpfl", "pbpfl-masked")

    @property
    def corrected(self) -> bool:
        """Whether there is noise on the outputs, which σ and β take away again."""
        return self.perturbed and self.gamma_range[1] > 0

    @property
    def masked(self) -> bool:
        """Whether uploads are masked."""
        return self.method == "pbpfl-masked"

    @property
    def terms(self) -> int:
        """Vectors in an upload: gradient, σ and β, or the gradient alone."""
        return 3 if self.corrected else 1

    @property
    def item_bytes(self) -> int:
        """Bytes of a number in the clear."""
        return {"float32": 4, "float64": 8}[self.dtype]

    @property
    def fraction(self) -> int:
        """Bits behind the point of masked numbers."""
        if self.fraction_bits is not None:
            return self.fraction_bits
        return {32: 16, 64: 40}[self.ring_bits]

    def least_clients(self, clients: int) -> int:
        """How many of K clients must be left in a round.

        Raises
        ------
        UsageError
            If K clients can't hide anything, or are fewer than --threshold.
        """
        if not self.masked:
            return 1
        least = self.threshold if self.threshold is not None else clients // 2 + 1
        if not 2 <= least <= clients:
            raise UsageError(f"--method pbpfl-masked must have at least {max(least, 2)} clients, got {clients}")
        return least

    def secure_sum(self, clients: int, h: int) -> DoubleMasking:
        """How K clients add up their terms, `terms` times h numbers."""
        dtype = f"<u{self.ring_bits // 8}"
        return DoubleMasking(clients, self.least_clients(clients), self.terms * h, dtype)

    def wants_value(self, dataset: str) -> bool:
        """Whether the label of a data set is a number to be predicted."""
        value = self.target == "value" or (self.target == "auto" and dataset in VALUES)
        if value and self.method == "fedavg-ce":
            raise UsageError(f"--target must be classes with --method fedavg-ce, got {self.target} on {dataset}")
        if value and self.partition != "iid":
            raise UsageError(f"--partition must be iid where the label is a value, got {self.partition}")
        return value

    def total_rounds(self, largest_client: int) -> int:
        """Rounds of training, where the client that has most has so many rows."""
        if self.rounds is not None:
            return self.rounds
        epoch = -(-largest_client // self.batch_size)
        return max(EPOCHS * epoch, FEWEST_ROUNDS) if self.total_epochs is None else self.total_epochs * epoch
