"""The server's side of the command line: options, model, training, and the run's folder."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.crypto.reals import UnitRandom
from fedmpi.errors import UsageError
from fedmpi.federation import dismiss, stop
from fedmpi.learn import FlatModel
from fedmpi.net import Channel
from fedmpi.net.report import Report
from fedmpi.pbpfl.job import Job
from fedmpi.pbpfl.keeping import ModelKeeper
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.problem import Problem, evaluate
from fedmpi.pbpfl.protocol import Federation, State, Watch, finish, server, setup
from fedmpi.pbpfl.structure import structure_of
from fedmpi.pbpfl.summary import closing_lines, heading, per_message, plan
from fedmpi.runs import Progress, RunOptions, begin_run, end_run, parse
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.result import costs, result

DESCRIPTION = (
    "Federated learning on weights that clients get up to a secret scaling of units: the numbers are hidden, not what "
    "they compute. Rank 0 is the server, clients live on the others."
)

EVALUATIONS = 100
"""Of a run, at most."""


def run(ch: Channel, argv: list[str]) -> None:
    """Train as the command line says, with the clients on the hosts of a channel."""
    startup_seconds = process_age_seconds()
    params, options = parse(Params, argv, "fedmpi run pbpfl --", DESCRIPTION)
    ch.timeout_seconds = options.timeout
    check_options(params, options, argv, ch.size)
    clients = params.clients or ch.size - 1
    params.least_clients(clients)
    job = job_of(params, options)
    session = Session(ch, options, Problem(job), clients)
    if options.dry_run:
        print(
            "\n".join([heading(session.problem, clients), *plan(session.problem, session.structure, clients, ch.size)])
        )
        dismiss(ch)
        return
    progress = begin_run("pbpfl", params, options, session.rounds, heading(session.problem, clients))
    keeper = ModelKeeper(ch, progress.folder, session.problem, clients, options.checkpoint_every)
    start = State(0, session.flat.read())
    if options.resume:
        start, refused = keeper.load()
        progress.say("\n".join([*refused, f"going on after round {start.round}"]))
    with keeper.saving():
        state, reports = session.train(start, keeper, progress)
    summary = session.summarize(state, reports, startup_seconds)
    summary["resumed_from"] = start.round if options.resume else None
    session.flat.load(state.w)
    end_run(ch, progress.folder, options, reports, summary, closing_lines, session.flat.arrays())


def check_options(params: Params, options: RunOptions, argv: list[str], ranks: int) -> None:
    """Refuse combinations of options before any work is done."""
    if ranks < 2:
        raise UsageError(f"there must be at least 2 ranks: the server and a host of clients, got {ranks}")
    options.check_own(argv, params.model)
    if options.inject:
        raise UsageError(f"--inject must not be given: pbpfl has --dropout, got {options.inject}")


def job_of(params: Params, options: RunOptions) -> Job:
    """What all ranks must agree on."""
    return Job(params, options.dataset or "digits", options.load_arguments(), options.seed)


@dataclass
class Session:
    """One training from the command line, and what is needed to watch it."""

    ch: Channel
    options: RunOptions
    problem: Problem
    clients: int
    failures: list[dict[str, Any]] = field(default_factory=list)
    total_seconds: float = 0.0
    use: dict[str, float] = field(default_factory=dict)
    """How good the final model is in the clients' hands."""
    latest: dict[str, float] = field(default_factory=dict)
    """What `watch` found last."""

    def __post_init__(self) -> None:
        self.params = self.problem.params
        torch.set_num_threads(1)
        model = self.problem.model()
        self.structure = structure_of(model, self.problem.input_shape)
        self.flat = FlatModel(model)
        self.validation, self.test = self.problem.held_out()
        largest = max(map(len, self.problem.clients(self.clients)))
        self.rounds = self.params.total_rounds(largest)
        self.evaluate_every = max(self.options.evaluate_every, -(-self.rounds // EVALUATIONS))

    def train(self, start: State, keeper: ModelKeeper, progress: Progress) -> tuple[State, dict[int, Report]]:
        """All rounds."""
        with self.ch.phase("distribute"):
            fed: Federation = setup(self.ch, self.problem.job.to_json(), self.structure.last.name, self.clients)
        begun, uniform = time.perf_counter(), UnitRandom()

        def lost(round_: int, client: int) -> None:
            gone = next((error for host, error in self.ch.departed.items() if client in fed.homes[host]), None)
            reason = "sent no gradient" if gone is None else str(gone)
            self.failures.append({"round": round_, "client": client, "reason": reason})

        def observe(state: State) -> None:
            if state.round % self.evaluate_every == 0:
                self.watch(state, progress)

        watch = Watch(observe, keeper.advance, lost)
        state = server(self.ch, self.params, self.structure, fed, start, uniform, watch)
        with self.ch.phase("evaluate"):
            self.watch(state, progress)
        self.total_seconds = time.perf_counter() - begun
        self.use = finish(self.ch, self.params, self.structure, fed, state.w, uniform)
        return state, stop(self.ch)

    def watch(self, state: State, progress: Progress) -> None:
        """Evaluate on the validation rows, while the clients compute."""
        self.latest = self.evaluate(state.w, "validation")
        progress.step(state.round, self.latest, self.ch.meter, ("Terms", "Masked"))

    def evaluate(self, w: NDArray[np.float64], name: str) -> dict[str, float]:
        """Mean squared error, without the ½, and where there are classes accuracy."""
        part = self.validation if name == "validation" else self.test
        self.flat.load(w)
        errors, right = evaluate(self.flat.model, part)
        mse = {f"{name}_mse": errors / part.targets.numel()}
        return mse if part.labels is None else mse | {f"{name}_accuracy": right / len(part)}

    def summarize(self, state: State, reports: dict[int, Report], startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json."""
        params, data = self.params, self.problem.data
        metrics: dict[str, Any] = self.evaluate(state.w, "test") | self.latest | self.use | {"rounds": state.round}
        if not data.classes:
            metrics.pop("clients_accuracy", None)
        metrics["communication"] = per_message(self.ch, params, len(self.flat), self.clients)
        roles = {"server": 1, "host": self.ch.size - 1}
        each, total = self.total_seconds / max(state.round, 1), self.total_seconds
        return result(
            "pbpfl",
            params.method,
            roles,
            params=asdict(params) | {"clients": self.clients, "parameters": len(self.flat)},
            data=data,
            metrics=metrics,
            measured=costs(self.ch, roles, reports, startup=startup_seconds, round=each, total=total),
            failures=self.failures,
            seed=self.options.seed,
        )
