"""How the run of every system begins and ends: its folder, and what is written and printed."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from fedmpi.net import Channel
from fedmpi.net.report import Report
from fedmpi.runs.folder import RunFolder
from fedmpi.runs.frames import frame_lines
from fedmpi.runs.options import RunOptions, to_toml
from fedmpi.runs.progress import Progress, end_live_line


class Parameters(Protocol):
    """What the parameters of all systems have."""

    @property
    def method(self) -> str:
        """The system's own way, or a baseline."""


def begin_run(system: str, params: Parameters, options: RunOptions, steps: int, heading: str) -> Progress:
    """Open the folder of a run, a new one or that of --resume, and say what is about to run."""
    folder = RunFolder(
        options.resume or options.out,
        f"{system}-{params.method}",
        to_toml(params, options),
        resumed=options.resume is not None,
    )
    progress = Progress(folder, steps, quiet=options.quiet or options.json)
    progress.say(heading)
    return progress


def end_run(
    ch: Channel,
    folder: RunFolder,
    options: RunOptions,
    reports: Mapping[int, Report],
    summary: dict[str, Any],
    closing_lines: Callable[[dict[str, Any]], Sequence[str]],
    model: Mapping[str, NDArray[Any]],
) -> None:
    """Write model.npz, frames.jsonl and at last result.json, and print it, or the closing lines."""
    ch.on_pause = lambda: None  # nothing is left to be saved
    folder.write_arrays("model.npz", **model)
    folder.write_lines("frames.jsonl", frame_lines(ch, reports))
    folder.write_json("result.json", summary)
    lines = [*closing_lines(summary), f"written to {folder.path}"]
    end_live_line()
    print(json.dumps(summary) if options.json else "\n".join(lines))
