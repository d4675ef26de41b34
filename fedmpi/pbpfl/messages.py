"""What PBPFL's server and hosts say to each other [Feng et al. 2020, section 3], and how the server asks for it.

Letters: W (h) the parameters, Ŵ perturbed ones, r_a the additive noise that clients are told, n_L outputs, K clients
with N_k rows each. A host is a rank on which clients live. What `masked` adds to this stands there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import PeerFailed, TooFewWorkers
from fedmpi.net import Channel, Message
from fedmpi.net.message import Float64, Shape, UInt8, UInt32, UInt64
from fedmpi.pbpfl.params import Params

M = TypeVar("M", bound=Message)

FINAL_ROWS = 1000
"""Rows on which a client tries the final model, at most."""


class Outputs(Message, tag=1):
    """Server → host, once: the name of the last layer; public."""

    layer: str


class Round(Message, tag=3):
    """Server → host, each round: Ŵ (h numbers of --dtype, as bytes), r_a, shape (n_L,), and N = Σ N_k."""

    round: int
    rows: int
    w: UInt8
    r_a: Float64


class Terms(Message, tag=4):
    """Host → server, each round: ∂L̂/∂Ŵ, σ and β of its clients, shape (clients, 3 h numbers as bytes), and shifts γ̂.

    In the clear, the gradient alone.
    """

    round: int
    clients: UInt32
    shifts: Float64
    values: UInt8


class Final(Message, tag=5):
    """Server → host, at the end: weights for the clients' use, perturbed without r_a and γ ("data processing")."""

    w: UInt8


class Evaluation(Message, tag=6):
    """Host → server, at the end: the final model on rows of its clients: Σ‖y - ȳ‖², and rows that are right."""

    clients: UInt32
    squared_errors: Float64
    right: UInt64


@dataclass(frozen=True, eq=False)
class Federation:
    """Who is there."""

    homes: dict[int, frozenset[int]]
    """Host → its clients."""
    rows: NDArray[np.int64]
    """N_k, shape (K,)."""


def ask(ch: Channel, fed: Federation, cls: type[M], t: int, shapes: Mapping[str, Shape]) -> dict[int, M]:
    """One message of every host that is there, in the order of their ranks; hosts that send none depart.

    So does one that names a client twice or one that is not its own, or as many clients as it has no values for.
    """
    hosts = [host for host in fed.homes if host not in ch.departed]
    answers: dict[int, M] = ch.gather_within(ch.timeout_seconds, hosts, cls, shapes=shapes, round=t)
    for host in hosts:
        answer: Any = answers.get(host)
        if answer is None:
            reason = f"sent no {cls.__name__} for {ch.timeout_seconds:g} s"
        else:
            named = answer.clients.tolist()
            own = len(set(named)) == len(named) and fed.homes[host].issuperset(named)
            if own and all(len(getattr(answer, field)) == len(named) for field in shapes):
                continue
            reason = f"broke the protocol: {cls.__name__} must be of its own clients, got {named}"
            del answers[host]
        if host not in ch.departed:
            ch.depart(PeerFailed(host, ch.role_of(host), reason))
    return dict(sorted(answers.items()))


def too_few(ch: Channel, t: int, least: int, got: int) -> TooFewWorkers:
    """The error where a round has not the clients it needs."""
    gone = "".join(f"; {failed}" for failed in ch.departed.values())
    return TooFewWorkers(f"round {t} must have at least {least} clients, got {got}{gone}")


def to_bytes(values: NDArray[np.float64], params: Params) -> NDArray[np.uint8]:
    """Numbers of --dtype, little-endian, as bytes that the channel need not copy."""
    raw = np.ascontiguousarray(values, dtype=f"<f{params.item_bytes}").reshape(-1).view(np.uint8)
    if raw.base is values:
        raw = raw.copy()
    raw.flags.writeable = False
    return raw


def from_bytes(raw: NDArray[np.uint8], params: Params) -> NDArray[np.float64]:
    """What `to_bytes` packed, as float64."""
    return np.ascontiguousarray(raw).view(f"<f{params.item_bytes}").astype(np.float64)
