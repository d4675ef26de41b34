"""The records of the experiments, and how much of them is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

IMAGE_METHODS = ("fedavg-ce", "fedavg-mse", "pbpfl")

Key = tuple[str, int, str]
"""Model, clients and method of a run."""
Lines = list[list[dict[str, float]]]
"""Of each repetition, the lines of metrics.jsonl, and at the end the metrics of result.json."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    mlps: tuple[str, ...]
    clients: tuple[int, ...]
    bank: Mapping[int, Sequence[str]]
    """Clients → options of the length of a run on bank."""
    resnets: tuple[str, ...]
    images: tuple[str, ...]
    """Options of runs on images."""
    repeats: int
    bench: tuple[str, int, int]
    """Model, side of the images and repeats of Table 3."""
    hosts: int
    """Ranks on which the clients live."""

    @property
    def summary(self) -> str:
        """For people."""
        bank = {" ".join(options): clients for clients, options in self.bank.items()}
        lengths = " or ".join(f"`{options}`" for options in bank)
        model, side, _ = self.bench
        return (
            f"k = {', '.join(map(str, self.clients))}; on bank {', '.join(self.mlps)} with {lengths}; on images "
            f"{', '.join(self.resnets)} with `{' '.join(self.images)}`, {self.repeats} seeds; Table 3 with {model} and "
            f"{side}x{side}"
        )


QUICK = Scale(
    "quick",
    ("mlp-3", "mlp-7"),
    (1, 5),
    {1: ("--rounds", "2500"), 5: ("--rounds", "600")},
    ("resnet20",),
    ("--rounds", "12", "--max-rows", "1000", "--evaluate-every", "4"),
    2,
    ("resnet20", 28, 5),
    hosts=1,
)
FULL = Scale(
    "full",
    ("mlp-3", "mlp-5", "mlp-7"),
    (1, 5, 10),
    dict.fromkeys((1, 5, 10), ("--total-epochs", "200")),
    ("resnet20", "resnet32"),
    ("--total-epochs", "200"),
    5,
    ("resnet56", 224, 3),
    hosts=2,
)
