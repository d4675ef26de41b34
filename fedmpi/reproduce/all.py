"""`fedmpi reproduce all`: one page of all papers' tables and figures, beside ours."""

import base64
import html
import importlib.util
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fedmpi.errors import FedmpiError, UsageError
from fedmpi.pages import figures
from fedmpi.pages.html import page
from fedmpi.runs import batch as jobs
from fedmpi.runs.folder import write_atomically

PAPERS = {
    "codedml": "CodedPrivateML [So et al. 2021]",
    "ppadmm": "PPADMM: ADMM-Lasso with two servers",
    "niss": "NISS [Yang et al. 2021]",
    "pbpfl": "PBPFL [Feng et al. 2020]",
    "spn": "SPN [Fan et al. 2020]",
}
"""System → its paper, in the order of the page."""

SHARES = {"codedml": 3, "ppadmm": 3, "niss": 7, "pbpfl": 3, "spn": 11}
"""Roughly how the time divides, for the bar."""

_PICTURES = {".png": "image/png"}


def reproduce_all(scale: str, out: Path, data_dir: Path | None = None) -> tuple[Path, dict[str, FedmpiError]]:
    """Run every paper's experiments, and join their pages. Runs that are finished are not run again.

    Parameters
    ----------
    scale : str
        "quick" or "full".
    out : Path
        Each system gets a folder in it.

    Returns
    -------
    page : Path
    failed : dict
        System → why it is not on the page.

    Raises
    ------
    UsageError
        Where matplotlib or markdown-it-py is missing, before hours of work.
    """
    figures.require()
    if importlib.util.find_spec("markdown_it") is None:
        raise UsageError('markdown-it-py must be installed for the page: pip install "fedmpi[report]"')
    reports: dict[str, Path] = {}
    failed: dict[str, FedmpiError] = {}
    runs: dict[str, list[jobs.Run]] = {}

    def said_where_it_fails(system: str, step: str) -> Any:
        try:
            paper = import_module(f"fedmpi.reproduce.{system}")
            return getattr(paper, step)(getattr(paper, scale.upper()), out / system, data_dir)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "fedmpi":
                raise  # a mistake of ours, no package to install
            failed[system] = UsageError(f'{error.name} must be installed: pip install "fedmpi[torch]"')
        except FedmpiError as error:
            failed[system] = error
        print(f"{system}: {failed[system]}", file=sys.stderr, flush=True)
        return None

    for system in PAPERS:
        if (own := said_where_it_fails(system, "runs")) is not None:
            runs[system] = own
    with _bar(runs) as bar:
        for system in runs:
            bar.begin(system)
            if (report := said_where_it_fails(system, "reproduce")) is not None:
                reports[system] = report
            bar.end(system)
            join(reports, failed, out, scale)  # what is there can be read while the rest is running
    return join(reports, failed, out, scale), failed


def join(reports: Mapping[str, Path], failed: Mapping[str, FedmpiError], out: Path, scale: str) -> Path:
    """Write reproduced.html: all pages in one file, with their pictures.

    Parameters
    ----------
    reports : mapping
        System → its report.md; pictures and tables lie beside it.
    failed : mapping
        System → why there is none.
    """
    contents = "".join(f'<li><a href="#{system}">{html.escape(PAPERS[system])}</a></li>' for system in reports)
    body = [
        "<h1>Five papers, reproduced</h1>",
        f'<p class="soft">fedmpi reproduce all --{html.escape(scale)}: each paper’s numbers beside ours. Times are of '
        "this machine, and say so where they are projected.</p>",
        f"<ul>{contents}</ul>",
    ]
    body += [
        f'<p class="bad">{html.escape(PAPERS[system])}: not here. {html.escape(str(why))}</p>'
        for system, why in failed.items()
    ]
    for system, report in reports.items():
        body.append(f'<section id="{system}">{rendered(report, out)}</section>')
    path = out / "reproduced.html"
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page("fedmpi: five papers, reproduced", body).encode())
    return path


def rendered(report: Path, out: Path) -> str:
    """A Markdown page as HTML, with its pictures in it, headings one level down, and links that hold in `out`."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(report.read_text(encoding="utf-8"))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 1)}"
        for child in token.children or []:
            if child.type == "image":
                child.attrSet("src", _data_uri(report.parent, str(child.attrGet("src"))))
            elif child.type == "link_open" and "://" not in (href := str(child.attrGet("href"))):
                target = report.parent.relative_to(out) if report.is_relative_to(out) else report.parent
                child.attrSet("href", f"{target}/{href}")
    text = str(markdown.renderer.render(tokens, markdown.options, {}))
    return text.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def _data_uri(folder: Path, name: str) -> str:
    path = (folder / name).resolve()
    if path.suffix not in _PICTURES or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return "data:,"
    return f"data:{_PICTURES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


class _Bar:
    """A line on stderr after each run: runs that are done, of all, and the time that is left.

    Parameters
    ----------
    runs : mapping
        System → its runs. Each counts for a part of its system's share of the time.
    """

    def __init__(self, runs: Mapping[str, Sequence[jobs.Run]]):
        self._folders = {system: {run.folder for run in own} for system, own in runs.items()}
        self._before = {run.folder for own in runs.values() for run in own if run.finished is not None}
        self._done = set(self._before)
        self._begun, self._system = time.perf_counter(), ""

    def begin(self, system: str) -> None:
        """Name the system whose runs come now."""
        self._system = system
        self.show()

    def end(self, system: str) -> None:
        """Leave out what was not run, where the system failed."""
        self._folders[system] &= self._done
        self.show()

    def finished(self, run: jobs.Run) -> None:
        """Count a run."""
        if run.folder not in self._before:
            self._done.add(run.folder)
            self.show()

    def show(self) -> None:
        """Print the line."""
        part, before = self._part(self._done), self._part(self._before)
        done, total = len(self._done), sum(map(len, self._folders.values()))
        filled, seconds = round(30 * part), time.perf_counter() - self._begun
        left = f", about {seconds * (1 - part) / (part - before):.0f} s left" if before < part < 1 else ""
        print(
            f"[{'#' * filled}{'-' * (30 - filled)}] {part:>4.0%}  {done}/{total} runs, {self._system}, "
            f"{seconds:.0f} s{left}",
            file=sys.stderr,
            flush=True,
        )

    def _part(self, done: Set[Path]) -> float:
        shares = {system: SHARES[system] for system, own in self._folders.items() if own}
        parts = [share * len(self._folders[s] & done) / len(self._folders[s]) for s, share in shares.items()]
        return sum(parts) / sum(shares.values()) if shares else 1.0


@contextmanager
def _bar(runs: Mapping[str, Sequence[jobs.Run]]) -> Iterator[_Bar]:
    """A bar that hears of each run."""
    bar = _Bar(runs)
    jobs.on_finished.append(bar.finished)
    try:
        yield bar
    finally:
        jobs.on_finished.remove(bar.finished)
