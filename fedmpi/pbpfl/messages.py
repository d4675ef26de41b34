"""What PBPFL's server and hosts say to each other [Feng et al. 2020, section 3].

Letters: W (h) the parameters, Ŵ perturbed ones, r_a the additive noise that clients are told, n_L outputs, K clients
with N_k rows each. A host is a rank on which clients live. What a secure sum adds to this is in `federated.masked`.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.net import Message
from fedmpi.net.meaning import COUNTABLE, DISTINCT, FINITE, PART, between, judged
from fedmpi.net.message import Float64, UInt8, UInt32, UInt64
from fedmpi.pbpfl.params import Params

FINAL_ROWS = 1000
"""Rows on which a client tries the final model, at most."""


WITHIN = between(-(2.0**64), 2.0**64)
"""What a client's terms stay within, products with the server's noise included."""


class Outputs(Message, tag=1):
    """Server → host, once: the name of the last layer; public."""

    layer: str


class Round(Message, tag=3):
    """Server → host, each round: Ŵ (h numbers of --dtype, as bytes), r_a, shape (n_L,), and N = Σ N_k.

    Without noise on the outputs r_a is empty.
    """

    round: int
    rows: Annotated[int, between(1, COUNTABLE)]
    w: Annotated[UInt8, judged("fedmpi.pbpfl.messages:weights")]
    r_a: Float64


class Terms(Message, tag=4):
    """Host → server, each round: ∂L̂/∂Ŵ, σ and β of its clients, shape (clients, 3 h numbers as bytes), and shifts γ̂.

    In the clear, and without noise on the outputs, the gradient alone.
    """

    round: int
    clients: Annotated[UInt32, judged("fedmpi.federated.messages:check_named", DISTINCT)]
    shifts: Annotated[Float64, WITHIN]
    values: Annotated[UInt8, judged("fedmpi.pbpfl.protocol:collect_clear")]


class Final(Message, tag=5):
    """Server → host, at the end: weights for the clients' use, perturbed without r_a and γ ("data processing")."""

    w: Annotated[UInt8, judged("fedmpi.pbpfl.messages:weights")]


class Evaluation(Message, tag=6):
    """Host → server, at the end: the final model on rows of its clients: Σ‖y - ȳ‖², and rows that are right."""

    clients: Annotated[UInt32, judged("fedmpi.pbpfl.protocol:check_evaluation", DISTINCT)]
    squared_errors: Annotated[Float64, PART]
    right: Annotated[UInt64, between(0, FINAL_ROWS)]


@dataclass(frozen=True, eq=False)
class Federation:
    """Who is there."""

    homes: dict[int, frozenset[int]]
    """Host → its clients."""
    rows: NDArray[np.int64]
    """N_k, shape (K,)."""


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


def weights(raw: NDArray[np.uint8], params: Params) -> NDArray[np.float64]:
    """The weights that a server's message holds.

    Raises
    ------
    ProtocolError
        If they are not finite: nothing could be computed with them.
    """
    values = from_bytes(raw, params)
    if not FINITE.holds(values):
        raise ProtocolError("weights from the server must be finite, got others")
    return values
