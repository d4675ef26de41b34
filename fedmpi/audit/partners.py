"""NISS: a server in league with all other clients, who know the noise that they shared with a client (Theorem 3)."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from fedmpi.attacks.linear import layer_input
from fedmpi.attacks.metrics import mean_squared_errors
from fedmpi.audit.finding import Finding, as_images
from fedmpi.audit.recording import Seen, read_view
from fedmpi.audit.uploads import CLOSED_FORM, SUCCESS
from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.random import SecretStream, permutation
from fedmpi.errors import ProtocolError, TooFewWorkers
from fedmpi.federated.messages import SERVER, Setup, stop
from fedmpi.learn import FlatModel
from fedmpi.net import Channel, run_local
from fedmpi.niss.client import SEED_BYTES, Clients, host, open_shares
from fedmpi.niss.noise import expand
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import FIRST_HOST, Shares, State, TrackerSetup, Watch, server, setup
from fedmpi.niss.tracker import tracker
from fedmpi.runs.job import Job

CLIENTS = 6
"""Each on a rank of its own, with one row; each is the victim of all others in its turn."""

CLAIM = "τ² ≥ 2ρ - 1 leaves the noise of the mechanism on an upload, when a part ρ of the others collude (Theorem 3)"

CONTROL = "with τ² < 2ρ - 1 colluders take noise away (positive control)"

TIMEOUT_SECONDS = 60.0

Vector = NDArray[np.float64]


@dataclass(eq=False)
class Partner:
    """What a colluding client knows beside its view: the seeds it drew, and its key."""

    pair: KeyPair = field(default_factory=KeyPair)
    seeds: list[bytes] = field(default_factory=list)

    def stream(self) -> SecretStream:
        """A fresh stream, of which the first seed is kept."""
        return _Kept(self.seeds)


class _Kept(SecretStream):
    def __init__(self, seeds: list[bytes]):
        super().__init__()
        self._seeds = seeds

    def words(self, count: int) -> NDArray[np.uint32]:
        drawn = super().words(count)
        if count == SEED_BYTES // 4:
            self._seeds.append(drawn.tobytes())
        return drawn


def findings(seed: int) -> Iterator[Finding]:
    """ρ = 1: with τ² = 0, which must break, and with τ² = 1."""
    for tau2 in (0.0, 1.0):
        yield collude(tau2, seed)


def one_row_each(tau2: float, seed: int) -> tuple[Params, Job[Params], Clients]:
    """A round of clients with one row each, which take one step."""
    params = Params(
        clients=CLIENTS, fraction=1.0, rounds=1, epochs=1, batch_size=1, learning_rate=0.1, tau_squared=tau2,
        share_count=CLIENTS - 1,
    )  # fmt: skip
    job = Job(params, "digits", {"classes": ["0", "1"], "max_rows": CLIENTS}, seed)
    return params, job, Clients.load(job, 0, 1, CLIENTS, 1)


def row_of(own: Clients, change: Vector) -> Vector:
    """The row behind one step, from the gradient of the first layer."""
    first = next(own.trainers[0].model.parameters())
    weight, bias = np.split(change[: first.numel() + len(first)], [first.numel()])
    return layer_input(weight.reshape(first.shape), bias)


def track(ch: Channel) -> None:
    """An honest tracker."""
    tracker(ch, ch.recv(SERVER, TrackerSetup), permutation)


def collude(tau2: float, seed: int) -> Finding:
    """One round on threads; of each client's upload the others take what they know."""
    params, job, own = one_row_each(tau2, seed)
    w = FlatModel(own.trainers[0].model).read()
    partners = [Partner() for _ in range(CLIENTS)]
    with TemporaryDirectory(prefix="fedmpi-") as folder:
        views = train(params, job, w, partners, Path(folder))
    (round_,) = (seen for seen in views[FIRST_HOST] if seen.kind == "Round")
    uploads = {int(seen["clients"][0]): seen["values"][0] for seen in views[SERVER] if seen.kind == "Uploads"}
    rows, found = [], []
    for victim, upload in sorted(uploads.items()):
        known = sum(shared(views[FIRST_HOST + k], k, victim, partners[k], len(w)) for k in uploads if k != victim)
        change = w - (upload - known) / float(round_["weights"][0])
        found.append(row_of(own, change))
        rows.append(own.inputs[victim].X.double().numpy().reshape(-1))
    errors = mean_squared_errors(np.stack(found), np.stack(rows))
    protects = tau2 >= 1
    return Finding(
        "niss",
        f"niss, τ² = {tau2:g}",
        "server and all other clients",
        "one upload, 1 step on 1 row, and the shares of its noise (on threads)",
        CLOSED_FORM,
        CLAIM if protects else CONTROL,
        protects,
        "mean squared error",
        tuple(errors.tolist()),
        int((errors < SUCCESS).sum()),
        seeds=frozenset([seed]),
        images={"the clients' rows": as_images(np.stack(rows)), "found": as_images(np.stack(found))},
    )


def train(
    params: Params,
    job: Job[Params],
    w: Vector,
    partners: list[Partner],
    folder: Path,
    track: Callable[[Channel], None] = track,
    *,
    may_end: bool = False,
) -> list[list[Seen]]:
    """One training on threads, with a host for each of the partners; what each rank received but the tracker.

    Parameters
    ----------
    may_end : bool
        Whether those who are lied to may end it; what was received until then is what the adversary has.
    """
    clients, hosts = params.clients or len(partners), len(partners)

    def lead(ch: Channel) -> None:
        federation = setup(ch, params, job.to_json(), clients)
        everybody = np.arange(clients, dtype=np.uint32)
        try:
            server(ch, params, federation, lambda t: everybody, State(0, w, np.zeros(clients, np.int64)), Watch())
            stop(ch)
        finally:
            ch.save_views(folder)

    def follow(ch: Channel) -> None:
        ch.recv(SERVER, Setup)
        here = ch.rank - FIRST_HOST
        own = Clients.load(job, here, hosts, clients, 1)
        try:
            host(ch, params, own, partners[here].stream, lambda: partners[here].pair)
        finally:
            ch.save_views(folder)

    with contextlib.suppress(*((ProtocolError, TooFewWorkers) if may_end else ())):
        run_local([lead, track, *[follow] * hosts], timeout_seconds=TIMEOUT_SECONDS, record_views=True)
    ranks = [SERVER, *range(FIRST_HOST, FIRST_HOST + hosts)]
    views = {rank: read_view(folder / f"rank-{rank}.npz") for rank in ranks}
    return [views.get(rank, []) for rank in range(FIRST_HOST + hosts)]


def shared(view: list[Seen], partner: int, victim: int, knows: Partner, h: int) -> Vector:
    """The noise of a victim's upload that one partner knows, shape (h,): n_i that it got, less what it dealt."""
    (told,) = (seen for seen in view if seen.kind == "Neighbours")
    edges = dict(
        zip(
            zip(told["senders"].tolist(), told["receivers"].tolist(), strict=True),
            np.sqrt(told["variances"]).tolist(),
            strict=True,
        )
    )
    publics = {int(k): key.tobytes() for k, key in zip(told["clients"], told["keys"], strict=True)}
    dealt = dict(zip((edge for edge in edges if edge[0] == partner), knows.seeds, strict=False))
    noise = np.zeros(h)
    if (partner, victim) in dealt:
        noise -= expand(dealt[partner, victim], edges[partner, victim], h)
    for seen in view:
        if seen.kind == "Shares" and seen.source == FIRST_HOST + victim:
            message = Shares(int(seen["round"]), seen["senders"], seen["receivers"], seen["sealed"])
            opened = open_shares(message, {(victim, partner)}, {partner: knows.pair}, publics)
            noise += expand(opened[victim, partner], edges[victim, partner], h)
    return noise
