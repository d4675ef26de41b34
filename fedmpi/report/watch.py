"""Follows a run from its folder: prints what metrics.jsonl gains, and passes it on to loggers."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmpi.rules import printable
from fedmpi.runs.checkpoint import holds_checkpoint
from fedmpi.runs.checkpointing import ENDED
from fedmpi.runs.folder import at_work
from fedmpi.runs.loggers import Logger, log_line, step_of
from fedmpi.runs.reading import json_lines, numbers, read_runs, text_of


def follow(run: Path, wait: Callable[[], None] = lambda: time.sleep(0.3)) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl, as they come, until result.json is there, or nobody works on the run any more.

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
    idle = 0
    while True:
        ended = (run / "result.json").exists()  # and so are all lines
        idle = idle + 1 if at_work(run) is False else 0
        lines = json_lines(run / "metrics.jsonl")
        same = next((k for k, (old, new) in enumerate(zip(seen, lines, strict=False)) if old != new), None)
        known = min(len(seen), len(lines)) if same is None else same
        yield from lines[known:]
        seen = lines
        if ended or idle > 1:  # a run that has just begun takes its lock at once
            return
        wait()


def line_of(values: Mapping[str, Any]) -> str:
    """One step, for people."""
    shown = numbers(values)
    step, seconds, sent = shown.pop("iteration", 0.0), shown.pop("seconds", 0.0), shown.pop("sent_bytes", 0.0)
    rest = "  ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in shown.items() if name.isprintable())
    return f"{step:>6g}  {rest}  {seconds:.1f} s  {sent / 1e6:.1f} MB"


def watch(run: Path, say: Callable[[str], None], loggers: Sequence[Logger]) -> None:
    """Say each step, and how the run ended."""
    for values in follow(run):
        say(line_of(values))
        if (step := step_of(values)) is not None:
            for logger in loggers:
                log_line(logger, step, values)
    if not (run / "result.json").exists():
        say(stopped(run))
        return
    result = read_runs([run])[0].result
    failures = result.get("failures")
    count = len(failures) if isinstance(failures, list) else 0
    say(f"ended; {count} failure{'' if count == 1 else 's'}; fedmpi report {shlex.quote(str(run))}")


def stopped(run: Path) -> str:
    """Why a run has ended before its time, as far as it could say so, and how it goes on."""
    lines = text_of(run / "log.txt").splitlines()
    why = printable(lines[-1].partition(ENDED)[2]) if lines else ""
    said = why or "its processes are gone, and it could not say why"
    said = said if said.startswith("stopped") else f"stopped: {said}"
    command = _command(text_of(run / "config.toml").partition("\n")[0])
    if holds_checkpoint(run):
        return f"{said}\ngo on with: {command} -- --resume {shlex.quote(str(run))}"
    return f"{said}\nit has no checkpoint: begin it again, in another folder, with --checkpoint-every"


def _command(begun: str) -> str:
    """The command that a run began with, as the first line of its config.toml has it, each word quoted anew."""
    if begun.startswith("# fedmpi run ") and begun.isprintable():
        try:
            return shlex.join(shlex.split(begun.removeprefix("# ")))
        except ValueError:
            pass
    return "fedmpi run SYSTEM -n RANKS"
