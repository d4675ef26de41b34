"""COPML on threads, for the tests: a training of some owners, what each saw, and the same in the clear."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fedmpi.copml import member, plain
from fedmpi.copml.member import Task, Trained
from fedmpi.copml.params import Params
from fedmpi.copml.protocol import owner
from fedmpi.copml.quantized import of_raw_features
from fedmpi.copml.truncation import contribution, rounded, secret_integers
from fedmpi.net import Channel, Message, run_local

HANG_SECONDS = 20.0
"""No wait of a training that works lasts nearly as long."""

Before = Callable[[Channel], None]
"""What is done to an owner's channel before it begins."""


@dataclass
class Case:
    """A small training, whose owners have different numbers of rows."""

    params: Params
    task: Task
    X: np.ndarray
    Y: np.ndarray
    trained: dict[int, Trained] = field(default_factory=dict)
    views: dict[int, list[tuple[int, Message]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, N: int, outputs: int = 1, d: int = 6, seed: int = 0, X: np.ndarray | None = None, **params: Any
    ) -> "Case":
        """Rows of any numbers, or of X, shape (m, d)."""
        rng, rows = np.random.default_rng(seed), [7 + i % 3 for i in range(N)]
        X = rng.uniform(-1, 1, (sum(rows), d)) if X is None else X
        chosen = Params(**{"iterations": 4} | params)
        Y = (X @ rng.normal(size=(d, outputs)) > 0).astype(np.int64)
        return cls(chosen, Task(chosen, rows, d, outputs, 1.0, chosen.center), X, Y)

    @property
    def means(self) -> np.ndarray | None:
        return plain.means(self.task, self.X)

    def own(self, p: int) -> slice:
        edges = np.cumsum([0, *self.task.rows])
        return slice(edges[p], edges[p + 1])

    def train(self, before: dict[int, Before] | None = None, **options: Any) -> None:
        """All owners; what they end with is in `trained`, of those who do."""

        def role(ch: Channel) -> None:
            self.views[ch.rank] = ch._views
            (before or {}).get(ch.rank, lambda ch: None)(ch)
            rows = self.own(ch.rank)
            self.trained[ch.rank] = owner(ch, self.task, self.X[rows], self.Y[rows], **options)

        run_local([role] * len(self.task.rows), timeout_seconds=HANG_SECONDS, record_views=True)

    def weights(self, rank: int = 0) -> np.ndarray:
        """w̄, whole numbers, shape (d, C)."""
        return np.ldexp(self.trained[rank].W, self.task.scale().weight_bits)

    def twin(self, lows: "Lows | None" = None, **options: Any) -> np.ndarray:
        """w̄ of the same training in the clear: rounded by the coins of a private one, or to the nearest."""
        rounding = plain.nearest if lows is None else lows.rounding(self.task)
        X_bar = plain.prepared(self.task, self.X, self.means)
        w, *_ = plain.train(self.task, X_bar, self.Y, rounding, **options)
        bits = self.task.scale().weight_bits
        return np.ldexp(of_raw_features(np.ldexp(w.astype(float), -bits), self.means), bits)


class Lows:
    """Records the low parts of the masks of all truncations: the coins that rounded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.drawn: list[np.ndarray] = []
        monkeypatch.setattr(member, "contribution", self.contribution)

    def contribution(self, ring: Any, count: int, bits: int, mask_bits: int) -> np.ndarray:
        parts: list[np.ndarray] = []

        def integers(count: int, bits: int) -> np.ndarray:
            parts.append(secret_integers(count, bits))
            return parts[-1]

        shares = contribution(ring, count, bits, mask_bits, integers)
        self.drawn.append(sum(limb.astype(np.int64) << (26 * k) for k, limb in enumerate(parts[0])))  # type: ignore[arg-type]
        return shares

    def rounding(self, task: Task) -> plain.Rounding:
        total, count = np.sum(self.drawn, axis=0), task.columns * task.outputs

        def round_(step: int, a: np.ndarray, bits: int) -> np.ndarray:
            first = (step - task.begun) * count
            low = total[first : first + count].reshape(a.shape)
            return rounded(a, low, bits, len(self.drawn))

        return round_
