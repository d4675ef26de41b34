"""The server's side of the command line: options, model, training, and the run's folder."""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.crypto.reals import UnitRandom
from fedmpi.errors import UsageError
from fedmpi.learn import FlatModel
from fedmpi.net import Channel
from fedmpi.net.report import Report
from fedmpi.pbpfl.keeping import ModelKeeper
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.problem import Job, Problem, evaluate
from fedmpi.pbpfl.protocol import Federation, State, Stop, Watch, finish, server, setup, stop
from fedmpi.pbpfl.structure import structure_of
from fedmpi.pbpfl.summary import closing_lines, heading, per_message, plan
from fedmpi.runs import Progress, RunFolder, RunOptions, parse, to_toml
from fedmpi.runs.environment import process_age_seconds
from fedmpi.runs.frames import frame_lines
from fedmpi.runs.result import costs, result

DESCRIPTION = (
    "Federated learning on weights that the clients never see. Rank 0 is the server, clients live on the others."
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
    resumed = options.resume is not None
    if options.dry_run:
        print(
            "\n".join([heading(session.problem, clients), *plan(session.problem, session.structure, clients, ch.size)])
        )
        for rank in range(1, ch.size):
            ch.send(rank, Stop())
        return
    folder = RunFolder(
        options.resume or options.out, f"pbpfl-{params.method}", to_toml(params, options), resumed=resumed
    )
    progress = Progress(folder, session.rounds, quiet=options.quiet or options.json)
    progress.say(heading(session.problem, clients))
    keeper = ModelKeeper(ch, folder, session.problem, clients, options.checkpoint_every)
    start = State(0, session.flat.read())
    if resumed:
        start, refused = keeper.load()
        progress.say("\n".join([*refused, f"going on after round {start.round}"]))
    with keeper.saving():
        state, reports = session.train(start, keeper, progress)
    summary = session.summarize(state, reports, startup_seconds)
    summary["resumed_from"] = start.round if resumed else None
    ch.on_pause = lambda: None  # nothing is left to be saved
    session.flat.load(state.w)
    folder.write_arrays("model.npz", **session.flat.arrays())
    folder.write_lines("frames.jsonl", frame_lines(ch, reports))
    folder.write_json("result.json", summary)
    print(json.dumps(summary) if options.json else "\n".join([*closing_lines(summary), f"written to {folder.path}"]))


def check_options(params: Params, options: RunOptions, argv: list[str], ranks: int) -> None:
    """Refuse combinations of options before any work is done."""
    if ranks < 2:
        raise UsageError(f"there must be at least 2 ranks: the server and a host of clients, got {ranks}")
    options.check_own(argv, params.model)
    if options.inject:
        raise UsageError(f"--inject must not be given: pbpfl has --dropout, got {options.inject}")


def job_of(params: Params, options: RunOptions) -> Job:
    """What all ranks must agree on."""
    return Job(params, options.dataset or "bank", options.load_arguments(), options.seed)


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
        meter = self.ch.meter
        received = meter.messages_received
        self.latest = self.evaluate(state.w, "validation")
        progress.step(
            state.round,
            self.latest,
            sent_bytes=meter.bytes_sent.total(),
            answers=received["Terms"] + received["Masked"],
            late=meter.late,
        )

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
        summary = result("pbpfl", params.method, {"server": 1, "host": self.ch.size - 1}, self.options.seed)
        summary |= costs(self.ch, "host", list(reports.values()), ("communicate", "wait"))
        rounds = max(state.round, 1)
        summary["seconds"] |= {
            "startup": startup_seconds,
            "total": self.total_seconds,
            "round": self.total_seconds / rounds,
        }
        summary["failures"] = self.failures
        summary["params"] = asdict(params) | {"clients": self.clients, "parameters": len(self.flat)}
        summary["dataset"] = {
            "name": data.name,
            "m": len(data.X_train),
            "d": data.X_train.shape[1],
            "classes": list(data.classes),
        }
        summary["metrics"] = self.evaluate(state.w, "test") | self.latest
        summary["metrics"] |= self.use | {"rounds": state.round}
        if not data.classes:
            summary["metrics"].pop("clients_accuracy", None)
        summary["metrics"]["communication"] = per_message(self.ch, params, len(self.flat), self.clients)
        return summary
