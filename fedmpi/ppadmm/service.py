"""A rank's whole life, whatever the method of training."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedmpi.errors import ProtocolError
from fedmpi.net import Channel, Message, UInt32
from fedmpi.ppadmm.admm import Vector
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.dssgd import parameter_server, sgd_participant
from fedmpi.ppadmm.params import FIRST_ITERATION, Params
from fedmpi.ppadmm.plain import Observe, ignore
from fedmpi.ppadmm.protocol import Keeper, State, Training, participant, primary_server
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY, as_array, participants

if TYPE_CHECKING:
    from fedmpi.data import Dataset


class Setup(Message, tag=1):
    """S1 → all, once a training: the parameters and the data set's name, as JSON; all of it public.

    `iteration` is 0, or the one that a resumed run goes on with; `members` the participants who were there then.
    """

    params: str
    data: str
    timeout_seconds: float
    iteration: int
    members: UInt32


class Leave(Message, tag=20):
    """S1 → all: no more training; go home."""


@dataclass(frozen=True)
class Source:
    """Where every rank finds the data set, of which a participant takes its own rows and S1 the test rows."""

    dataset: str
    data_dir: str | None = None
    max_rows: int | None = None
    test_fraction: float = 0.2
    label_column: str | None = None
    group_column: str | None = None
    seed: int = 0

    def load(self) -> "Dataset":
        """The data set, checked, with its test part."""
        from fedmpi.data import load

        options = dataclasses.asdict(self)
        return load(options.pop("dataset"), regression=True, **options)

    def part(self, rank: int, parts: int) -> tuple[Vector, Vector]:
        """The rows of the participant at a rank: A_i (m_i, d) and b_i (m_i,)."""
        from fedmpi.data.partition import rows_of

        data = self.load()
        rows = rows_of(rank - AUXILIARY - 1, parts, len(data.y_train), data.groups)
        return data.X_train[rows].astype(np.float64), data.y_train[rows]


def role_of(rank: int) -> str:
    """What a rank does, for messages to people."""
    return {PRIMARY: "primary server", AUXILIARY: "auxiliary server"}.get(rank, "participant")


def salt_of(params: Params, data: str = "") -> bytes:
    """What the keys depend on besides: S1 can't tell S2 and the participants different parameters."""
    return hashlib.sha256(f"{params.to_json()}\n{data}".encode()).digest()


def lead(
    ch: Channel,
    params: Params,
    source: Source,
    observe: Observe = ignore,
    start: State | None = None,
    keeper: Keeper | None = None,
) -> Training:
    """S1: one training with the other ranks."""
    params.fewest(len(participants(ch)))
    iteration, members = (start.iteration, start.members) if start else (0, participants(ch))
    data = json.dumps(dataclasses.asdict(source), sort_keys=True)
    setup = Setup(params.to_json(), data, ch.timeout_seconds, iteration, as_array(members))
    for rank in range(1, ch.size):
        ch.send(rank, setup)
    role = parameter_server if params.method == "dssgd" else primary_server
    return role(ch, params, observe, start, keeper)


def serve(ch: Channel, run: Path | None = None) -> None:
    """S2 or a participant: one training after another, until S1 sends it home.

    Parameters
    ----------
    ch : Channel
    run : Path, optional
        The folder of the run, for checkpoints.
    """
    while isinstance(setup := ch.recv_any(PRIMARY, (Setup, Leave), patient=True), Setup):
        params = Params.from_json(setup.params)
        if setup.iteration < 0:
            raise ProtocolError(f"the first iteration must not be negative, got {setup.iteration}")
        ch.outwait(setup.timeout_seconds)
        if ch.rank != AUXILIARY:
            take_part(ch, params, setup, run)
        else:
            stage = FIRST_ITERATION + setup.iteration if setup.iteration else 0
            members = [rank for rank in participants(ch) if rank in setup.members]
            auxiliary_server(ch, params, salt_of(params, setup.data), first_stage=stage, members=members)


def take_part(ch: Channel, params: Params, setup: Setup, run: Path | None) -> None:
    """Participant: one training on its own rows."""
    A, b = _source(setup.data).part(ch.rank, len(participants(ch)))
    if params.method == "dssgd":
        sgd_participant(ch, params, A, b)
        return
    shelf = None
    if run is not None:
        from fedmpi.ppadmm.keeping import OwnShelf

        shelf = OwnShelf(run, ch.rank, A, b, earlier=params.on_dropout == "rejoin")
    participant(ch, params, A, b, salt_of(params, setup.data), shelf=shelf, first_iteration=setup.iteration)


def _source(text: str) -> Source:
    try:
        return Source(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"the data set must be named as S1 does, got {text[:200]}: {error}") from None


def dismiss(ch: Channel) -> None:
    """S1: send all home."""
    for rank in range(1, ch.size):
        ch.send(rank, Leave())
