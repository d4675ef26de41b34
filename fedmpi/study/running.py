"""The runs of a study: those that are not there yet are made, side by side, with a bar that tells the time left."""

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmpi.errors import FedmpiError, UsageError
from fedmpi.rules import printable
from fedmpi.runs import batch
from fedmpi.runs.batch import Run
from fedmpi.runs.folder import write_atomically
from fedmpi.study.plan import Cell, Study
from fedmpi.study.score import score

AUDIT = "audit.json"
"""In the folder of a run: what attacks on it have found."""

_WIDTH = 24


@dataclass
class Outcome:
    """What came of one line of the table."""

    cell: Cell
    results: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Seed → result.json."""
    plain: dict[int, dict[str, Any]] = field(default_factory=dict)
    """The same of the method without protection, where that takes runs of its own."""
    failure: str = ""
    """Why there is less than was asked for, on one line."""
    findings: list[dict[str, Any]] | None = None
    """What attacks have found; None where there was no audit."""


def run_study(study: Study, out: Path, at_once: int, *, slurm: bool = False) -> list[Outcome]:
    """Make all runs, and attack the first of each line where that is asked for.

    Returns
    -------
    list of Outcome
        In the order of the study's cells.
    """
    folder, jobs = out / "runs", _Jobs()
    outcomes = [Outcome(cell, failure=study.impossible.get(cell, "")) for cell in study.cells]
    possible = [outcome for outcome in outcomes if not outcome.failure]
    for outcome in possible:
        for seed in range(study.seeds):
            run = outcome.cell.run(folder, seed, record=study.audit and seed == 0, slurm=slurm)
            jobs.add(run, outcome, seed, outcome.results)
    recorded = {outcome.cell: jobs.of(outcome.cell) for outcome in possible}
    for outcome in possible:
        if (plain := study.plain(outcome.cell)) is not None:
            for seed in range(study.seeds):
                run = recorded.get(plain, {}).get(seed) or plain.run(folder, seed, slurm=slurm)
                jobs.add(run, outcome, seed, outcome.plain)
    jobs.make(at_once)
    if study.audit:
        for outcome in outcomes:
            if 0 in outcome.results:
                outcome.findings = audited(recorded[outcome.cell][0].folder)
    return outcomes


def audited(folder: Path) -> list[dict[str, Any]]:
    """What attacks on a recorded run find; once it is known it is read from the run's folder."""
    path = folder / AUDIT
    try:
        known: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        from fedmpi.audit.applicability import attack
        from fedmpi.audit.recording import Recorded

        print(f"attacks on {folder.name}", file=sys.stderr, flush=True)
        try:
            found = attack([Recorded.read(folder)])
        except UsageError:  # no attack is known for this method
            found = []
        known = [
            {
                "adversary": one.adversary,
                "attack": one.attack,
                "target": one.target,
                "successes": one.successes,
                "attempts": len(one.scores),
                "broken": one.broken,
                "verdict": one.verdict,
                "measure": f"{one.measure} {one.score:.2g}",
            }
            for one in found
            if one.scores
        ]
        write_atomically(path, json.dumps(known, indent=1).encode())
    return known


class _Jobs:
    """Runs, each once, and where their results go."""

    def __init__(self) -> None:
        self._wanted: dict[Path, list[tuple[Outcome, int, dict[int, dict[str, Any]]]]] = {}
        self._runs: dict[Path, tuple[Run, Cell, int]] = {}

    def add(self, run: Run, outcome: Outcome, seed: int, results: dict[int, dict[str, Any]]) -> None:
        """Want the result of a run."""
        self._runs.setdefault(run.folder, (run, outcome.cell, seed))
        self._wanted.setdefault(run.folder, []).append((outcome, seed, results))

    def of(self, cell: Cell) -> dict[int, Run]:
        """Seed → the run of a cell."""
        return {seed: run for run, whose, seed in self._runs.values() if whose is cell}

    def make(self, at_once: int) -> None:
        """Make all runs that are not there. The first seeds come first: what they refuse is not tried with others."""
        seeds = sorted({seed for _, _, seed in self._runs.values()})
        runs = {seed: [run for run, _, of in self._runs.values() if of == seed] for seed in seeds}
        bar = _Bar([run for own in runs.values() for run in own])
        refused: set[tuple[str, int, tuple[str, ...]]] = set()
        for part in (seeds[:1], seeds[1:]):
            chosen = [run for seed in part for run in runs[seed]]
            left_out = [run for run in chosen if _kind(run) in refused]
            bar.leave_out(left_out)
            for run, ended in batch.outcomes([run for run in chosen if run not in left_out], at_once):
                bar.step(run, ended)
                if isinstance(ended, UsageError):
                    refused.add(_kind(run))
                self._hand_out(run, ended)

    def _hand_out(self, run: Run, ended: Mapping[str, Any] | FedmpiError) -> None:
        for outcome, seed, results in self._wanted[run.folder]:
            if isinstance(ended, FedmpiError):
                what = "" if results is outcome.results else "its plain counterpart: "
                outcome.failure = outcome.failure or f"{what}{reason(ended, run)}"
            else:
                results[seed] = dict(ended)


def reason(error: FedmpiError, run: Run) -> str:
    """Why a run failed, without what is known."""
    said = " ".join(str(error).removeprefix(f"the run in {run.folder} must end with 0, got ").split())
    return re.sub(r"^\d+: ", "", said)


def _kind(run: Run) -> tuple[str, int, tuple[str, ...]]:
    """What a run has in common with those of other seeds."""
    at = run.options.index("--seed")
    return run.system, run.ranks, run.options[:at]


class _Bar:
    """Progress on stderr: one live line on a terminal, else a line for each run. Runs that were there are not named."""

    def __init__(self, runs: Sequence[Run]):
        self._old = {run.folder for run in runs if run.finished is not None}
        self._total, self._made = len(runs), 0
        self._begun, self._live = time.perf_counter(), sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        if len(self._old) < self._total:
            there = f", of which {len(self._old)} are there" if self._old else ""
            print(f"{self._total} runs{there}", file=sys.stderr, flush=True)

    def leave_out(self, runs: Sequence[Run]) -> None:
        """Do not wait for runs that will not be made."""
        self._total -= sum(run.folder not in self._old for run in runs)

    def step(self, run: Run, ended: Mapping[str, Any] | FedmpiError) -> None:
        """Say what came of a run."""
        if run.folder in self._old:
            return
        self._made += 1
        done, seconds = self._made + len(self._old), time.perf_counter() - self._begun
        left = f", about {seconds / self._made * (self._total - done):.0f} s left" if done < self._total else ""
        if isinstance(ended, FedmpiError):
            said = f": {printable(reason(ended, run))}"
        else:
            judged, value = score(ended)
            said = "" if value is None else f": {judged} {value:.4f}"
        name = run.folder.name.rpartition("-")[0]
        if not self._live:
            print(f"[{done}/{self._total}] {name}{said} ({seconds:.0f} s{left})", file=sys.stderr, flush=True)
            return
        filled = round(_WIDTH * done / self._total)
        bar = f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {done}/{self._total} runs, {seconds:.0f} s{left}"
        end = "" if done < self._total else "\n"
        print(f"\r\x1b[2K{name}{said}\n{bar}", end=end, file=sys.stderr, flush=True)
