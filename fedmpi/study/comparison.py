"""`compare`: from what is asked for to what it came to."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmpi.errors import FilesError, UsageError
from fedmpi.pages import figures
from fedmpi.pages.html import table as html_table
from fedmpi.runs.batch import AT_ONCE
from fedmpi.runs.folder import write_atomically
from fedmpi.study import page
from fedmpi.study.plan import Study, as_words, cores_for
from fedmpi.study.running import run_study
from fedmpi.study.table import Row, rows_of

STUDY = "study.toml"
"""In the folder of a study: what is compared."""

LAUNCHERS = ("mpirun", "slurm")

MOST_JOBS = 200
"""Of Slurm that are waited for at once, where nothing is said."""


@dataclass(frozen=True)
class Comparison:
    """What a study came to."""

    study: Study
    rows: list[Row]
    out: Path

    @property
    def html(self) -> Path:
        """The page."""
        return self.out / page.HTML

    @property
    def records(self) -> list[dict[str, Any]]:
        """The table: a dictionary for each row, with all digits."""
        return [row.record() for row in self.rows]

    @property
    def table(self) -> Any:
        """The table as a pandas.DataFrame, where pandas is installed; else `records`."""
        try:
            import pandas
        except ImportError:
            return self.records
        return pandas.DataFrame(self.records)

    @property
    def complete(self) -> bool:
        """Whether all runs have ended well."""
        return not any(row.failure for row in self.rows)

    def __str__(self) -> str:
        """The table for a terminal."""
        return page.text(self.rows)

    def _repr_html_(self) -> str:
        """The table in a notebook."""
        columns = page.columns(self.rows)
        return html_table(
            list(columns), {row.name: [cells[k] for cells in columns.values()] for k, row in enumerate(self.rows)}
        )


def compare(
    systems: str | Iterable[str],
    dataset: str | Path,
    *,
    grid: Mapping[str, Any] | None = None,
    seeds: int = 3,
    options: Mapping[str, Any] | None = None,
    audit: bool = False,
    hosts: int | None = None,
    out: str | Path = "study",
    jobs: int | None = None,
    launcher: str = "mpirun",
) -> Comparison:
    """Run several systems on the same rows, and put what came of it into one table and one picture.

    Runs that are in `out` already, with the same options, are not made again.

    Parameters
    ----------
    systems : str or iterable of str
        SYSTEM or SYSTEM:METHOD, as in ``["codedml", "niss:dp-fedavg"]``.
    dataset : str or Path
        A name of ``fedmpi data list``, or a file.
    grid : mapping, optional
        Parameter → values to try, such as ``{"N": [10, 20], "epsilon": [1, 5]}``. N is the number of clients, workers
        or participants, by default 10. What a method does not have does not multiply its runs.
    seeds : int
        Runs of each; seed 0, 1, … of the split and of the training.
    options : mapping, optional
        Options of all systems that have them: ``{"rounds": 20, "niss.learning_rate": 0.05}``.
    audit : bool
        Attack the first run of each.
    hosts : int
        Ranks that the clients of a federated system share. Default: one, two on four cores and more.
    out : str or Path
        Folder of the study.
    jobs : int, optional
        Runs side by side. Default: two, where there are two cores; of Slurm all.
    launcher : str
        mpirun, or slurm: each run is a job.

    Raises
    ------
    UsageError
        If a value breaks a rule: nothing is run then.
    """
    names = tuple(systems.split(",")) if isinstance(systems, str) else tuple(systems)
    given = () if hosts is None else (hosts,)
    study = Study(names, str(dataset), as_words(grid or {}), seeds, as_words(options or {}), audit, *given)
    return make(study, Path(out), jobs, launcher)


def make(study: Study, out: Path, jobs: int | None = None, launcher: str = "mpirun") -> Comparison:
    """Make the runs of a study that are not there, and write table, picture and page."""
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {jobs}")
    if launcher not in LAUNCHERS:
        raise UsageError(f"--launcher must be one of {', '.join(LAUNCHERS)}, got {launcher}")
    if launcher == "slurm" and shutil.which("sbatch") is None:
        raise UsageError("--launcher slurm must be used where Slurm is, got no sbatch")
    figures.require()
    _ = study.impossible  # raises where nothing can be run
    if out.exists() and not (out / STUDY).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out must be a new folder, or that of a study, got {out}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / STUDY, study.to_toml().encode())
    except OSError as error:
        raise FilesError(f"--out must be a folder that can be written to, got {out}: {error.strerror}") from None
    slurm = launcher == "slurm"
    at_once = jobs or (MOST_JOBS if slurm else cores_for(AT_ONCE, 1))
    rows = rows_of(study, run_study(study, out, at_once, slurm=slurm))
    page.write(study, rows, out, at_once, slurm=slurm)
    return Comparison(study, rows, out)
