"""The server's side of the command line: options, model, training, and the run's folder."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from fedmpi.data import Dataset
from fedmpi.errors import UsageError
from fedmpi.federation import dismiss, setup, stop
from fedmpi.learn import FlatModel, Inputs, build_model, cores, evaluate, scale_of, split
from fedmpi.learn.inputs import image_shape
from fedmpi.net import Channel
from fedmpi.net.report import Report
from fedmpi.runs import Progress, RunOptions, begin_run, end_run, parse
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.result import costs, result
from fedmpi.spn.job import Job
from fedmpi.spn.keeping import ModelKeeper
from fedmpi.spn.params import Params
from fedmpi.spn.protocol import State, Vector, Watch, server
from fedmpi.spn.summary import closing_lines, heading, plan

DESCRIPTION = "Federated learning with secret polarization networks. Rank 0 is the server, clients live on the others."


def run(ch: Channel, argv: list[str]) -> None:
    """Train as the command line says, with the clients on the hosts of a channel."""
    startup_seconds = process_age_seconds()
    params, options = parse(Params, argv, "fedmpi run spn --", DESCRIPTION)
    ch.timeout_seconds = options.timeout
    check_options(params, options, argv, ch.size)
    clients = params.clients or ch.size - 1
    job = job_of(params, options)
    data = job.load()
    if not data.classes:
        raise UsageError(f"the data set must have classes, got {data.name}")
    model = model_of(job, data)
    if options.dry_run:
        print("\n".join([heading(params, clients, data), *plan(params, clients, ch.size, len(FlatModel(model)))]))
        dismiss(ch)
        return
    progress = begin_run("spn", params, options, params.rounds, heading(params, clients, data))
    session = Session(ch, params, options, job, data, clients, progress, FlatModel(model))
    keeper = ModelKeeper(ch, progress.folder, job, clients, data, options.checkpoint_every)
    copies = clients if params.method == "standalone" else 1
    start = State(0, np.repeat(session.flat.read()[None], copies, axis=0))
    if options.resume:
        start, refused = keeper.load()
        progress.say("\n".join([*refused, f"going on after round {start.round}"]))
    with keeper.saving():
        state, reports = session.train(start, keeper)
    summary = session.summarize(state, reports, startup_seconds)
    summary["resumed_from"] = start.round if options.resume else None
    session.flat.load(state.G[0])
    end_run(ch, progress.folder, options, reports, summary, closing_lines, session.flat.arrays())


def check_options(params: Params, options: RunOptions, argv: list[str], ranks: int) -> None:
    """Refuse combinations of options before any work is done."""
    if ranks < 2:
        raise UsageError(f"there must be at least 2 ranks: a server and a host of clients, got {ranks}")
    options.check_own(argv, params.model)
    if options.inject:
        raise UsageError(f"--inject must not be given with spn, got {options.inject}")


def job_of(params: Params, options: RunOptions) -> Job:
    """What all ranks must agree on."""
    return Job(params, options.dataset or "digits", options.load_arguments(), options.seed)


def model_of(job: Job, data: Dataset) -> torch.nn.Module:
    """The public model as it is before any training; one that can't be split is refused here."""
    dtype = getattr(torch, job.params.dtype)
    model = build_model(job.params.model, image_shape(data.X_train.shape[1]), len(data.classes), job.seed, dtype)
    if job.params.method == "spn":
        split(model)
    return model


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
    flat: FlatModel
    failures: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    """Loss and accuracy at the end."""
    total_seconds: float = 0.0

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        dtype = getattr(torch, self.params.dtype)
        self.test = Inputs.of(self.data.X_test, self.data.y_test, scale_of(self.data.X_train), dtype)

    def train(self, start: State, keeper: ModelKeeper) -> tuple[State, dict[int, Report]]:
        """All rounds."""
        with self.ch.phase("distribute"):
            setup(self.ch, self.job.to_json(), self.clients)
        begun = time.perf_counter()

        def after(state: State, lost: list[dict[str, Any]]) -> None:
            self.failures += [{"round": state.round - 1, **entry} for entry in lost]
            keeper.advance(state)

        state = server(self.ch, self.params, self.clients, start, Watch(self.watch, after))
        with self.ch.phase("evaluate"):
            self.watch(state, last=True)
        self.total_seconds = time.perf_counter() - begun
        return state, stop(self.ch)

    def watch(self, state: State, *, last: bool = False) -> None:
        """Evaluate the model of the start of a round, while the clients compute."""
        if state.round % self.options.evaluate_every and not last:
            return
        metrics = self.evaluate(state.G, cores() if last else 1)
        if last:
            self.final = metrics
        self.progress.step(state.round, metrics, self.ch.meter, ("Changes",))

    def evaluate(self, G: Vector, threads: int) -> dict[str, float]:
        """Loss and accuracy on the test rows; of standalone clients the mean."""
        values = []
        for one in G:
            self.flat.load(one)
            values.append(evaluate(self.flat.model, self.test, threads=threads))
        loss, accuracy = np.mean(values, axis=0)
        return {"test_loss": float(loss), "test_accuracy": float(accuracy)}

    def summarize(self, state: State, reports: dict[int, Report], startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json."""
        roles = {"server": 1, "host": self.ch.size - 1}
        each, total = self.total_seconds / max(state.round, 1), self.total_seconds
        return result(
            "spn",
            self.params.method,
            roles,
            params=asdict(self.params) | {"clients": self.clients, "parameters": len(self.flat)},
            data=self.data,
            metrics={**self.final, "rounds": state.round},
            measured=costs(self.ch, roles, reports, startup=startup_seconds, round=each, total=total),
            failures=self.failures,
            seed=self.options.seed,
        )
