"""One run as rank 0 sees it: what the trainings of all systems begin and end with."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from fedmpi.errors import FilesError, UsageError
from fedmpi.rules import printable_lines
from fedmpi.system import Asked, System, named

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedmpi.data import Dataset
    from fedmpi.machines.placement import Apart, Host
    from fedmpi.net import Channel
    from fedmpi.net.costs import Report
    from fedmpi.runs.checkpointing import Arrays, Keeper
    from fedmpi.runs.folder import RunFolder
    from fedmpi.runs.hooks import Hooks
    from fedmpi.runs.job import Parameters
    from fedmpi.runs.options import RunOptions
    from fedmpi.runs.progress import Progress

P = TypeVar("P", bound="Parameters")
S = TypeVar("S")


class Training(ABC, Generic[P, S]):
    """One run as rank 0 sees it, from its options to what it leaves. `System.lead` calls the methods in their order.

    Parameters
    ----------
    system : System
    ch : Channel
    params : dataclass
        The system's own parameters.
    options : RunOptions
        What the command lines of all systems have in common.
    """

    parameters: ClassVar[type[Any]]
    """A frozen dataclass: the options that this system alone has."""
    state_type: ClassVar[type[Any]]
    """A frozen dataclass of arrays and JSON values: what a training goes on from."""
    step: ClassVar[str] = "round"
    """What a run is counted in: an attribute of its states, and a word for people."""
    answers: ClassVar[tuple[str, ...]]
    """Messages that the progress line counts."""
    may_change: ClassVar[frozenset[str]]
    """Parameters that --resume may change, since they change no bit of the model."""
    default_dataset: ClassVar[str] = "digits"

    data: "Dataset"
    progress: "Progress"
    hooks: "Hooks"
    steps: int
    """How many there will be, at most."""
    total_seconds: float = 0.0

    def __init__(self, system: System, ch: "Channel", params: P, options: "RunOptions"):
        self.system, self.ch, self.params, self.options = system, ch, params, options
        from fedmpi.runs.hooks import Hooks
        from fedmpi.runs.job import Job

        self.hooks = Hooks()
        self.job = Job(
            params, options.dataset or self.default_dataset, self.data_arguments(), options.seed, options.class_weight
        )
        self.failures: list[dict[str, Any]] = []
        self.layouts: list[dict[str, int]] = []
        """Of the parts of a run that was stopped, in their order; the last is that of now."""
        self.reports: dict[int, Report] = {}

    def check(self, argv: list[str]) -> None:
        """Refuse combinations of options before any work is done.

        Raises
        ------
        UsageError
        """
        named(self.system.check)(Asked(self.system, self.params, self.options, self.ch.size, argv))

    def data_arguments(self) -> dict[str, Any]:
        """What `fedmpi.data.load` is told, beside the name of the data set and the seed."""
        return self.options.load_arguments()

    @abstractmethod
    def load(self) -> None:
        """Read the data set, and what --dry-run needs to know besides."""

    @abstractmethod
    def heading(self) -> list[str]:
        """What is about to run."""

    def rows_line(self) -> str:
        """The data set, for people."""
        train, test, data = len(self.data.X_train), len(self.data.X_test), self.data
        return f"{data.name}: {train} training and {test} test rows, {data.X_train.shape[1]} features"

    @abstractmethod
    def plan(self) -> list[str]:
        """The roles and the bytes of a step, for --dry-run."""

    def prepare(self) -> None:
        """Ready the data for training, where that takes its time."""

    def remarks(self) -> Iterable[str]:
        """What is said below the heading once the data are ready."""
        return ()

    def apart(self) -> "Sequence[Apart]":
        """Which ranks must not share a machine."""
        from fedmpi.machines.placement import Apart

        return [Apart(who, ranks) for who, ranks in self.system.apart]

    def unchanged(self) -> dict[str, Any]:
        """What --resume must find as it was: all parameters but those that may change, and the data set's name."""
        return self.job.public_values(without=self.may_change)

    def digested(self) -> "Sequence[Any]":
        """The data that --resume must find as they were."""
        return self.data.X_train, self.data.y_train

    def shapes(self) -> "Mapping[str, tuple[int, ...]]":
        """Of arrays that every state has, as far as they are known before training."""
        return {}

    def pack(self, state: S) -> "tuple[Arrays, dict[str, Any]]":
        """What a checkpoint holds: arrays, and JSON values beside the step. Never a mask, a share, a seed or a key."""
        values = {field.name: getattr(state, field.name) for field in fields(self.state_type)}
        arrays = {name: value for name, value in values.items() if hasattr(value, "dtype")}
        return arrays, {name: value for name, value in values.items() if name not in arrays}

    def unpack(self, arrays: "Arrays", values: Mapping[str, Any]) -> S:
        """What was packed."""
        known = {name: values[name] for name in (field.name for field in fields(self.state_type)) if name in values}
        state: S = self.state_type(**arrays, **{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})
        return state

    def keeper(self) -> "Keeper[S]":
        """Writes and reads the checkpoints of this run."""
        from fedmpi.runs.checkpointing import Keeper

        return Keeper(self.ch, self.progress.folder, self, self.options.checkpoint_every)

    @abstractmethod
    def train(self, start: S | None, keeper: "Keeper[S]") -> None:
        """Train with the other ranks, from the beginning or from the state of an earlier run; hear their reports."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """How good the model is."""

    def layout(self) -> dict[str, int]:
        """How many ranks there are, and what they are used for: may change when a run goes on."""
        return {"ranks": self.ch.size}

    def derived(self) -> dict[str, Any]:
        """Parameters that follow from those given; asked for before the first step, and at the end."""
        return {}

    def seconds(self) -> dict[str, float]:
        """Times, beside those of the phases."""
        return {"total": self.total_seconds}

    def own(self) -> dict[str, Any]:
        """Keys of result.json that only this system has."""
        return {}

    @abstractmethod
    def model(self) -> "Mapping[str, NDArray[Any]]":
        """The arrays of the model."""

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """What `fedmpi.runs.model` must know of the model to use it."""

    def data_card(self) -> dict[str, Any]:
        """What it must know of the data: the classes, and what was done to the columns before training."""
        data = self.data
        preparation = None if data.preparation is None else json.loads(data.preparation.to_json())
        columns = [column.name for column in data.preparation.columns] if data.preparation else list(data.columns)
        return {
            "classes": list(data.classes),
            "features": data.X_train.shape[1],
            "columns": columns,
            "categorical": list(self.options.categorical),
            "preparation": preparation,
            "rows": "float32" if data.rounded else "float64",
        }

    @abstractmethod
    def closing_lines(self, summary: dict[str, Any]) -> list[str]:
        """The end of a run, for people, from the contents of result.json."""

    @property
    def tested(self) -> "NDArray[Any]":
        """Labels or targets of the rows that the metrics of a test are of."""
        return self.data.y_test

    @property
    def stopping(self) -> bool:
        """Whether a callback has asked for the training to end with this step."""
        return self.hooks.stopped_at is not None

    @property
    def should_converge(self) -> bool:
        """Whether training is meant to go on until it converges."""
        return bool(getattr(self.params, "tolerance", 0.0))

    def warnings(self, metrics: Mapping[str, Any]) -> Iterable[str]:
        """What is wrong with a training that ended, for people: it is printed, and kept in result.json."""
        if (unwritten := self.progress.unwritten) is not None:
            yield f"metrics.jsonl lacks steps: {unwritten}"
        if metrics.get("converged") is False and self.should_converge and not self.stopping:
            done = metrics[f"{self.step}s"]
            yield f"training had not converged after {done} {self.step}{'s' * (done != 1)}: raise --{self.step}s"
        if (preparation := self.data.preparation) is not None and (gone := preparation.left_out):
            names = ", ".join(f'"{name}"' for name in gone[:5]) + (", …" if len(gone) > 5 else "")
            of = f"{len(gone)} of {len(preparation.columns)} columns"
            yield f"{of} had the same value in all training rows and were left out: {names}"
        classes, accuracy = self.data.classes, metrics.get("test_accuracy")
        if classes and accuracy is not None and not self.options.class_weight:
            counts = metrics.get("test_classes") or [int((self.tested == k).sum()) for k in range(len(classes))]
            often = max(counts)
            if accuracy <= often / sum(counts):
                name = classes[counts.index(often)]
                yield (
                    f"the test accuracy is no better than that of always answering the most frequent class, {name}: "
                    f"{often} of {sum(counts)} rows"
                )

    def dismiss(self) -> None:
        """Send the other ranks home, unless the training has."""
        from fedmpi.net.orders import dismiss

        dismiss(self.ch)

    def check_machines(self, hosts: "Mapping[int, Host]") -> None:
        """Refuse machines that have no room for what their ranks will hold."""

    def run(self, startup_seconds: float) -> None:
        """A whole run, with its folder."""
        from fedmpi.machines.placement import check_placement
        from fedmpi.runs.folder import RunFolder
        from fedmpi.runs.options import to_toml
        from fedmpi.runs.progress import Progress

        options, name = self.options, f"{self.system.name}-{self.params.method}"
        resumed = options.resume is not None
        settings = f"# fedmpi run {self.system.name} -n {self.ch.size}\n{to_toml(self.params, options)}"
        folder = RunFolder(options.resume or options.out, name, settings, resumed=resumed)
        self.prepare()
        self.hooks.folder = folder.path
        quiet = options.quiet or options.json or self.hooks.silent
        self.progress = Progress(folder, self.steps, quiet=quiet, heard=self.hooks.heard)
        self.progress.say("\n".join(self.heading()))
        for line in (*self.data.notes, *self.remarks()):
            self.progress.say(line)
        self.layouts = [self.layout()]
        keeper, start = self.keeper(), None
        if options.resume:
            start, refused = keeper.load()
            self.progress.say("\n".join([*refused, *self.going_on(folder, start)]))
        warn = not self.hooks.threads
        self.check_machines(check_placement(self.ch, self.apart(), strict=options.strict_placement, warn=warn))
        if start is not None:
            folder.go_on(getattr(start, self.step))
        folder.start = self.beginning
        with keeper.saving():
            self.train(start, keeper)
            keeper.save_at_the_end()
            folder, moved = self.leave_model(folder)  # before anything that may fail
            summary = self.summarize(startup_seconds)
        summary["resumed_from"] = getattr(start, self.step) if start else None
        self.leave(folder, summary)
        if moved:
            raise FilesError(f"{moved}; the model and what the run found out are in {folder.path}")

    def release(self) -> None:
        """Say that nobody is at work in the run's folder any more: this process may go on in it."""
        if hasattr(self, "progress"):
            self.progress.folder.release()

    def leave_model(self, folder: "RunFolder") -> "tuple[RunFolder, FilesError | None]":
        """Write the model, in another folder where the run's own does not take it; where it is, and why.

        Raises
        ------
        FilesError
            If no place takes it.
        """
        import shutil

        from fedmpi.runs.model import write_model

        try:
            write_model(folder, self.card(), self.model())
            return folder, None
        except FilesError as error:
            refused = error
        for other in folder.elsewhere():
            try:
                write_model(other, self.card(), self.model())
                return other, refused
            except FilesError:
                shutil.rmtree(other.path, ignore_errors=True)
        raise refused

    def going_on(self, folder: "RunFolder", start: S) -> Iterable[str]:
        """What --resume is about to do.

        Raises
        ------
        UsageError
            If the run is done, and there is nothing more to do.
        """
        done = getattr(start, self.step)
        result = folder.result or {}
        metrics, params = result.get("metrics", {}), result.get("params", {})
        if not isinstance(metrics, dict) or not isinstance(params, dict):
            file = folder.path / "result.json"
            raise UsageError(f"metrics and params of {file} must be by name, got others: move it away to go on")
        if result and self.is_done(metrics, params):
            raise UsageError(
                f"--resume must name a run that was stopped, or come with more {self.step}s, got {folder.path}, "
                "which is done"
            )
        yield f"going on after {self.step} {done}"
        if (before := self.layouts[-1]) != (now := self.layout()):
            self.layouts.append(now)
            others = {name: value for name, value in now.items() if before.get(name) != value}
            changed = ", ".join(f"{name} {before.get(name)} → {value}" for name, value in others.items())
            yield f"the ranks have changed: {changed}"

    def is_done(self, metrics: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
        """Whether a run that ended with these metrics, and was made with these parameters, has nothing left to do."""
        done = metrics.get(f"{self.step}s")
        return bool(metrics.get("converged")) or (isinstance(done, int) and done >= self.steps)

    def leave(self, folder: "RunFolder", summary: dict[str, Any]) -> None:
        """Write frames.jsonl and at last result.json, and print it, or the closing lines."""
        from fedmpi.runs.folder import finite
        from fedmpi.runs.frames import frame_lines
        from fedmpi.runs.progress import end_live_line
        from fedmpi.runs.scores import rare_line

        self.ch.on_pause, self.hooks.folder = lambda: None, folder.path  # nothing is left to be saved
        folder.write_lines("frames.jsonl", frame_lines(self.ch, self.reports))
        folder.write_json("result.json", summary)
        (folder.path / "start.json").unlink(missing_ok=True)
        lines, rare = self.closing_lines(summary), rare_line(summary["metrics"], self.tested, self.data.classes)
        lines += [*([rare] if rare else []), *(f"WARNING: {text}" for text in summary["warnings"])]
        lines.append(f"written to {folder.path}")
        end_live_line()
        if not self.hooks.silent:
            print(json.dumps(finite(summary)) if self.options.json else printable_lines("\n".join(lines)))

    def beginning(self) -> dict[str, Any]:
        """The contents of start.json: the keys of result.json that are known before training."""
        from fedmpi.runs.result import beginning

        params = asdict(self.params) | self.derived()  # type: ignore[call-overload]  # P is a dataclass
        roles = self.system.ranks_of_roles(self.ch.size)
        return beginning(self.system.name, self.params.method, roles, params, self.data)

    def summarize(self, startup_seconds: float) -> dict[str, Any]:
        """The contents of result.json."""
        from fedmpi.runs.result import costs, result

        roles = self.system.ranks_of_roles(self.ch.size)
        metrics = self.metrics()
        return result(
            self.system.name,
            self.params.method,
            roles,
            params=asdict(self.params) | self.derived(),  # type: ignore[call-overload]  # P is a dataclass
            data=self.data,
            metrics=metrics,
            measured=costs(self.ch, roles, self.reports, startup=startup_seconds, **self.seconds()),
            failures=self.failures,
            warnings=self.warnings(metrics),
            seed=self.options.seed,
            **({"layouts": self.layouts} if len(self.layouts) > 1 else {}),
            **({"stopped_by_callback": self.hooks.stopped_at} if self.stopping else {}),
            **self.own(),
        )
