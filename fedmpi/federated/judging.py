"""How good the final model is on rows that lie apart: sums over the hosts' own test rows, under masks."""

import hashlib
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.core import exact
from fedmpi.errors import ProtocolError
from fedmpi.federated.messages import SERVER
from fedmpi.federated.statistics import add_up, contribute
from fedmpi.learn import FlatModel, Inputs, build_model, evaluate
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.net import Channel, Float64, Message

if TYPE_CHECKING:
    from fedmpi.runs.job import Job


class Judge(Message, tag=115):
    """Server → host, at the end: the final model, shape (h,), to be tried on test rows that the server has not."""

    w: Float64


def judge(ch: Channel, w: NDArray[np.float64], classes: int, hosts: Collection[int]) -> dict[str, Any]:
    """Server: loss and accuracy over the test rows of these hosts, and how many they have of each class.

    Nothing where they have none.
    """
    for rank in hosts:
        ch.send(rank, Judge(w))
    right, diverged, loss, *counts = add_up(ch, hosts, 3 + classes)
    rows = sum(counts)
    if min(counts) < 0 or not 0 <= right <= rows:  # only the sum is known: nobody can say whose part it was
        raise ProtocolError(f"sums over test rows must be those of rows, got {right} right of {counts}")
    if not rows:
        return {}
    mean = math.nan if diverged else loss / (rows << exact.FRACTION_BITS)
    return {"test_loss": mean, "test_accuracy": right / rows, "test_classes": counts}


def be_judge(ch: Channel, job: "Job[Any]", fewest: int) -> None:
    """Host: try the model, and tell counts and the sum of losses under masks."""
    data = job.load()
    order = ch.recv_any(SERVER, (Judge,), shapes={"w": (None,)}, patient=True)
    assert isinstance(order, Judge)

    def numbers() -> list[int]:
        dtype, shape = getattr(torch, job.params.dtype), input_shape(data)
        flat = FlatModel(build_model(job.params.model, shape, len(data.classes), job.seed, dtype))
        flat.load(order.w)
        inputs = Inputs.of(data.X_test, data.y_test, divisor_of(data), dtype, shape=shape)
        n = len(inputs)
        loss, accuracy = evaluate(flat.model, inputs) if n else (0.0, 0.0)
        diverged = not abs(loss) < exact.LARGEST
        counts = np.bincount(data.y_test, minlength=len(data.classes)).tolist()
        return [round(accuracy * n), int(diverged), 0 if diverged else exact.total(np.array([loss * n])), *counts]

    contribute(ch, numbers, hashlib.sha256(order.w.tobytes()).digest(), fewest)
