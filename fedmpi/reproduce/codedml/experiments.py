"""What is run for Figures 3, 4 and 5 and Table II, and how its numbers are read."""

import json
from pathlib import Path
from typing import Any

from fedmpi.bench.projection import PROTOCOLS, coded_layout, project
from fedmpi.bench.rates import Rates, calibrate
from fedmpi.bench.steps import Machines, Task
from fedmpi.errors import UsageError
from fedmpi.pages import figures
from fedmpi.reproduce.codedml import pages
from fedmpi.reproduce.codedml.gram import integer_rate
from fedmpi.reproduce.codedml.settings import (
    CIFAR10,
    CURVE_ITERATIONS,
    DIGITS,
    FULL,
    GISETTE,
    Curve,
    DataSet,
    Scale,
    Timed,
)
from fedmpi.reproduce.shared import data_options, present
from fedmpi.runs.batch import Run, train_all
from fedmpi.runs.result import SCHEMA


def reproduce(scale: Scale, out: Path, data_dir: Path | None = None) -> Path:
    """Run what is not there yet, and write figures, tables and report.md.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    sets, rates = data_sets(scale, data_dir), calibrate()
    results = train_all(runs(scale, out, data_dir))
    points = [
        timed(data, protocol, N, results[out / "runs" / timed_run(data, protocol, N, scale)[0]], rates)
        for data, N, protocol in points_of(scale, sets)
    ]
    curves = [curve(data, scale, out) for data in sets]
    return pages.write(out, scale, points, curves, rates, integer_rate())


def runs(scale: Scale, out: Path, data_dir: Path | None = None) -> list[Run]:
    """All that `reproduce` runs."""
    sets, folder, found = data_sets(scale, data_dir), data_options(data_dir), []
    for data, workers, protocol in points_of(scale, sets):
        name, options = timed_run(data, protocol, workers, scale)
        found.append(Run(out / "runs" / name, workers + 1, (*options, *folder), timed=True))
    for data in sets:
        options = [*data.options, *folder, "--iterations", str(CURVE_ITERATIONS), "--no-compare"]
        for method, (workers, more) in curve_methods(scale).items():
            path = out / "runs" / curve_name(data, method)
            found.append(Run(path, workers + 1, (*options, "--method", method, *more)))
    return found


def points_of(scale: Scale, sets: list[DataSet]) -> list[tuple[DataSet, int, str]]:
    """Data set, workers and protocol of each point of Figure 3."""
    return [(data, N, protocol) for data in sets for N in scale.workers for protocol in PROTOCOLS]


def data_sets(scale: Scale, data_dir: Path | None) -> list[DataSet]:
    """CIFAR-10 and the stand-in for GISETTE; --quick makes do with digits where CIFAR-10 is missing."""
    if "cifar10" in present(data_dir):
        return [CIFAR10, GISETTE]
    if scale is FULL:
        raise UsageError("data set cifar10 must be there for --full: fedmpi data fetch cifar10")
    return [DIGITS, GISETTE]


def timed_run(data: DataSet, protocol: str, workers: int, scale: Scale) -> tuple[str, list[str]]:
    """The folder's name and the options of a timed run."""
    options = [*data.options, "--iterations", str(scale.iterations)]
    if scale.rows is not None:
        rows = min(scale.rows, data.size.rows)
        options = [*without(options, "--max-rows"), "--max-rows", str(rows)]
    options += ["--evaluate-every", str(scale.iterations), "--no-compare"]
    method, _, case = protocol.partition(" case ")
    if case and coded_layout(workers, 1, 2)["T"] == 1:  # both cases are the same code: run once
        case = "2"
    return f"{data.key}-{method}{case}-{workers}", [*options, "--method", method, *(["--case", case] if case else [])]


def timed(data: DataSet, protocol: str, workers: int, result: dict[str, Any], rates: Rates) -> Timed:
    """A run and its projections."""
    task = Task(
        result["dataset"]["m"], result["dataset"]["d"] + result["params"]["bias"], 1, result["params"]["iterations"]
    )
    return Timed(
        data,
        protocol,
        workers,
        result,
        project(protocol, workers, task, Machines(), rates),
        project(protocol, workers, data.size, Machines(), rates),
    )


def figure3_runs(scale: Scale, data: DataSet = CIFAR10) -> dict[str, tuple[int, list[str]]]:
    """Name → workers and options of the timed runs of Figure 3, each once."""
    runs = {}
    for workers in scale.workers:
        for protocol in PROTOCOLS:
            name, options = timed_run(data, protocol, workers, scale)
            runs[name] = workers, options
    return runs


def figure3_from(made: Path, out: Path) -> Path:
    """Figure 3 of CIFAR-10 from runs that were made elsewhere, with one machine per rank.

    Parameters
    ----------
    made : Path
        Holds the run folders, with the names of `figure3_runs`.

    Returns
    -------
    Path
        Of report.md.

    Raises
    ------
    UsageError
        If a run is missing or is another one.
    """
    figures.require()
    rates, points, hosts = calibrate(), [], set[str]()
    for workers in FULL.workers:
        for protocol in PROTOCOLS:
            name, _ = timed_run(CIFAR10, protocol, workers, FULL)
            try:
                result = json.loads((made / name / "result.json").read_text())
            except (OSError, ValueError):
                raise UsageError(f"--from must hold the finished run {name}, got none in {made}") from None
            if (schema := result.get("schema")) != SCHEMA:
                raise UsageError(f"result.json of {name} must have schema {SCHEMA}, got {schema!r}")
            if (result["method"], result["ranks"]) != (protocol.partition(" ")[0], workers + 1):
                got = f"{result['method']} with {result['ranks']}"
                raise UsageError(f"{name} must be a run with {workers + 1} ranks, got {got}")
            if (degree := result["params"]["degree"]) != 1:
                raise UsageError(f"{name} must be a run with --paper, got one with degree {degree}")
            hosts |= set(result["environment"]["hosts"])
            points.append(timed(CIFAR10, protocol, workers, result, rates))
    return pages.write_figure3(out, points, len(hosts))


def without(options: list[str], name: str) -> list[str]:
    """The options without one and its value."""
    if name not in options:
        return options
    at = options.index(name)
    return options[:at] + options[at + 2 :]


def curve_methods(scale: Scale) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Method → workers and options of the runs of Figures 4 and 5."""
    return {"coded": (scale.curve_workers, ("--case", "2")), "plain": (0, ())}


def curve_name(data: DataSet, method: str) -> str:
    """The folder of a run of Figures 4 and 5."""
    return f"{data.key}-curve-{method}"


def curve(data: DataSet, scale: Scale, out: Path) -> Curve:
    """Accuracy and loss of every iteration, of all rows: coded, case 2, and conventional."""
    lines = []
    for method in curve_methods(scale):
        metrics = out / "runs" / curve_name(data, method) / "metrics.jsonl"
        lines.append([json.loads(line) for line in metrics.read_text().splitlines()])
    return Curve(data, scale.curve_workers, *lines)
