"""CodedPrivateML on threads, for the tests of codedml: one training, or a whole command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedmpi.codedml.command import run
from fedmpi.codedml.params import Params
from fedmpi.codedml.protocol import Training, master
from fedmpi.codedml.service import dismiss, serve
from fedmpi.codedml.training import rounding_noise
from fedmpi.crypto.random import FieldRandom, SecretStream
from fedmpi.net import Channel, run_local

HANG_SECONDS = 30.0
"""No wait of a training that works lasts nearly as long."""

Role = Callable[[Channel], Any]


def problem(m: int, d: int, outputs: int = 1, seed: int = 0, top: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Quantized features in [-top, top], shape (m, d), and 0/1 targets, shape (m, outputs)."""
    rng = np.random.default_rng(seed)
    X_bar = rng.integers(-top, top + 1, (m, d)).astype(np.float32)
    return X_bar, rng.integers(0, 2, (m, outputs)).astype(np.float64)


def test_masks(p: int, seed: int) -> FieldRandom:
    """The real generator under a key that repeats."""
    return FieldRandom(p, SecretStream(seed.to_bytes(32, "big")))


@dataclass
class Threads:
    """What a training left behind."""

    training: Training
    channels: dict[int, Channel] = field(default_factory=dict)

    @property
    def W(self) -> np.ndarray:
        """The weights."""
        return self.training.W

    def views(self, rank: int) -> list[Any]:
        """Every message that a rank received, in order (needs record_views=True)."""
        return [message for _, message in self.channels[rank]._views]


def train_on_threads(
    params: Params,
    X_bar: np.ndarray,
    Y: np.ndarray,
    workers: int,
    *,
    learning_rate: float = 0.5,
    noise: Callable[..., Any] | None = None,
    uniform: Callable[..., Any] | None = None,
    observe: Callable[..., Any] = lambda iteration, W: None,
    roles: Mapping[int, Role] | None = None,
    on_master: Callable[[Channel], None] = lambda ch: None,
    **options: Any,
) -> Threads:
    """Train with `workers` threads; `roles` replaces single workers, by rank."""
    channels: dict[int, Channel] = {}

    def keeping(role: Role) -> Role:
        def play(ch: Channel) -> Any:
            channels[ch.rank] = ch
            return role(ch)

        return play

    def lead(ch: Channel) -> Training:
        on_master(ch)
        training = master(
            ch,
            params,
            X_bar,
            Y,
            learning_rate,
            rounding_noise(0) if noise is None else noise,
            FieldRandom(params.prime) if uniform is None else uniform,
            observe,
        )
        dismiss(ch)
        return training

    others = [(roles or {}).get(rank, serve) for rank in range(1, workers + 1)]
    results = run_local([keeping(role) for role in [lead, *others]], **{"timeout_seconds": HANG_SECONDS, **options})
    return Threads(results[0], channels)


def command_on_threads(workers: int, *argv: Any, **options: Any) -> None:
    """``python -m fedmpi.codedml``, with threads for workers."""

    def lead(ch: Channel) -> None:
        run(ch, [str(argument) for argument in argv])
        dismiss(ch)

    run_local([lead] + [serve] * workers, timeout_seconds=HANG_SECONDS, **options)
