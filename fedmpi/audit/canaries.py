"""A lower bound on each ε that a run prints, by canaries of the largest size that the ε allows for.

The adversary knows what a client has computed, but for one coordinate: there, with the canary, it is larger by all of
the sensitivity Δ. What it got less what it knows is noise, or noise and Δ. Every coordinate has noise of its own, and
is one attempt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.bounds import Game
from fedmpi.audit.clients import SERVER, orders
from fedmpi.audit.finding import Finding, tried
from fedmpi.audit.recording import Recorded
from fedmpi.audit.uploads import described
from fedmpi.crypto.random import SecretStream
from fedmpi.niss.client import Clients, clipped
from fedmpi.niss.distributed import clipped_to
from fedmpi.niss.noise import on_grid
from fedmpi.niss.params import Params
from fedmpi.ppadmm import dssgd
from fedmpi.ppadmm.params import Params as PpadmmParams
from fedmpi.runs.job import Job

MOST_UPLOADS = 300
"""So many are trained again, at most: fewer rounds give a bound, too."""

ATTACK = "canary in one coordinate (likelihood ratio)"

UPLOADS = "the ε that is printed for one client's uploads"
MODELS = "the ε that is printed for the published models"
NONE = "no ε is promised (positive control)"

SHARED_ATTEMPTS = 20_000
"""Of DSSGD, whose attempts are cheap."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Played:
    """What the server got in a run, and what it would have got without noise."""

    params: Params
    own: Clients
    starts: dict[int, Vector]
    """Round → w_t."""
    weights: dict[tuple[int, int], float]
    """(round, client) → p_k."""
    values: dict[tuple[int, int], Vector]
    """(round, client) → its upload."""

    @classmethod
    def of(cls, run: Recorded) -> "Played":
        """From the views of the server and of hosts."""
        params, options = run.parameters(Params), run.options
        arguments = (options.dataset or "digits", options.scaled_load_arguments(), options.seed, options.class_weight)
        own = Clients.load(Job(params, *arguments), 0, 1, int(run.result["params"]["clients"]), 1)
        starts, weights = dict[int, Vector](), dict[tuple[int, int], float]()
        for order in orders(run):
            t = int(order["round"])
            starts[t] = order["w"]
            weights |= {(t, int(k)): float(p) for k, p in zip(order["clients"], order["weights"], strict=True)}
        values = {
            (int(seen["round"]), k): value
            for seen in run.view(SERVER, "Uploads")
            for k, value in zip(seen["clients"].tolist(), seen["values"], strict=True)
        }
        return cls(params, own, starts, weights, values)

    def rounds_of(self, client: int) -> list[int]:
        """Those in which the server got an upload of a client."""
        return [t for t, k in self.values if k == client]

    def most_often(self) -> int:
        """The client that uploaded in most rounds."""
        return max({k for _, k in self.values}, key=lambda k: len(self.rounds_of(k)))

    def sensitivity(self, t: int, client: int) -> float:
        """Δ_k in a round."""
        return self.params.sensitivity(self.weights[t, client], len(self.own.inputs[client]))

    def noise(self, t: int, clients: Sequence[int]) -> Vector:
        """Of what some clients uploaded in a round, all together."""
        w, total = self.starts[t], np.zeros(self.starts[t].shape)
        for k, trained in zip(clients, self.own.train(clients, t, w), strict=True):
            known = clipped(trained, w, self.params.clip) if self.params.clipping == "update" else trained
            total += self.values[t, k] - on_grid(self.weights[t, k] * known)
        return total


def findings(run: Recorded) -> Iterator[Finding]:
    """The server against the client with most uploads; anybody against the same client, by the published models."""
    if run.method == "distributed-dp":
        yield from of_sums(run)
        return
    played = Played.of(run)
    if not played.values:
        return
    client, delta = played.most_often(), played.params.delta
    rounds = played.rounds_of(client)[:MOST_UPLOADS]
    noise = [(played.noise(t, [client]), played.sensitivity(t, client)) for t in rounds]
    saw = f"{len(rounds)} upload{'s' * (len(rounds) > 1)} of one client, and its data but for the canary"
    yield row(run, "server", saw, UPLOADS, game(noise, promised(run, "upload", client), delta))
    together = {t: [k for s, k in played.values if s == t] for t in rounds}
    fewer = rounds[: max(MOST_UPLOADS // max(map(len, together.values())), 1)]
    noise = [(played.noise(t, together[t]), played.sensitivity(t, client)) for t in fewer]
    saw = f"{len(fewer)} model{'s' * (len(fewer) > 1)} in a row, and all data but for the canary"
    yield row(run, "anybody", saw, MODELS, game(noise, promised(run, "model", client), delta))


def of_sums(run: Recorded) -> Iterator[Finding]:
    """The server, and anybody with it, against the client that survived most often, by the sums that the server opens.

    A sum is known from two models in a row; who survived is what hosts are told.
    """
    played, params = Played.of(run), run.parameters(Params)
    survivors = {int(seen["round"]): seen["clients"].tolist() for seen in run.view(run.ranks[-1], "Survivors")}
    known = {t: clients for t, clients in survivors.items() if t in played.starts and t + 1 in played.starts}
    if not known:
        return
    K, h = int(run.result["params"]["clients"]), len(played.starts[0])
    plan = params.distributed(K, h)
    assert plan is not None
    client = max(range(K), key=lambda k: sum(k in clients for clients in known.values()))
    noise = []
    for t, clients in known.items():
        if client in clients:
            w, sensitivity = played.starts[t], plan.sensitivity * plan.unit
            total = (played.starts[t + 1] - w) * len(clients)
            for trained in played.own.train(clients, t, w):
                total -= clipped_to(trained - w, plan.clip)
            noise.append((total, sensitivity))
    saw = f"{len(noise)} sum{'s' * (len(noise) > 1)} of a round, and all data but for the canary"
    yield row(run, "server", saw, MODELS, game(noise, promised(run, "model", client), params.delta))


def promised(run: Recorded, view: str, client: int) -> float:
    """The least ε that is printed for a view, of the client alone where it has a budget; infinite where none is."""
    own = run.table("privacy").get("clients")
    if isinstance(own, list):
        values: list[Any] = [one.get(view) for one in own if isinstance(one, Mapping) and one.get("client") == client]
    else:
        values = list(run.table("privacy", view).values())
    return min((float(value) for value in values if isinstance(value, int | float)), default=inf)


def game(noise: Sequence[tuple[Vector, float]], epsilon: float, delta: float) -> Game:
    """Attempts in every coordinate: without the canary, and with one of size Δ in each release.

    Parameters
    ----------
    noise : sequence
        Of each release the noise, shape (h,), and Δ.
    """
    out, shift = np.zeros(noise[0][0].shape), 0.0
    for z, sensitivity in noise:
        weight = sensitivity / max(float(z.var()), 1e-18 * sensitivity**2)
        out += weight * z
        shift += weight * sensitivity
    return Game(out - shift / 2, out + shift / 2, epsilon, delta)  # likelihood ratios, alike in all runs


def row(run: Recorded, adversary: str, saw: str, claim: str, tries: Game) -> Finding:
    """One line of the table."""
    protects = tries.epsilon < inf
    blank = Finding(
        run.system, described(run), adversary, saw, ATTACK, claim if protects else NONE, protects, "part guessed right",
        (), 0, seeds=frozenset([run.seed]), target="a canary",
    )  # fmt: skip
    return tried(blank, tries)


def shared_gradients(seed: int, epsilon: float = 1.0) -> Iterator[Finding]:
    """DSSGD of ppadmm: which of two gradients, as far apart as clipping lets them be, did one iteration share?"""
    params, d = PpadmmParams(method="dssgd", epsilon=epsilon), 10
    gradient = np.full(d, params.coordinate_clip)
    scores = []
    for sign in (-1.0, 1.0):
        stream = SecretStream()
        values = [dssgd.share(sign * gradient, params, stream)[1] for _ in range(SHARED_ATTEMPTS)]
        scores.append(np.sum(values, axis=1))
    blank = Finding(
        "ppadmm", f"dssgd, ε = {epsilon:g}", "server", "one shared gradient (on threads)",
        "which of two gradients (likelihood ratio)", "the ε that is printed for one iteration", True,
        "part guessed right", (), 0, seeds=frozenset([seed]), target="a canary",
    )  # fmt: skip
    yield tried(blank, Game(scores[0], scores[1], epsilon, 0.0))
