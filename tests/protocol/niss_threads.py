"""NISS on threads, for its tests: one training with what the server saw, or a whole command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedmpi.crypto.random import SecretStream, permutation
from fedmpi.federated.messages import Setup, stop
from fedmpi.learn import FlatModel, build_model, sample
from fedmpi.learn.inputs import input_shape
from fedmpi.net import Channel, run_local
from fedmpi.net.message import text_of
from fedmpi.niss import SYSTEM
from fedmpi.niss.client import Clients, host
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import FIRST_HOST, Outcome, State, TrackerSetup, Watch, server, setup
from fedmpi.niss.tracker import tracker
from fedmpi.runs.job import Job

HANG_SECONDS = 60.0
"""No wait of a training that works lasts nearly as long."""

SYNTHETIC = "synthetic:m=240,d=16,density=0.5,test=50,classes=3"

Role = Callable[[Channel], Any]


@dataclass
class Threads:
    """What a training left behind."""

    state: State
    start: State
    outcomes: list[Outcome]
    channels: dict[int, Channel] = field(default_factory=dict)

    def views(self, rank: int) -> list[tuple[int, Any]]:
        """(source, message) of all that a rank received, in order (needs record_views=True)."""
        return self.channels[rank]._views


def trained_host(
    change: Callable[[Clients], Clients] = lambda own: own, secret: Callable[[], Any] = SecretStream
) -> Role:
    """A host whose clients are changed, or whose secrets come from elsewhere."""

    def play(ch: Channel) -> None:
        order = ch.recv(0, Setup, shapes={"job": (None,)})
        job = Job.from_json(text_of(order.job), Params)
        ch.timeout_seconds = 2 * order.timeout_seconds
        hosts = ch.size - FIRST_HOST
        own = Clients.load(job, ch.rank - FIRST_HOST, hosts, job.params.clients or hosts, 1)
        host(ch, job.params, change(own), secret)

    return play


def plain_tracker(ch: Channel) -> None:
    tracker(ch, ch.recv(0, TrackerSetup), permutation)


def train_on_threads(
    params: Params,
    hosts: int = 3,
    *,
    dataset: str = SYNTHETIC,
    seed: int = 0,
    roles: Mapping[int, Role] | None = None,
    every: Role | None = None,
    w: np.ndarray | None = None,
    start: State | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Threads:
    """Train; `roles` replaces single ranks, `every` all hosts."""
    outcomes: list[Outcome] = []
    starts: list[State] = []
    channels: dict[int, Channel] = {}
    clients = params.clients or hosts

    def keeping(role: Role) -> Role:
        def play(ch: Channel) -> Any:
            channels[ch.rank] = ch
            return role(ch)

        return play

    def lead(ch: Channel) -> State:
        job = Job(params, dataset, {}, seed)
        data = job.load()
        model = build_model(params.model, input_shape(data), len(data.classes), seed)
        first = FlatModel(model).read() if w is None else w
        starts.append(start or State(0, first, np.zeros(clients, np.int64)))
        federation = setup(ch, params, job.to_json(), clients)
        keep = watch or Watch()

        def after(state: State, outcome: Outcome) -> None:
            outcomes.append(outcome)
            keep.after(state, outcome)

        m = params.clients_per_round(clients)
        state = server(
            ch, params, federation, lambda t: sample(seed, t, clients, m), starts[0], replace(keep, after=after)
        )
        stop(ch)
        return state

    others = {1: plain_tracker, **dict.fromkeys(range(2, hosts + 2), every or trained_host()), **(roles or {})}
    results = run_local(
        [keeping(role) for role in [lead, *(others[rank] for rank in sorted(others))]],
        **{"timeout_seconds": HANG_SECONDS, "role_of": SYSTEM.role_of, **options},
    )
    return Threads(results[0], starts[0], outcomes, channels)


def command_on_threads(hosts: int, *argv: Any) -> None:
    """``python -m fedmpi.niss``, with threads for ranks."""
    SYSTEM.on_threads(hosts + 2, argv, HANG_SECONDS)
