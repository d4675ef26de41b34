"""A run that has ended: its model, numbers and pages."""

import html
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedmpi.errors import UsageError
from fedmpi.runs.model import Model, load_model
from fedmpi.runs.reading import read_runs


@dataclass(frozen=True)
class Page:
    """A report as HTML. Jupyter shows it by itself."""

    path: Path
    """Of report.html."""

    def _repr_html_(self) -> str:
        # in a frame, so that the page's style and that of the notebook leave each other alone
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


class Run:
    """What `fedmpi.train` gives, or the run of a folder.

    Parameters
    ----------
    folder : Path or str
        Of a run that has ended.
    architecture : str, optional
        ``package.module:Class`` of a model of one's own.

    Attributes
    ----------
    folder : Path
        With config.toml, metrics.jsonl, the model and result.json. Where `train` was not told `out`, it vanishes with
        this object: `keep` copies it.
    """

    def __init__(self, folder: Path | str, architecture: str | None = None):
        self.folder, self._architecture = Path(folder), architecture
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @cached_property
    def result(self) -> dict[str, Any]:
        """The contents of result.json.

        Raises
        ------
        UsageError
            If the folder has none: it is no run, or one that was stopped.
        """
        try:
            found: dict[str, Any] = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"folder must be that of a run that ended, got {self.folder}: {error}") from None
        return found

    @property
    def metrics(self) -> Any:
        """A row for each step that was recorded: a DataFrame where pandas is installed, else a list of dicts."""
        (run,) = read_runs([self.folder])
        try:
            import pandas
        except ImportError:
            return run.metrics
        return pandas.DataFrame(run.metrics)

    @cached_property
    def model(self) -> Model:
        """The trained model, ready for rows as they were given."""
        return load_model(self.folder, self._architecture)

    def report(self, out: Path | str | None = None) -> Page:
        """Write the page about this run, with its curves and numbers; Jupyter shows what is returned.

        Parameters
        ----------
        out : Path or str, optional
            Folder of the report. Default: report/ in that of the run.
        """
        from fedmpi.report import write_report

        return Page(write_report([self.folder], None if out is None else Path(out)))

    def keep(self, folder: Path | str) -> "Run":
        """A copy in another folder, which stays.

        Raises
        ------
        UsageError
            If the folder is there already.
        """
        try:
            shutil.copytree(self.folder, folder)
        except OSError as error:
            raise UsageError(f"folder must be a new one that can be made, got {folder}: {error.strerror}") from None
        return Run(folder, self._architecture)

    def __repr__(self) -> str:
        metrics = self.result.get("metrics", {})
        scores = [f"{k}={v:.4g}" for k, v in metrics.items() if isinstance(v, float) and k.startswith("test_")][:3]
        return (
            f"Run({self.result.get('system')}, {', '.join([str(self.result.get('method')), *scores])}, {self.folder})"
        )
