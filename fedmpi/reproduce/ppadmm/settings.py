"""The methods that are compared, the records of the experiments, and how much of them is run."""

from dataclasses import dataclass
from typing import Any

from fedmpi.pages.figures import Line as Drawn

DSSGD = {"0.01": (1, 0.5, 1), "0.1": (3, 0.1, 0.1), "1": (1, 0.5, 0.1), "10": (3, 2, 0.1)}
"""ε → γ, η and θ: about the best of 24 settings on the data of `--quick`, γ of 1, 3, 10 and 30, η of 0.1, 0.5 and 2, θ
of 0.1 and 1. Up to ε = 1 those that learn nothing are as good: the error is that of the mean of the targets."""
EPSILONS = tuple(DSSGD)
METHODS: dict[str, tuple[str, ...]] = {
    "ADMM": ("--method", "admm"),
    "PPADMM": ("--method", "ppadmm"),
    "PPADMM, sha256": ("--method", "ppadmm", "--mask", "sha256"),
    **{
        f"DSSGD, ε = {epsilon}": (
            *("--method", "dssgd", "--epsilon", epsilon, "--coordinate-clip", str(clip)),
            *("--learning-rate", str(rate), "--share-fraction", str(part)),
        )
        for epsilon, (clip, rate, part) in DSSGD.items()
    },
}
ACCURACY = [name for name in METHODS if name != "PPADMM, sha256"]
"""The lines of Figures 3 and 4; with another mask they are the same to the bit."""
TIME = ["ADMM", "PPADMM", "PPADMM, sha256", "DSSGD, ε = 1"]
"""The lines of Figure 5."""
TURNS = 3
"""How often each of them is run: one after another in each turn, so that a ratio is that of two runs side by side."""
LEFT_AFTER = (2, 3, 5, 10, 20, 30)
"""Iterations after which a participant leaves."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    name: str
    participants: int
    iterations: int
    data: tuple[str, ...]

    @property
    def summary(self) -> str:
        """For people."""
        return f"{self.participants} participants, {self.iterations} iterations on {' and '.join(self.data)}"


QUICK = Scale("quick", 10, 50, ("synthetic-lasso:n=2000,d=50",))
FULL = Scale("full", 10, 100, ("synthetic-lasso:n=5000,d=100", "synthetic-lasso:n=5000,d=2000", "diabetes"))


@dataclass(frozen=True)
class Line:
    """One run: what metrics.jsonl and result.json say."""

    steps: list[dict[str, float]]
    result: dict[str, Any]

    @property
    def seconds(self) -> float:
        """All its iterations, without the measuring."""
        return self.steps[-1]["training_seconds"]

    def over_iterations(self, key: str) -> Drawn:
        """Iterations and values."""
        return [step["iteration"] for step in self.steps], [step[key] for step in self.steps]


def slug(name: str) -> str:
    """A file name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.replace("ε = ", "").lower())
