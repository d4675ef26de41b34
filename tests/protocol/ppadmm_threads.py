"""PPADMM on threads, for the tests of ppadmm: one training, or a whole command line."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedmpi.crypto.keys import KeyPair
from fedmpi.net import Channel, run_local
from fedmpi.ppadmm import SYSTEM
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Own, Training, participant, primary_server
from fedmpi.ppadmm.service import salt_of

HANG_SECONDS = 30.0
"""No wait of a training that works lasts nearly as long."""

Parts = Sequence[tuple[np.ndarray, np.ndarray]]
Role = Callable[[Channel], Any]


def problem(participants: int, rows: int, columns: int, seed: int = 0, scale: float = 1.0) -> Parts:
    """Rows and targets of each participant, of one linear model."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=columns) * (rng.random(columns) < 0.5) * 10
    parts = []
    for _ in range(participants):
        A = rng.normal(size=(rows, columns)) * scale + rng.normal(size=columns)
        parts.append((A, A @ truth + 3 + rng.normal(size=rows)))
    return parts


@dataclass
class Threads:
    """What a training left behind."""

    training: Training
    iterates: list[np.ndarray]
    """Coefficients at the start of every iteration, and at the end."""
    models: dict[int, Any]
    """What each participant was told at the end."""
    channels: dict[int, Channel] = field(default_factory=dict)

    def views(self, rank: int, kind: type | None = None) -> list[Any]:
        """The messages (of one type) that a rank received, in order (needs record_views=True)."""
        return [message for _, message in self.channels[rank]._views if kind is None or isinstance(message, kind)]


def train_on_threads(
    params: Params,
    parts: Parts,
    *,
    roles: Mapping[int, Role] | None = None,
    pairs: Callable[[int], Callable[[], KeyPair]] = lambda rank: KeyPair,
    channels: dict[int, Channel] | None = None,
    **options: Any,
) -> Threads:
    """Train with a thread for each server and participant; `roles` replaces single ones, by rank."""
    kept = {} if channels is None else channels
    iterates: list[np.ndarray] = []
    salt = salt_of(params)

    def keeping(role: Role) -> Role:
        def play(ch: Channel) -> Any:
            kept[ch.rank] = ch
            return role(ch)

        return play

    def lead(ch: Channel) -> Training:
        return primary_server(ch, params, lambda it, coefficients, intercept: iterates.append(coefficients))

    def auxiliary(ch: Channel) -> None:
        auxiliary_server(ch, params, salt, pairs(ch.rank))

    def member(ch: Channel) -> Any:
        return participant(ch, params, Own(*parts[ch.rank - 2], salt, pairs(ch.rank)))

    all_roles = [lead, auxiliary, *[member] * len(parts)]
    for rank, role in (roles or {}).items():
        all_roles[rank] = role
    options = {"timeout_seconds": HANG_SECONDS, "role_of": SYSTEM.role_of, **options}
    results = run_local([keeping(role) for role in all_roles], **options)
    return Threads(results[0], iterates, dict(enumerate(results)), kept)


def command_on_threads(participants: int, *argv: Any) -> None:
    """``python -m fedmpi.ppadmm``, with threads for the other ranks."""
    SYSTEM.on_threads(participants + 2, argv, HANG_SECONDS)
