"""PBPFL on threads: whole command lines, with hosts that may go wrong."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedmpi.net import Channel, run_local
from fedmpi.pbpfl import SYSTEM
from fedmpi.runs.model import read_arrays
from fedmpi.runs.own_options import own_options

HANG_SECONDS = 60.0

DIGITS = ["--dataset", "digits", "--max-rows", "200", "--rounds", "50", "--batch-size", "8"]
DIGITS += ["--dtype", "float64", "--evaluate-every", "50"]


@dataclass
class Threads:
    """What a run left behind."""

    folder: Path
    channels: dict[int, Channel] = field(default_factory=dict)

    @property
    def result(self) -> dict[str, Any]:
        """Contents of result.json."""
        return dict(json.loads((self.folder / "result.json").read_text()))

    @property
    def w(self) -> np.ndarray:
        """All parameters of the trained model."""
        return np.concatenate([array.ravel() for array in read_arrays(self.folder).values()])

    def views(self, rank: int, name: str) -> list[Any]:
        """The messages of one type that a rank received, in order (needs record=True)."""
        return [message for _, message in self.channels[rank]._views if type(message).__name__ == name]


def train(
    folder: Path,
    *options: str,
    hosts: int = 2,
    roles: Mapping[int, Callable[[Channel, list[str]], Any]] | None = None,
    record: bool = False,
    base: list[str] = DIGITS,
    timeout: float = HANG_SECONDS,
) -> Threads:
    """Run the command line on threads.

    Parameters
    ----------
    roles : mapping, optional
        Rank → what it does instead; called with its channel and the command line.
    """
    resumed = "--resume" in options
    argv = [*base, "--quiet", "--timeout", str(timeout), *options, *([] if resumed else ["--out", str(folder)])]
    left = Threads(folder)

    def role(rank: int) -> Callable[[Channel], Any]:
        def call(ch: Channel) -> Any:
            left.channels[rank] = ch
            ch.record_views = record
            return (roles or {}).get(rank, SYSTEM.lead if rank == 0 else host)(ch, argv)

        return call

    run_local([role(rank) for rank in range(hosts + 1)], timeout_seconds=timeout, role_of=SYSTEM.role_of)
    return left


def host(ch: Channel, argv: list[str]) -> None:
    """An honest host."""
    SYSTEM.follow(ch, own_options(argv))


def failing_at(message: str, round_: int) -> Callable[[Channel, list[str]], Any]:
    """A host that fails when it is about to send a message of a round."""

    def failing_host(ch: Channel, argv: list[str]) -> Any:
        send = ch.send

        def failing(dest: int, sent: Any) -> None:
            if type(sent).__name__ == message and sent.round == round_:
                raise RuntimeError("out of order")
            send(dest, sent)

        ch.send = failing  # type: ignore[method-assign]
        try:
            host(ch, argv)
        except RuntimeError as error:
            ch.fail(error)

    return failing_host
