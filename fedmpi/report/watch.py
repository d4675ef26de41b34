"""Follows a run from its folder: prints what metrics.jsonl gains, and passes it on to TensorBoard or W&B."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmpi.errors import UsageError
from fedmpi.runs.reading import json_lines, number, numbers, read_runs

Logger = Callable[[int, Mapping[str, float]], None]
"""Called with each iteration or round and its numbers."""


def follow(run: Path, wait: Callable[[], None] = lambda: time.sleep(0.3)) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl, as they come, until result.json is there.

    A run that goes on after a stop repeats what came after its checkpoint; so does this.

    Parameters
    ----------
    run : Path
    wait : callable
        Called where there is nothing new.

    Raises
    ------
    UsageError
        If there is no run.
    """
    read_runs([run])
    seen: list[dict[str, Any]] = []
    while True:
        ended = (run / "result.json").exists()  # and so are all lines
        lines = json_lines(run / "metrics.jsonl")
        same = next((k for k, (old, new) in enumerate(zip(seen, lines, strict=False)) if old != new), None)
        known = min(len(seen), len(lines)) if same is None else same
        yield from lines[known:]
        seen = lines
        if ended:
            return
        wait()


def line_of(values: Mapping[str, Any]) -> str:
    """One step, for people."""
    shown = numbers(values)
    step, seconds, sent = shown.pop("iteration", 0.0), shown.pop("seconds", 0.0), shown.pop("sent_bytes", 0.0)
    rest = "  ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in shown.items() if name.isprintable())
    return f"{step:>6g}  {rest}  {seconds:.1f} s  {sent / 1e6:.1f} MB"


def watch(run: Path, say: Callable[[str], None], loggers: Iterator[Logger] | list[Logger]) -> None:
    """Say each step, and how the run ended."""
    loggers = list(loggers)
    for values in follow(run):
        say(line_of(values))
        step = number(values.get("iteration"))
        for log in loggers if step is not None else []:
            log(int(step or 0), {name: value for name, value in numbers(values).items() if name != "iteration"})
    result = read_runs([run])[0].result
    failures = result.get("failures")
    count = len(failures) if isinstance(failures, list) else 0
    say(f"ended; {count} failure{'' if count == 1 else 's'}; fedmpi report {run}")


def tensorboard(run: Path) -> Logger:
    """Event files in the folder tensorboard of a run, for ``tensorboard --logdir RUN``."""
    _require("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(run / "tensorboard"))

    def log(step: int, values: Mapping[str, float]) -> None:
        parts = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=parts)))
        writer.flush()

    return log


def wandb(run: Path) -> Logger:
    """A run of Weights & Biases, in the project fedmpi; their own environment variables say where it goes."""
    _require("wandb")
    import wandb as client

    session = client.init(project="fedmpi", name=run.resolve().name, config=read_runs([run])[0].config)
    return lambda step, values: session.log(dict(values), step=step)


LOGGERS: dict[str, Callable[[Path], Logger]] = {"tensorboard": tensorboard, "wandb": wandb}


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UsageError(f'{package} must be installed for --log, got none: pip install "fedmpi[{package}]"')
