"""report.html, and beside it the curves as PNG and all numbers as CSV."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.files import own_folder
from fedmpi.pages import figures
from fedmpi.pages.tables import write_csv
from fedmpi.report.curves import pictures
from fedmpi.report.page import report_page
from fedmpi.runs.folder import write_atomically
from fedmpi.runs.reading import Run, numbers, read_runs


def write_report(paths: list[Path], out: Path | None = None) -> Path:
    """Write the page about some runs, and its numbers.

    Parameters
    ----------
    paths : list of Path
        Run folders.
    out : Path, optional
        Where to; the folder `report` in the first run by default. An earlier report there is replaced.

    Returns
    -------
    Path
        report.html. PNG files are made where matplotlib is installed.

    Raises
    ------
    UsageError
        If a folder holds no run, or `out` can't be written to.
    """
    runs = read_runs(paths)
    out = out or paths[0] / "report"
    try:
        own_folder(out)
        _write_curves(out, runs)
        write_csv(out / "costs.csv", list(_costs(runs)), ("run", "kind", "name", "value"))
        page = out / "report.html"
        write_atomically(page, report_page(runs).encode(errors="replace"))
    except OSError as error:
        raise UsageError(f"--out must be a folder that can be written to, got {out}: {error.strerror}") from None
    return page


def _write_curves(out: Path, runs: Sequence[Run]) -> None:
    rows = []
    for run in runs:
        for metric, (xs, ys) in run.curves().items():
            points = zip(xs, ys, strict=True)
            rows += [{"run": run.name, "metric": metric, "iteration": f"{x:g}", "value": repr(y)} for x, y in points]
    write_csv(out / "curves.csv", rows, ("run", "metric", "iteration", "value"))
    if importlib.util.find_spec("matplotlib") is None:
        return
    drawn = pictures(runs)
    for one in drawn:
        several = len({other.data for other in drawn if other.title == one.title}) > 1
        which = f"-{list(dict.fromkeys(other.data for other in drawn)).index(one.data) + 1}" if several else ""
        title = f"{one.title}\n{one.data}".replace("$", r"\$")
        figures.run_curves(out / f"{one.slug}{which}.png", title, one.title, one.lines, one.numbers, one.levels)


def _costs(runs: Sequence[Run]) -> Iterator[dict[str, str]]:
    tables = (("seconds",), ("cpu_seconds",), ("bytes", "sent"), ("bytes", "received"), ("peak_memory_bytes",))
    for run in runs:
        for keys in tables:
            for name, value in numbers(run.table(*keys)).items():
                yield {"run": run.name, "kind": " ".join(keys), "name": name, "value": repr(value)}
