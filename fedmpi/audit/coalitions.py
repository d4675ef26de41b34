"""NISS: a server in league with some of the other clients, against the ε of one upload.

Who colludes knows the shares of noise that it sent to the victim or got from it. How many these are is left to chance.
The adversary guesses, from the upload less the noise that it knows, which of two inputs the victim had.

An attempt is an upload. One circle decides on all uploads of a round, and how many of them lose their noise varies a
little less than if each had a circle of its own (variance 1.72 in place of 1.83): they are counted as drawn apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.bounds import Game
from fedmpi.audit.finding import Finding, tried
from fedmpi.audit.partners import Partner, train
from fedmpi.audit.recording import Seen
from fedmpi.federated.messages import SERVER
from fedmpi.learn import FlatModel
from fedmpi.niss.client import Clients
from fedmpi.niss.noise import expand, on_grid
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import FIRST_HOST
from fedmpi.runs.job import Job

CLIENTS, ROUNDS = 20, 60

PROMISED = Params(
    model="logistic", clients=CLIENTS, fraction=1.0, rounds=ROUNDS, epochs=1, batch_size=4, learning_rate=0.1,
    clipping="update", epsilon=1.0, collusion=0.5,
)  # fmt: skip

CLAIM = "the ε of one upload holds where a part ρ of the other clients collude with the server"

UNSAFE = "--paper-noise is named unsafe (positive control)"

ALL_KNOWN = 1e-9
"""A standard deviation of noise over Δ below which nothing hides."""

Vector = NDArray[np.float64]


@dataclass(eq=False)
class Shares:
    """The shares of one round: who sent which to whom, as the tracker told it and the seeds say."""

    seeds: dict[tuple[int, int], tuple[bytes, float]] = field(default_factory=dict)
    """(sender, receiver) → seed and standard deviation."""

    def known(self, victim: int, inside: set[int], h: int, tau2: float) -> tuple[Vector, Vector]:
        """What a coalition knows of a victim's noise, shape (h,), and the variance of what it does not know.

        The variance is without what the victim keeps besides.
        """
        noise, variance = np.zeros(h), np.zeros(h)
        for (sender, receiver), (seed, std) in self.seeds.items():
            if victim not in (sender, receiver):
                continue
            sign, distorted = (1.0, 0.0) if sender == victim else (-1.0, tau2)
            if {sender, receiver} & inside:
                share = expand(seed, std, h)
                noise += sign * share
                variance += distorted * share**2
            else:
                variance += std**2 * (1 + distorted)
        return noise, variance


def findings(seed: int) -> Iterator[Finding]:
    """Half of the others collude: with one share for a client's noise, with several, and with the paper's noise."""
    for count, paper in ((1, False), (8, False), (1, True)):
        yield collude(seed, count, paper=paper)


def collude(seed: int, count: int, *, paper: bool = False) -> Finding:
    """Training on threads; each client of each round that does not collude is a victim.

    Parameters
    ----------
    count : int
        v, the shares of a client's noise.
    paper : bool
        With --paper-noise.
    """
    params = replace(PROMISED, share_count=count, paper_noise=paper)
    inside = set(range(floor(params.collusion * (CLIENTS - 1))))
    out, canary = scores(params, seed, inside)
    blank = Finding(
        "niss",
        f"niss, v = {count}, ρ = {params.collusion:g}{', --paper-noise' * paper}",
        f"server and {len(inside)} of {CLIENTS - 1} other clients",
        "one upload, and the shares of its noise that they know (on threads)",
        "which of two inputs (likelihood ratio)",
        UNSAFE if paper else CLAIM,
        not paper,
        "part guessed right",
        (),
        0,
        seeds=frozenset([seed]),
        target="a canary",
    )
    return tried(blank, Game(out, canary, params.epsilon, params.delta))


def scores(params: Params, seed: int, inside: set[int]) -> tuple[Vector, Vector]:
    """Log-likelihood ratios of uploads without the canary, and with one of size Δ, spread over all coordinates."""
    job = Job(params, "digits", {"classes": ["0", "1"], "max_rows": 4 * CLIENTS}, seed)
    own = Clients.load(job, 0, 1, CLIENTS, 1)
    w = FlatModel(own.trainers[0].model).read()
    partner = Partner()
    with TemporaryDirectory(prefix="fedmpi-") as folder:
        views = train(params, job, w, [partner], Path(folder))
    h, out, canary = len(w), list[float](), list[float]()
    orders = {int(seen["round"]): seen for seen in views[FIRST_HOST] if seen.kind == "Round"}
    shares = shares_of([seen for seen in views[FIRST_HOST] if seen.kind == "Neighbours"], partner.seeds)
    for uploads in (seen for seen in views[SERVER] if seen.kind == "Uploads"):
        t = int(uploads["round"])
        weights = dict(zip(orders[t]["clients"].tolist(), orders[t]["weights"].tolist(), strict=True))
        for k, value in zip(uploads["clients"].tolist(), uploads["values"], strict=True):
            if k in inside:
                continue
            (trained,) = own.train([k], t, orders[t]["w"])
            change = trained - orders[t]["w"]
            length = float(np.linalg.norm(change))
            trained = trained if length <= params.clip else orders[t]["w"] + change * (params.clip / length)
            known, variance = shares[t].known(k, inside, h, params.tau2 if params.paper_noise else 0.0)
            rest = value - on_grid(weights[k] * trained) - known
            variance = variance + kept(params, shares[t], weights[k], len(own.inputs[k]), k, t)
            sensitivity = params.sensitivity(weights[k], len(own.inputs[k]))
            shift = sensitivity / np.sqrt(h)
            variance = np.maximum(variance, (ALL_KNOWN * sensitivity) ** 2)
            out.append(float(((rest * shift - shift**2 / 2) / variance).sum()))
            canary.append(float(((rest * shift + shift**2 / 2) / variance).sum()))
    return np.array(out), np.array(canary)


def kept(params: Params, shares: Shares, weight: float, rows: int, victim: int, t: int) -> float:
    """The variance of what a victim adds that nothing cancels; public."""
    if params.paper_noise:
        return 0.0
    sent = [std**2 for (sender, _), (_, std) in shares.seeds.items() if sender == victim]
    got = [std**2 for (_, receiver), (_, std) in shares.seeds.items() if receiver == victim]
    return params.kept.variance(params.std(weight, rows) ** 2, len(sent), got, CLIENTS, t)


def shares_of(told: Sequence[Seen], seeds: Sequence[bytes]) -> dict[int, Shares]:
    """Round → shares: seeds are drawn in the order in which the tracker names the shares."""
    found, left = dict[int, Shares](), iter(seeds)
    for seen in told:
        ends = zip(seen["senders"].tolist(), seen["receivers"].tolist(), strict=True)
        stds = np.sqrt(seen["variances"]).tolist()
        found[int(seen["round"])] = Shares({end: (next(left), std) for end, std in zip(ends, stds, strict=True)})
    return found
