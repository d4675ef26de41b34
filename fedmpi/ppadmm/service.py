"""A rank's whole life, whatever the method of training."""

import hashlib
import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from fedmpi.core import exact
from fedmpi.errors import PeerFailed, TooFewWorkers
from fedmpi.federated.rows import own_rows
from fedmpi.federated.statistics import add_up, contribute
from fedmpi.machines.placement import tell_host
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.meaning import DISTINCT, POSITIVE, judged
from fedmpi.net.message import UInt8, bytes_of, text_of
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

if TYPE_CHECKING:
    from fedmpi.data import Dataset
    from fedmpi.data.schema import Schema


class Setup(Message, tag=1):
    """S1 → all, once a training: the parameters and the data set's name, as JSON; all of it public.

    `digest`: of S1's data set, if participants must have it; S2 gets none, as it could try out data sets. `iteration`
    is 0, or the one that a resumed run goes on with; `members` the participants who were there then.
    """

    job: Annotated[UInt8, judged("fedmpi.runs.job:Job.from_json")]
    timeout_seconds: Annotated[float, POSITIVE]
    digest: Annotated[bytes, judged("fedmpi.data.dataset:Dataset.check_same")]
    iteration: int
    members: Annotated[UInt32, DISTINCT]


class Judge(Message, tag=22):
    """S1 → participant, at the end where rows lie apart: try the model on your test rows."""


SHAPES = {"job": (None,), "members": (None,)}


def salt_of(params: Params, data: str = "") -> bytes:
    """What the keys depend on besides: S1 can't tell S2 and the participants different parameters."""
    return hashlib.sha256(f"{params.to_json()}\n{data}".encode()).digest()


def lead(
    ch: Channel,
    job: Job[Params],
    observe: Observe = ignore,
    start: State | None = None,
    keeper: Keeper | None = None,
    digest: bytes = b"",
) -> Training:
    """S1: one training with the other ranks."""
    job.params.fewest(len(participants(ch)))
    iteration, members = (start.iteration, start.members) if start else (0, participants(ch))
    ch.tolerated = () if job.params.on_dropout == "stop" else participants(ch)
    for rank in range(1, ch.size):
        theirs = b"" if rank == AUXILIARY else digest
        ch.send(rank, Setup(bytes_of(job.to_json()), ch.timeout_seconds, theirs, iteration, as_array(members)))
    role = parameter_server if job.params.method == "dssgd" else primary_server
    return role(ch, job.params, observe, start, keeper)


def follow(ch: Channel, own: OwnOptions) -> None:
    """S2 or a participant of a command line, which names the folder for checkpoints."""
    if ch.rank == AUXILIARY:
        tell_host(ch)
    serve(ch, own.run, own.rows_of(ch.rank))


def serve(ch: Channel, run: Path | None = None, rows: Path | None = None) -> None:
    """S2 or a participant: one training after another, until S1 sends it home.

    Parameters
    ----------
    ch : Channel
    run : Path, optional
        The folder of the run, for checkpoints.
    rows : Path, optional
        The file of a participant's own rows.
    """
    ch.tolerated = [rank for rank in participants(ch) if rank != ch.rank]  # who else is there is S1's business
    while isinstance(setup := ch.recv_any(PRIMARY, (Setup, Leave), shapes=SHAPES, patient=True), Setup):
        text = text_of(setup.job)
        job = Job.from_json(text, Params)
        ch.outwait(setup.timeout_seconds)
        if ch.rank != AUXILIARY:
            take_part(ch, job, setup, run, rows)
        else:
            stage = FIRST_ITERATION + setup.iteration if setup.iteration else 0
            members = [rank for rank in participants(ch) if rank in setup.members]
            auxiliary_server(ch, job.params, salt_of(job.params, text), first_stage=stage, members=members)


def take_part(ch: Channel, job: Job[Params], setup: Setup, run: Path | None, rows: Path | None) -> None:
    """Participant: one training on its own rows; where they lie apart it tries the model on its test rows too."""
    apart = None if job.schema is None else own_part(job, rows, ch.rank)
    A, b = (apart.X_train, apart.y_train) if apart else part(job, ch.rank, len(participants(ch)), setup.digest)
    if job.params.method == "dssgd":
        sgd_participant(ch, job.params, A, b)
        return
    model = trained(ch, job.params, A, b, setup, run)
    if apart is not None:
        ch.recv_any(PRIMARY, (Judge,), patient=True)
        be_judge(ch, apart, *model, job.params.fewest(len(participants(ch))))


def be_judge(ch: Channel, data: "Dataset", coefficients: Vector, intercept: float, fewest: int) -> None:
    """Participant: the number of its test rows and the sum of squared errors there, under masks."""
    errors = data.X_test @ coefficients + intercept - data.y_test
    numbers = [len(errors), exact.total_squares(errors)]
    model = hashlib.sha256(coefficients.tobytes() + struct.pack("<d", intercept)).digest()
    contribute(ch, lambda: numbers, model, fewest)


def judge(ch: Channel) -> dict[str, float]:
    """S1: RMSE over the test rows of all participants who are there, from sums.

    NaN if one is lost meanwhile; nothing where they have no such rows.
    """
    there = [rank for rank in participants(ch) if rank not in ch.departed]
    for rank in there:
        ch.send(rank, Judge())
    try:
        rows, squares = add_up(ch, there, 2)
    except (PeerFailed, TooFewWorkers):
        return {"test_rmse": math.nan}
    if rows < 0 or squares < 0:  # only the sum is known: nobody can say whose part it was
        return {"test_rmse": math.nan}
    return {"test_rmse": math.sqrt(squares / (rows << exact.FRACTION_BITS))} if rows else {}


def own_part(job: Job[Params], rows: Path | None, rank: int) -> "Dataset":
    """Participant: its own file, in the columns of the public schema."""
    from fedmpi.data.schema import Schema

    return prepared_by(Schema.from_json(job.schema), job, own_rows(job, rows, rank))


def prepared_by(schema: "Schema", job: Job[Params], data: "Dataset") -> "Dataset":
    """A set whose text became columns, the same on all ranks; or what a file of statistics says was done to it."""
    from fedmpi.data.loading import prepared, prepared_as

    path = job.data["statistics"]
    return prepared_as(data, path) if path else prepared(data, schema.unscaled())


def trained(ch: Channel, params: Params, A: Vector, b: Vector, setup: Setup, run: Path | None) -> tuple[Vector, float]:
    """Participant: the model that S1 publishes at the end of a training on these rows."""
    shelf = None
    if run is not None:
        from fedmpi.ppadmm.checkpoints import OwnShelf

        shelf = OwnShelf(run, ch.rank, A, b, earlier=params.on_dropout == "rejoin")
    salt = salt_of(params, text_of(setup.job))
    return participant(ch, params, Own(A, b, salt, shelf=shelf, first_iteration=setup.iteration))


def part(job: Job[Params], rank: int, parts: int, digest: bytes = b"") -> tuple[Vector, Vector]:
    """The rows of the participant at a rank: A_i (m_i, d) and b_i (m_i,)."""
    from fedmpi.data.partition import rows_of

    data = job.load()
    data.check_same(digest, rank)
    rows = rows_of(rank - AUXILIARY - 1, parts, len(data.y_train), data.groups)
    return data.X_train[rows].astype(np.float64), data.y_train[rows]
