"""A server that sends trap weights: what a sum over many clients then tells of single rows.

On threads, for the server of a recorded run is honest. What it is given is what an honest one decodes: the sum.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fedmpi.attacks.imprint import imprinted, trap
from fedmpi.attacks.metrics import mean_squared_errors
from fedmpi.audit.clients import Federated, Vector
from fedmpi.audit.finding import PICTURED, Finding, as_images
from fedmpi.audit.partners import track
from fedmpi.audit.uploads import SUCCESS
from fedmpi.crypto.reals import UnitRandom
from fedmpi.data import load
from fedmpi.federated.messages import SERVER, Setup, stop
from fedmpi.learn import FlatModel, build_model
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.net import Channel, run_local
from fedmpi.niss import client as niss_client
from fedmpi.niss import protocol as niss
from fedmpi.niss.params import Params as NissParams
from fedmpi.pbpfl import host as pbpfl_host
from fedmpi.pbpfl import protocol as pbpfl
from fedmpi.pbpfl.client import Clients as PbpflClients
from fedmpi.pbpfl.messages import Outputs
from fedmpi.pbpfl.params import Params as PbpflParams
from fedmpi.pbpfl.structure import structure_of
from fedmpi.runs.job import Job

CLIENTS, ROWS, HOSTS = 20, 5, 2
"""Rows are those of each client."""

RATE = 0.1
"""η."""

NOTHING = "none against a server that chooses the weights: a secure sum is for one that follows the protocol"

NOISE = "noise of (ε, δ) on what is summed hides a row, whatever the weights are"

TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Case:
    """How uploads are summed."""

    system: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    trapped: bool = True
    protects: bool | None = None


def cases() -> Iterator[Case]:
    """Every sum over clients that one server decodes; with an honest model; and with noise in the sum."""
    for scheme in ("double", "lightsecagg"):
        yield Case("niss", f"fedavg, {scheme}", {"method": "fedavg", "secure_sum": scheme})
    yield Case("niss", "niss, τ² = 0", {"method": "niss", "share_count": 3})
    yield Case("niss", "niss, τ² = 1", {"method": "niss", "share_count": 3, "tau_squared": 1.0}, protects=True)
    summed = {"method": "distributed-dp", "secure_sum": "lightsecagg", "clipping": "update", "epsilon": 3.0}
    yield Case("niss", "distributed-dp, ε = 3, lightsecagg", summed, protects=True)
    yield Case("niss", "fedavg, double", {"method": "fedavg", "secure_sum": "double"}, trapped=False)
    yield Case("pbpfl", "pbpfl-masked", {"method": "pbpfl-masked"})


def findings(seed: int) -> Iterator[Finding]:
    """Each case."""
    for case in cases():
        yield found(case, seed)


def found(case: Case, seed: int) -> Finding:
    """One round: the clients' rows against what the sum tells of them."""
    torch.set_num_threads(1)
    own: dict[str, Any] = {"clients": CLIENTS, "rounds": 1, "batch_size": ROWS, "learning_rate": RATE, "model": "mlp"}
    own, rows = own | case.options, dict[str, Any](max_rows=CLIENTS * ROWS)
    data = load("digits", seed=seed, **rows)
    shape, classes = input_shape(data), len(data.classes)
    model = build_model("mlp", shape, classes, seed)
    if case.trapped:
        trap(model, data.X_test / divisor_of(data), seed)
    w = FlatModel(model).read().astype(np.float64)
    if case.system == "niss":
        moved = of_niss(Job(NissParams(fraction=1.0, epochs=1, **own), "digits", rows, seed), w)
    else:
        moved = of_pbpfl(Job(PbpflParams(**own), "digits", rows, seed), model, shape, w)
    candidates = imprinted(Federated(model, classes, {}).gradient((w - moved) / RATE))
    true = (data.X_train / divisor_of(data)).astype(np.float64)
    errors, nearest = [], []
    for row in true:
        distances = mean_squared_errors(candidates, np.broadcast_to(row, candidates.shape))
        errors.append(float(np.nan_to_num(distances.min(initial=np.inf), nan=np.inf)))
        nearest.append(candidates[int(distances.argmin())] if len(candidates) else np.full(len(row), 0.5))
    order = np.argsort(errors)[:PICTURED]
    pictures = {"the clients' rows": true[order], "found in the sum": np.clip(np.stack(nearest)[order], 0, 1)}
    return Finding(
        case.system,
        case.name,
        "server, which sends trap weights" if case.trapped else "server",
        f"the sum of one round over {CLIENTS} clients with {ROWS} rows each (on threads)",
        "rows between neighbouring thresholds (imprint)",
        NOISE if case.protects else NOTHING,
        case.protects,
        "mean squared error",
        tuple(errors),
        sum(error < SUCCESS for error in errors),
        seeds=frozenset([seed]),
        images={title: as_images(np.stack([*part]).reshape(len(part), *shape)) for title, part in pictures.items()},
    )


def of_niss(job: Job[NissParams], w: Vector) -> Vector:
    """The model that the server works out of a round which it began with w."""
    everybody = np.arange(CLIENTS, dtype=np.uint32)

    def lead(ch: Channel) -> Vector:
        federation = niss.setup(ch, job.params, job.to_json(), CLIENTS)
        start = niss.State(0, w, np.zeros(CLIENTS, np.int64))
        state = niss.server(ch, job.params, federation, lambda t: everybody, start, niss.Watch())
        stop(ch)
        return state.w

    def follow(ch: Channel) -> None:
        ch.recv(SERVER, Setup)
        here = niss_client.Clients.load(job, ch.rank - niss.FIRST_HOST, HOSTS, CLIENTS, 1)
        niss_client.host(ch, job.params, here)

    moved: Vector = run_local([lead, track, *[follow] * HOSTS], timeout_seconds=TIMEOUT_SECONDS)[0]
    return moved


def of_pbpfl(job: Job[PbpflParams], model: torch.nn.Module, shape: tuple[int, ...], w: Vector) -> Vector:
    """The same of pbpfl-masked, under its own noise, which the server takes off again."""
    structure = structure_of(model, shape)

    def lead(ch: Channel) -> Vector:
        federation = pbpfl.setup(ch, job.to_json(), structure.last.name, CLIENTS)
        task = pbpfl.Task(job.params, structure, federation, UnitRandom())
        state = pbpfl.server(ch, task, pbpfl.State(0, w), pbpfl.Watch())
        stop(ch)
        return state.w

    def follow(ch: Channel) -> None:
        last = ch.recv(SERVER, Outputs).layer
        ch.recv(SERVER, Setup)
        pbpfl_host.host(ch, job.params, PbpflClients.load(job, last, ch.rank - 1, HOSTS, CLIENTS, 1))

    moved: Vector = run_local([lead, *[follow] * HOSTS], timeout_seconds=TIMEOUT_SECONDS)[0]
    return moved
