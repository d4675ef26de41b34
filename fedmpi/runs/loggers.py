"""Where others look at trainings: TensorBoard, MLflow and Weights & Biases get what run folders hold, as local files.

Another package offers a logger by an entry point of the group ``fedmpi.loggers``: ``name = module:factory``, where the
factory is called with the folder of a run, its options, and the name of the study that it is a part of, if it is.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from fedmpi.errors import UsageError
from fedmpi.runs.reading import NAME, number, numbers, read_runs

GROUP = "fedmpi.loggers"


class Logger(Protocol):
    """One run, as another program shows it."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of an iteration or round."""

    def close(self) -> None:
        """There is nothing more."""


Factory = Callable[[Path, Mapping[str, Any], str], Logger]


class TensorBoard:
    """Event files in the folder tensorboard of a run; ``tensorboard --logdir runs`` shows all runs below."""

    def __init__(self, folder: Path, config: Mapping[str, Any], study: str):
        _require("tensorboard")
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        _no_link(folder / "tensorboard")
        self._writer = EventFileWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One event."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        parts = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=parts)))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run of the experiment fedmpi, or of the study, in the folder mlruns here; or where MLFLOW_TRACKING_URI says."""

    def __init__(self, folder: Path, config: Mapping[str, Any], study: str):
        _require("mlflow")
        from mlflow.tracking import MlflowClient

        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a data base needs more packages
        where = os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").resolve().as_uri()
        self._client, name = MlflowClient(where), study or "fedmpi"
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        for option, value in [one for one in config.items() if NAME.fullmatch(one[0])]:
            self._client.log_param(self._run, option, str(value)[:250])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """Mark it as finished."""
        self._client.set_terminated(self._run)


class WandB:
    """A run of the project fedmpi, offline in the run's folder, unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, config: Mapping[str, Any], study: str):
        _require("wandb")
        import wandb

        _no_link(folder / "wandb")
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        name = folder.resolve().name
        self._session = wandb.init(
            project="fedmpi", name=name, group=study or None, config=dict(config), dir=str(folder), mode=mode
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics."""
        self._session.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left."""
        self._session.finish()


OWN: dict[str, Factory] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def find(name: str) -> Factory:
    """A logger by its name.

    Raises
    ------
    UsageError
        If there is none of this name.
    """
    others = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in OWN:
        return OWN[name]
    if name not in others:
        raise UsageError(f"--log must be one of {', '.join([*OWN, *sorted(set(others) - set(OWN))])}, got {name}")
    factory: Factory = others[name].load()
    return factory


def opened(names: Sequence[str], folder: Path, study: str = "") -> list[Logger]:
    """Loggers of a run, or of another folder such as that of an audit."""
    config = read_runs([folder])[0].config if (folder / "config.toml").is_file() else {}
    return [find(name)(folder, config, study) for name in names]


def log_runs(names: Sequence[str], folders: Sequence[Path], study: str = "") -> None:
    """Pass on all that run folders hold: every step, and the metrics at the end as ``final/…``."""
    for name in names:
        find(name)  # before any of them is written to
    for run in read_runs(list(folders)):
        for logger in opened(names, run.path, study):
            for step, line in zip(run.steps, run.metrics, strict=True):
                log_line(logger, int(step), line)
            if final := numbers(run.table("metrics")):
                last = int(run.steps[-1]) if run.metrics else 0
                logger.log(last, {f"final/{name}": value for name, value in final.items() if NAME.fullmatch(name)})
            logger.close()


def log_line(logger: Logger, step: int, line: Mapping[str, Any]) -> None:
    """Pass on one line of metrics.jsonl."""
    named = {name: value for name, value in numbers(line).items() if NAME.fullmatch(name)}
    logger.log(step, {name: value for name, value in named.items() if name != "iteration"})


def step_of(line: Mapping[str, Any]) -> int | None:
    """The iteration or round of a line of metrics.jsonl."""
    step = number(line.get("iteration"))
    return None if step is None else int(step)


def _no_link(folder: Path) -> None:
    """Refuse to write through a link, which may lead out of somebody's run folder."""
    if folder.is_symlink():
        raise UsageError(f"the folder of a logger must be no link, got {folder}")


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(f'{package} must be installed for --log: pip install "fedmpi[{package}]"')
