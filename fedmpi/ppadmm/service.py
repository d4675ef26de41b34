"""A rank's whole life, whatever the method of training."""

import hashlib
from pathlib import Path

import numpy as np

from fedmpi.errors import ProtocolError
from fedmpi.machines.placement import tell_host
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.orders import Leave
from fedmpi.ppadmm.admm import Vector
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.dssgd import parameter_server, sgd_participant
from fedmpi.ppadmm.params import FIRST_ITERATION, Params
from fedmpi.ppadmm.plain import Observe, ignore
from fedmpi.ppadmm.protocol import Keeper, Own, State, Training, participant, primary_server
from fedmpi.ppadmm.secure_sum import AUXILIARY, PRIMARY, as_array, participants
from fedmpi.runs.job import Job
from fedmpi.runs.own_options import OwnOptions


class Setup(Message, tag=1):
    """S1 → all, once a training: the parameters and the data set's name, as JSON; all of it public.

    `iteration` is 0, or the one that a resumed run goes on with; `members` the participants who were there then.
    """

    job: str
    timeout_seconds: float
    iteration: int
    members: UInt32


def salt_of(params: Params, data: str = "") -> bytes:
    """What the keys depend on besides: S1 can't tell S2 and the participants different parameters."""
    return hashlib.sha256(f"{params.to_json()}\n{data}".encode()).digest()


def lead(
    ch: Channel,
    job: Job[Params],
    observe: Observe = ignore,
    start: State | None = None,
    keeper: Keeper | None = None,
) -> Training:
    """S1: one training with the other ranks."""
    job.params.fewest(len(participants(ch)))
    iteration, members = (start.iteration, start.members) if start else (0, participants(ch))
    setup = Setup(job.to_json(), ch.timeout_seconds, iteration, as_array(members))
    for rank in range(1, ch.size):
        ch.send(rank, setup)
    role = parameter_server if job.params.method == "dssgd" else primary_server
    return role(ch, job.params, observe, start, keeper)


def follow(ch: Channel, own: OwnOptions) -> None:
    """S2 or a participant of a command line, which names the folder for checkpoints."""
    if ch.rank == AUXILIARY:
        tell_host(ch)
    serve(ch, own.run)


def serve(ch: Channel, run: Path | None = None) -> None:
    """S2 or a participant: one training after another, until S1 sends it home.

    Parameters
    ----------
    ch : Channel
    run : Path, optional
        The folder of the run, for checkpoints.
    """
    while isinstance(setup := ch.recv_any(PRIMARY, (Setup, Leave), patient=True), Setup):
        job = Job.from_json(setup.job, Params)
        if setup.iteration < 0:
            raise ProtocolError(f"the first iteration must not be negative, got {setup.iteration}")
        ch.outwait(setup.timeout_seconds)
        if ch.rank != AUXILIARY:
            take_part(ch, job, setup, run)
        else:
            stage = FIRST_ITERATION + setup.iteration if setup.iteration else 0
            members = [rank for rank in participants(ch) if rank in setup.members]
            auxiliary_server(ch, job.params, salt_of(job.params, setup.job), first_stage=stage, members=members)


def take_part(ch: Channel, job: Job[Params], setup: Setup, run: Path | None) -> None:
    """Participant: one training on its own rows."""
    params, (A, b) = job.params, part(job, ch.rank, len(participants(ch)))
    if params.method == "dssgd":
        sgd_participant(ch, params, A, b)
        return
    shelf = None
    if run is not None:
        from fedmpi.ppadmm.checkpoints import OwnShelf

        shelf = OwnShelf(run, ch.rank, A, b, earlier=params.on_dropout == "rejoin")
    participant(ch, params, Own(A, b, salt_of(params, setup.job), shelf=shelf, first_iteration=setup.iteration))


def part(job: Job[Params], rank: int, parts: int) -> tuple[Vector, Vector]:
    """The rows of the participant at a rank: A_i (m_i, d) and b_i (m_i,)."""
    from fedmpi.data.partition import rows_of

    data = job.load()
    rows = rows_of(rank - AUXILIARY - 1, parts, len(data.y_train), data.groups)
    return data.X_train[rows].astype(np.float64), data.y_train[rows]
