"""The server's side of the command line: options, model, training, and the run's folder."""

import importlib
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.data import Dataset
from fedmpi.errors import UsageError
from fedmpi.federation import dismiss, stop
from fedmpi.learn import FlatModel, Inputs, build_model, client_rows, cores, evaluate, sample, scale_of, weights
from fedmpi.learn.inputs import image_shape
from fedmpi.net import Channel
from fedmpi.net.report import Report
from fedmpi.niss.accounting import Ledger, finite
from fedmpi.niss.job import Job
from fedmpi.niss.keeping import ModelKeeper
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import (
    FIRST_HOST,
    Federation,
    Outcome,
    State,
    Watch,
    server,
    setup,
)
from fedmpi.niss.summary import closing_lines, heading, plan
from fedmpi.runs import Progress, RunOptions, begin_run, end_run, parse
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.result import costs, result

DESCRIPTION = (
    "Federated learning with noise that cancels. Rank 0 is the server, rank 1 the tracker, clients live on the others."
)


def run(ch: Channel, argv: list[str]) -> None:
    """Train as the command line says, with the clients on the hosts of a channel."""
    startup_seconds = process_age_seconds()
    params, options = parse(Params, argv, "fedmpi run niss --", DESCRIPTION)
    ch.timeout_seconds = options.timeout
    check_options(params, options, argv, ch.size)
    clients = params.clients or ch.size - FIRST_HOST
    job = job_of(params, options)
    data = job.load()
    if not data.classes:
        raise UsageError(f"the data set must have classes, got {data.name}")
    # raises where a client has no row
    client_rows(params.partition, data.y_train, clients, job.seed, params.dirichlet_alpha)
    if options.dry_run:
        model = build_model(params.model, image_shape(data.X_train.shape[1]), len(data.classes), job.seed)
        print("\n".join([heading(params, clients, data), *plan(params, clients, ch.size, len(FlatModel(model)), data)]))
        dismiss(ch)
        return
    progress = begin_run("niss", params, options, params.rounds, heading(params, clients, data))
    session = Session(ch, params, options, job, data, clients, progress)
    keeper = ModelKeeper(ch, progress.folder, job, clients, data, options.checkpoint_every)
    start = State(0, session.flat.read(), np.zeros(clients, np.int64))
    if options.resume:
        start, refused = keeper.load()
        progress.say("\n".join([*refused, f"going on after round {start.round}"]))
    with keeper.saving():
        state, reports = session.train(start, keeper)
    summary = session.summarize(state, reports, startup_seconds)
    summary["resumed_from"] = start.round if options.resume else None
    session.flat.load(state.w)
    end_run(ch, progress.folder, options, reports, summary, closing_lines, session.flat.arrays())


def check_options(params: Params, options: RunOptions, argv: list[str], ranks: int) -> None:
    """Refuse combinations of options before any work is done."""
    if ranks <= FIRST_HOST:
        raise UsageError(f"there must be at least 3 ranks: server, tracker and a host of clients, got {ranks}")
    options.check_own(argv, params.model)
    if options.inject:
        raise UsageError(f"--inject must not be given: niss has --dropout, got {options.inject}")


def job_of(params: Params, options: RunOptions) -> Job:
    """What all ranks must agree on."""
    return Job(params, options.dataset or "digits", options.load_arguments(), options.seed)


@dataclass
class Session:
    """One training from the command line, and what is needed to watch it."""

    ch: Channel
    params: Params
    options: RunOptions
    job: Job
    data: Dataset
    clients: int
    progress: Progress
    failures: list[dict[str, Any]] = field(default_factory=list)
    last: Outcome | None = None
    final: dict[str, float] = field(default_factory=dict)
    """Loss and accuracy at the end."""
    stopped: str | None = None

    def __post_init__(self) -> None:
        dtype = getattr(torch, self.params.dtype)
        shape = image_shape(self.data.X_train.shape[1])
        torch.set_num_threads(1)
        model = build_model(self.params.model, shape, len(self.data.classes), self.job.seed, dtype)
        self.flat = FlatModel(model)
        self.test = Inputs.of(self.data.X_test, self.data.y_test, scale_of(self.data.X_train), dtype)
        self.federation: Federation | None = None
        self.total_seconds = 0.0

    def train(self, start: State, keeper: ModelKeeper) -> tuple[State, dict[int, Report]]:
        """All rounds."""
        params, m = self.params, self.params.clients_per_round(self.clients)
        with self.ch.phase("distribute"):
            self.federation = setup(self.ch, params, self.job.to_json(), self.clients)
            if params.method != "fedavg":
                importlib.import_module("opacus.accountants")  # takes seconds, and is no part of the first round
        begun = time.perf_counter()

        def after(state: State, outcome: Outcome) -> None:
            self.last = outcome
            self.failures += [{"round": outcome.round, **lost} for lost in outcome.lost]
            keeper.advance(state)

        state = server(
            self.ch,
            params,
            self.federation,
            lambda t: sample(self.job.seed, t, self.clients, m),
            start,
            Watch(self.affordable, self.watch, after),
        )
        with self.ch.phase("evaluate"):
            self.watch(state, last=True)
        self.total_seconds = time.perf_counter() - begun
        return state, stop(self.ch)

    def ledger(self, state: State) -> Ledger:
        """What has been released."""
        params, rows = self.params, self.federation.rows if self.federation else np.ones(1, np.int64)
        p = weights(rows[:1])  # σ_k/Δ_k is the same for every p_k, but with --noise-std
        multiplier = params.std(p[0], int(rows[0])) / params.sensitivity(p[0], int(rows[0]))
        if params.noise_std is not None:
            multiplier = params.noise_std / self.largest_sensitivity(rows)
        q = params.clients_per_round(self.clients) / self.clients
        return Ledger.of(multiplier, state.uploads.tolist(), state.noise, q, params.delta)

    def largest_sensitivity(self, rows: NDArray[np.int64]) -> float:
        """Δ_k of the worst client in the worst round: among those with the fewest rows."""
        m = self.params.clients_per_round(self.clients)
        least = np.sort(rows)
        return max(
            self.params.sensitivity(int(d) / (int(d) + int(least[: m - 1].sum())), int(d)) for d in set(rows.tolist())
        )

    def affordable(self, state: State, chosen: NDArray[np.uint32]) -> bool:
        """Whether no client would spend more than --max-epsilon by an upload in the next round."""
        limit = self.params.max_epsilon
        if limit is None or self.params.method == "fedavg":
            return True
        after = State(state.round, state.w, state.uploads.copy(), state.noise)
        after.uploads[chosen] += 1
        epsilon = self.ledger(after).upload(self.params.accountant)
        if epsilon > limit:
            self.stopped = f"stopped after round {state.round}: another would spend ε = {epsilon:.3g} > {limit:g}"
            self.progress.say(self.stopped)
        return epsilon <= limit

    def watch(self, state: State, *, last: bool = False) -> None:
        """Evaluate the model of the start of a round, while the clients compute."""
        if state.round % self.options.evaluate_every and not last:
            return
        metrics = self.evaluate(state, cores() if last else 1)
        if last:
            self.final = dict(metrics)
        if self.params.method != "fedavg":
            ledger, accountant = self.ledger(state), self.params.accountant
            spent = {"epsilon_upload": ledger.upload(accountant), "epsilon_model": ledger.model(accountant)}
            metrics |= {name: value for name, value in spent.items() if value < float("inf")}
        if self.last is not None and self.params.method != "fedavg":
            metrics["noise_std"] = self.last.noise_std
        self.progress.step(state.round, metrics, self.ch.meter, ("Uploads",))

    def evaluate(self, state: State, threads: int) -> dict[str, float]:
        """Loss and accuracy on the test rows; after the last round nobody else needs the cores."""
        self.flat.load(state.w)
        loss, accuracy = evaluate(self.flat.model, self.test, threads=threads)
        return {"test_loss": loss, "test_accuracy": accuracy}

    def summarize(self, state: State, reports: dict[int, Report], startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json."""
        params, own = self.params, {}
        metrics: dict[str, Any] = {**self.final, "rounds": state.round}
        if params.method != "fedavg":
            metrics |= {"noise_std": self.last.noise_std if self.last else None, "stopped": self.stopped}
            own["privacy"] = self.privacy(state)
        if params.method == "niss" and self.last:
            metrics["shares"] = {"least": self.last.least_shares, "largest": self.last.largest_shares}
        roles = {"server": 1, "tracker": 1, "host": self.ch.size - FIRST_HOST}
        each, total = self.total_seconds / max(state.round, 1), self.total_seconds
        return result(
            "niss",
            params.method,
            roles,
            params=asdict(params)
            | {
                "clients": self.clients,
                "clip": finite(params.clip),
                "clients_per_round": params.clients_per_round(self.clients),
                "tau_squared": params.tau2,
                "parameters": len(self.flat),
            },
            data=self.data,
            metrics=metrics,
            measured=costs(self.ch, roles, reports, startup=startup_seconds, round=each, total=total),
            failures=self.failures,
            seed=self.options.seed,
            **own,
        )

    def privacy(self, state: State) -> dict[str, Any]:
        """ε by both accountants, in both views; null where nothing is promised."""
        ledger = self.ledger(state)
        return {
            "delta": self.params.delta,
            "noise_multiplier": ledger.multiplier,
            "uploads": ledger.uploads,
            "upload": {name: finite(ledger.upload(name)) for name in ("rdp", "prv")},
            "model": {name: finite(ledger.model(name)) for name in ("rdp", "prv")},
        }
