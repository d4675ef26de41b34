"""A tracker of NISS that lies, and a master of codedml that asks what it likes.

The tracker alone tells clients how much noise to share. The master owns the data: it has nothing to learn, but what it
asks for must not tell the workers anything, whatever it is.
"""

from collections.abc import Iterator
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedmpi.attacks.metrics import mean_squared_errors
from fedmpi.audit import colluders
from fedmpi.audit.finding import Finding
from fedmpi.audit.partners import CLIENTS, TIMEOUT_SECONDS, Partner, one_row_each, row_of, track, train
from fedmpi.audit.recording import Recorded
from fedmpi.audit.statistics import least
from fedmpi.audit.uploads import CLOSED_FORM, SUCCESS
from fedmpi.codedml import training
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import CodedWorkers, stop
from fedmpi.codedml.service import serve
from fedmpi.data import load
from fedmpi.federated.messages import SERVER
from fedmpi.learn import FlatModel
from fedmpi.net import Channel, run_local
from fedmpi.net.orders import dismiss
from fedmpi.niss.protocol import FIRST_HOST, Neighbours

TRACKER = "a tracker that lies can't switch noise off: clients leave that are told to draw less than their own σ_k"

WORKERS, EXCHANGES = 7, 40
"""As many workers as K = T = 2 take, and how often they are asked."""

MASTER = "any T workers learn nothing, whatever they are asked for"

QUERIES = {
    "zeros alone are asked for": 0,
    "the same vector is asked for every time": 12345,
}
"""What is in each coordinate."""


def findings(seed: int) -> Iterator[Finding]:
    """The tracker, and each kind of query of the master."""
    yield quiet(seed)
    for name in QUERIES:
        yield chosen(seed, name)


def quiet(seed: int) -> Finding:
    """A round of NISS in which the tracker tells all clients to draw no noise, and the server solves for their rows."""
    params, job, own = one_row_each(0.0, seed)
    w = FlatModel(own.trainers[0].model).read()

    def lying(ch: Channel) -> None:
        send = ch.send

        def told(dest: int, message: Any) -> None:
            if isinstance(message, Neighbours):
                message = replace(message, variances=np.zeros_like(message.variances))
            send(dest, message)

        ch.send = told  # type: ignore[method-assign]
        track(ch)

    with TemporaryDirectory(prefix="fedmpi-") as folder:
        views = train(params, job, w, [Partner() for _ in range(CLIENTS)], Path(folder), lying, may_end=True)
    arrived = (seen for seen in views[SERVER] if seen.kind == "Uploads")
    uploads = {int(k): value for seen in arrived for k, value in zip(seen["clients"], seen["values"], strict=True)}
    errors = []
    for k in range(CLIENTS):
        if k not in uploads:
            errors.append(inf)
            continue
        (order,) = (seen for seen in views[FIRST_HOST + k] if seen.kind == "Round")
        found = row_of(own, w - uploads[k] / float(order["weights"][0]))
        true = own.inputs[k].X.double().numpy().reshape(1, -1)
        errors.append(float(mean_squared_errors(found[None], true)[0]))
    return Finding(
        "niss",
        "niss, τ² = 0",
        "server, and a tracker that lies",
        "one upload, 1 step on 1 row (on threads)",
        CLOSED_FORM,
        TRACKER,
        True,
        "mean squared error",
        tuple(errors),
        sum(error < SUCCESS for error in errors),
        seeds=frozenset([seed]),
    )


def chosen(seed: int, name: str) -> Finding:
    """What T workers see of codedml when the master asks for chosen products, in place of a training."""
    params = Params(parallelization=2, privacy=2)
    data = load("digits", classes=["4", "9"], seed=seed, max_rows=240)
    problem = Problem.prepare(params, data.X_train, data.y_train, len(data.classes), None)
    task = training.new_task(params, problem, seed)
    rows, columns = problem.X_bar.shape
    outputs = problem.objective.Y.shape[1]

    def ask(ch: Channel) -> None:
        workers = CodedWorkers(ch, task)
        ch.tolerated = range(1, ch.size)
        workers.set_up(again=False)
        for step in range(EXCHANGES):
            transposed = step % 2 == 1
            shape = (rows if transposed else columns, outputs)
            workers.multiply(step, np.full(shape, QUERIES[name], np.int64), transposed, 0, lambda: None)
        stop(ch)
        dismiss(ch)

    def answer(ch: Channel) -> None:
        serve(ch)
        ch.save_views(folder / "views")

    with TemporaryDirectory(prefix="fedmpi-") as path:
        folder = Path(path)
        run_local([ask, *[answer] * WORKERS], timeout_seconds=TIMEOUT_SECONDS, record_views=True)
        primes = problem.precision.primes
        known = {"N": WORKERS, "K": 2, "T": 2, "primes": list(primes)}
        result = {"system": "codedml", "method": "coded", "ranks": WORKERS + 1, "seed": seed, "params": known}
        run = Recorded(folder, "chosen", config=asdict(params), result=result)
        group, T = colluders.group_of(run)
        p_values = []
        for ranks in colluders.coalitions(group, T):
            own = [colluders.secrets(run, rank, primes) for rank in ranks]
            p_values.append(least(colluders.uniformity(own, primes, set(ranks))))
    row = colluders.statistical(run, T, f"uniformity of all they see (χ²); {name}", p_values)
    asked = f"{row.adversary}, and a master that chooses"
    return replace(row, adversary=asked, saw="all messages to them (on threads)", claim=MASTER)
