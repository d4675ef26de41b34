"""How a client trains in a round. The command line reads this too: torch is imported only where it computes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError
from fedmpi.rules import at_least, positive

if TYPE_CHECKING:
    import torch

    from fedmpi.learn.inputs import Inputs


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains in a round.

    Raises
    ------
    UsageError
        If a value breaks its rule.
    """

    epochs: int = 5
    """E: passes over the client's rows."""
    batch_size: int = 10
    """B; the last batch of a pass may be smaller."""
    learning_rate: float = 0.01
    """η."""
    momentum: float = 0.0
    """μ: v ← μv + g, w ← w - ηv, beginning with v = 0 in every round."""
    clip: float = float("inf")
    """ζ: a batch's gradient with a larger Euclidean norm is scaled down to it."""

    def __post_init__(self) -> None:
        at_least(self, epochs=1, batch_size=1)
        positive(self, "learning_rate")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"--momentum must be in [0, 1), got {self.momentum}")
        if not self.clip > 0:
            raise UsageError(f"the norm that gradients are clipped to must be positive, got {self.clip}")

    def orders(self, rows: int, order: np.random.Generator) -> NDArray[np.int64]:
        """The order of the rows in each epoch, shape (E, rows)."""
        return np.stack([order.permutation(rows) for _ in range(self.epochs)])

    def batches(self, inputs: "Inputs", orders: NDArray[np.int64]) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        """Inputs and labels of every batch of all epochs, each in its order."""
        import torch

        for order in orders:
            rows = torch.from_numpy(order).to(inputs.y.device)
            X, y = inputs.X.index_select(0, rows), inputs.y.index_select(0, rows)
            yield from zip(torch.split(X, self.batch_size), torch.split(y, self.batch_size), strict=True)

    def steps(self, rows: int) -> int:
        """E ⌈d_k/B⌉."""
        return self.epochs * -(-rows // self.batch_size)
