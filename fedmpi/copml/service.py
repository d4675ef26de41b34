"""How a training begins and ends, and a rank's whole life: rank 0 leads, and every rank has rows."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.copml.member import LEADER, Keep, Start, Task, Trained, Watch
from fedmpi.copml.params import Params
from fedmpi.copml.protocol import owner
from fedmpi.copml.quantized import CUT, features, targets
from fedmpi.core import exact
from fedmpi.errors import ProtocolError, UsageError
from fedmpi.federated.rows import own_rows
from fedmpi.federated.statistics import Survey, add_up, answer, check_meaning, contribute
from fedmpi.machines.placement import tell_host
from fedmpi.net import Channel, Float64, Message, UInt32
from fedmpi.net.costs import report
from fedmpi.net.meaning import POSITIVE, ROWS, between, judged
from fedmpi.net.message import UInt8, bytes_of, text_of
from fedmpi.net.orders import Leave
from fedmpi.runs.job import Job
from fedmpi.runs.own_options import OwnOptions

if TYPE_CHECKING:
    from fedmpi.data import Dataset

Rows = NDArray[np.intp]
"""Places of training rows in a data set."""

SHAPES = {"columns": (None,), "job": (None,), "w": (None,)}

MOST_WEIGHT_BITS = 52
"""Of weights to go on from: so large they are exact in float64, and no run comes near."""


class Setup(Message, tag=1):
    """Leader → owner, once: parameters and data set as JSON, public; the digest of the data set if all have one.

    `every`: after so many iterations each the weights are opened to all. `begun`: iterations that an earlier run has
    done, and `w` the w̄ that it opened then, shape (dC,).
    """

    job: Annotated[UInt8, judged("fedmpi.runs.job:Job.from_json")]
    timeout_seconds: Annotated[float, POSITIVE]
    digest: Annotated[bytes, judged("fedmpi.data.dataset:Dataset.check_same")]
    every: int
    begun: int
    w: Annotated[Float64, judged("fedmpi.copml.service:going_on")]


class Ready(Message, tag=2):
    """Owner → leader, once: how many rows it has."""

    rows: Annotated[int, between(1, ROWS)]


class Everybody(Message, tag=3):
    """Leader → owner, once: how many rows each owner has, shape (N,)."""

    rows: Annotated[UInt32, between(1, ROWS)]


class Judge(Message, tag=16):
    """Leader → owner, at the end where rows lie apart: try the model on your test rows."""


def lead(
    ch: Channel,
    job: Job[Params],
    data: "Dataset",
    mine: Rows,
    watch: Watch,
    *,
    start: Start | None = None,
    every: int = 0,
    keep: Keep = lambda done, w: None,
) -> Trained:
    """Rank 0: one training with the other owners.

    Parameters
    ----------
    data : Dataset
    mine : array
        Which of its training rows are this owner's.
    start, every
        Of `Task`.
    """
    digest = b"" if job.schema is not None else data.digest
    begun, w = (start.iteration, start.w.reshape(-1)) if start else (0, np.zeros(0))
    for rank in range(1, ch.size):
        ch.send(rank, Setup(bytes_of(job.to_json()), ch.timeout_seconds, digest, every, begun, w.astype(np.float64)))
    with ch.phase("distribute"):
        ready = ch.gather(range(1, ch.size), Ready)
    rows = [len(mine), *(ready[rank].rows for rank in range(1, ch.size))]
    if wrong := [rank for rank, count in enumerate(rows) if not 0 < count < 2**32]:
        raise UsageError(f"every owner must have training rows, got none on rank {wrong[0]}")
    for rank in range(1, ch.size):
        ch.send(rank, Everybody(np.array(rows, np.uint32)))
    task, X, Y = prepared_rows(job.params, data, mine, rows)
    return owner(ch, replace(task, start=start, every=every), X, Y, watch, keep)


def follow(ch: Channel, own: OwnOptions) -> None:
    """Any other owner of a command line."""
    tell_host(ch)
    order = ch.recv_any(LEADER, (Survey, Setup, Leave), shapes=SHAPES, patient=True)
    if not isinstance(order, Survey | Setup):
        return
    text = text_of(order.job)
    job = Job.from_json(text, Params)
    if own.rows is not None and job.schema is None:
        raise UsageError(f"--own-rows must be used with --schema on rank 0, got --own-rows {own.rows} alone")
    ch.outwait(order.timeout_seconds)
    if isinstance(order, Survey):
        from fedmpi.data.loading import prepared

        raw = raw_rows(job, own, ch.rank)
        check_meaning(order.columns, raw, ch.rank)
        rows = part(job, raw, ch.rank, ch.size)
        data = prepared(raw, answer(ch, text, raw, rows))
        setup = ch.recv_any(LEADER, (Setup, Leave), shapes=SHAPES, patient=True)
        if not isinstance(setup, Setup):
            return
        if not np.array_equal(setup.job, order.job):
            raise ProtocolError(f"Setup must be of the job that was surveyed, got {text_of(setup.job)[:200]}")
    else:
        setup, data = order, published(job, own, ch.rank)
        rows = part(job, data, ch.rank, ch.size)
    data.check_same(setup.digest, ch.rank)
    take_part(ch, job, data, rows, setup)


def going_on(setup: Setup, task: Task) -> Task:
    """The task with what the leader says of an earlier run, and of when the weights are opened.

    Raises
    ------
    ProtocolError
        If that can't be.
    """
    iterations, w = task.params.iterations, setup.w
    if setup.every < 0 or not 0 <= setup.begun < iterations:
        raise ProtocolError(f"Setup must go on below iteration {iterations}, got {setup.begun}, every {setup.every}")
    if setup.begun == 0 and not len(w):
        return replace(task, every=setup.every)
    most = 2**MOST_WEIGHT_BITS
    count = task.columns * task.outputs
    if w.shape != (count,) or not (np.abs(w) < most).all() or (w != np.rint(w)).any():
        raise ProtocolError(f"Setup must hold {count} whole weights below {most}, got {len(w)}, or others")
    whole = w.astype(np.int64).reshape(task.columns, task.outputs)
    return replace(task, start=Start(setup.begun, whole), every=setup.every)


def take_part(ch: Channel, job: Job[Params], data: "Dataset", mine: Rows, setup: Setup) -> None:
    """Any other owner: one training on its rows; where rows lie apart it tries the model on its test rows too."""
    ch.send(LEADER, Ready(len(mine)))
    rows = ch.recv(LEADER, Everybody, shapes={"rows": (ch.size,)}).rows.tolist()
    if min(rows) < 1 or rows[ch.rank] != len(mine):
        raise ProtocolError(f"Everybody must have rows, and rank {ch.rank} its {len(mine)}, got {rows}")
    task, X, Y = prepared_rows(job.params, data, mine, rows)
    trained = owner(ch, going_on(setup, task), X, Y)
    if job.schema is not None:
        ch.recv_any(LEADER, (Judge,), patient=True)
        contribute(ch, counted(data, trained.W), model_label(trained.W), ch.size // 2)
    ch.recv_any(LEADER, (Leave,), patient=True)
    ch.send(LEADER, report(ch))


def judge(ch: Channel, data: "Dataset", W: NDArray[np.float64]) -> dict[str, Any]:
    """Leader: loss and accuracy over the test rows of all owners who are here, from sums.

    Raises
    ------
    PeerFailed, TooFewWorkers
        If one is lost meanwhile.
    """
    there = [rank for rank in range(1, ch.size) if rank not in ch.departed]
    for rank in there:
        ch.send(rank, Judge())
    own = counted(data, W)()
    right, loss, *counts = (a + b for a, b in zip(add_up(ch, there, len(own)), own, strict=True))
    rows = sum(counts)
    if not rows:
        return {}
    loss_mean = loss / (rows << exact.FRACTION_BITS)
    return {"test_loss": loss_mean, "test_accuracy": right / rows, "test_classes": counts}


def counted(data: "Dataset", W: NDArray[np.float64]) -> Callable[[], list[int]]:
    """How many test rows are right, the sum of their losses in fixed point, and how many there are of each class."""

    def numbers() -> list[int]:
        z, y, classes = outputs(data, data.X_test, W), data.y_test, len(data.classes)
        right = int((decided(z) == y).sum())
        return [right, exact.total(losses(z, y)), *np.bincount(y, minlength=classes).tolist()]

    return numbers


def outputs(data: "Dataset", X: NDArray[Any], W: NDArray[np.float64]) -> NDArray[np.float64]:
    """Z = XW of rows, shape (m, C)."""
    return features(X, divisor_of(data), largest_of(data)) @ W


def decided(z: NDArray[np.float64]) -> NDArray[np.int64]:
    """The class of each row."""
    return z.argmax(axis=1) if z.shape[1] > 1 else (z[:, 0] > 0).astype(np.int64)


def losses(z: NDArray[np.float64], y: NDArray[Any]) -> NDArray[np.float64]:
    """Cross-entropy of the sigmoids of each row's outputs, their mean, in nats, shape (m,)."""
    Y = targets(y, z.shape[1] if z.shape[1] > 1 else 2)
    return np.asarray((np.logaddexp(0.0, z) - Y * z).mean(axis=1))


def model_label(W: NDArray[np.float64]) -> bytes:
    """What all owners must agree on who judge a model."""
    return hashlib.sha256(W.tobytes()).digest()


def divisor_of(data: "Dataset") -> float:
    """What features are divided by: of images their largest value, which is public; tables have been prepared."""
    return float(np.abs(data.X_train).max(initial=0)) or 1.0 if data.shape else 1.0


def largest_of(data: "Dataset") -> float:
    """At least every feature, divided and cut off."""
    return 1.0 if data.shape else CUT


def prepared_rows(
    params: Params, data: "Dataset", mine: Rows, rows: list[int]
) -> tuple[Task, NDArray[np.float64], NDArray[np.int64]]:
    """The task, and an owner's rows and targets as it takes them."""
    largest = largest_of(data)
    real = features(data.X_train[mine], divisor_of(data), largest)
    Y = targets(data.y_train[mine], len(data.classes))
    return Task(params, rows, real.shape[1], Y.shape[1], largest, params.center and bool(data.shape)), real, Y


def raw_rows(job: Job[Params], own: OwnOptions, rank: int) -> "Dataset":
    """The data set as it is, before anything is done to its columns; where rows lie apart, this owner's."""
    return job.load_raw() if job.schema is None else own_rows(job, own.rows_of(rank), rank)


def published(job: Job[Params], own: OwnOptions, rank: int) -> "Dataset":
    """The data set, prepared without looking at anybody's rows but as the file --statistics says, or as it is."""
    if job.schema is None:
        return job.load()
    from fedmpi.data.loading import prepared_as

    if job.data["statistics"] is None:
        raise ProtocolError("a job on rows that lie apart must be surveyed or name --statistics, got neither")
    return prepared_as(own_rows(job, own.rows_of(rank), rank), job.data["statistics"])


def part(job: Job[Params], data: "Dataset", rank: int, owners: int) -> Rows:
    """Which rows are an owner's: all of its own file, or its part of the data set."""
    from fedmpi.data.partition import rows_of

    if job.schema is not None:
        return np.arange(len(data.y_train))
    return rows_of(rank, owners, len(data.y_train), data.groups)
