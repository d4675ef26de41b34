"""``fedmpi audit``: attack recorded runs, or make some of every system and attack them."""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from fedmpi.audit import campaign, report
from fedmpi.audit.applicability import attack, check_known, function
from fedmpi.audit.finding import Finding, merged
from fedmpi.audit.recording import Recorded
from fedmpi.errors import FedmpiError, UsageError
from fedmpi.net.endpoint import describe
from fedmpi.pages import figures
from fedmpi.rules import printable_lines
from fedmpi.runs.loggers import find, opened
from fedmpi.runs.reading import read_runs

ON_THREADS = (
    "servers:together",
    "lying_s1:findings",
    "canaries:shared_gradients",
    "partners:findings",
    "coalitions:findings",
    "liars:findings",
    "secure_sums:together",
    "columns:findings",
    "steps:findings",
    "traps:findings",
)
"""Attacks by who knows keys or seeds of its own, which no run folder has, or who lies; and what needs no run."""


_LETTERS = str.maketrans({"τ": "tau", "²": "2", "₂": "2", "ε": "epsilon", "α": "alpha", "σ": "sigma", "θ": "theta"})
"""Of names that loggers take."""


def audit(folders: Sequence[Path], out: Path | None, log: Sequence[str] = ()) -> Path:
    """Attack recorded runs, print the table, and write the report.

    Parameters
    ----------
    folders : sequence of Path
        Of runs; those of one method that differ in their data are compared.
    out : Path, optional
        Of the report. Default: audit/ in the first folder.
    log : sequence of str
        Loggers that get the part of successes of each attack.

    Returns
    -------
    Path
        Of report.html.
    """
    if not folders:
        raise UsageError("either folders of runs or --all must be given, got neither")
    figures.require()
    for name in log:
        find(name)
    report.check(out := out or folders[0] / "audit")
    for run in read_runs(list(folders)):
        check_known(run)
    recorded = [Recorded.read(folder) for folder in folders]
    try:
        findings = attack(recorded)
    except FedmpiError:
        raise
    except Exception as error:  # a folder may be a stranger's, and hold anything
        names = ", ".join(map(str, folders))
        raise UsageError(f"RUN must hold what its ranks received, got {names}: {describe(error)}") from error
    print(printable_lines(report.text(findings)), flush=True)
    how = "Runs: " + ", ".join(f"`{folder.name}`" for folder in folders)
    written = report.write(findings, out, how)
    _log(findings, log, out)
    return written


def audit_all(scale: campaign.Scale, out: Path, log: Sequence[str] = ()) -> Path:
    """Run every system, attack all of it, print the table, and write the report.

    Returns
    -------
    Path
        Of report.html.
    """
    figures.require()
    for name in log:
        find(name)
    report.check(out / "report")
    findings = attack(list(campaign.recorded(scale, out / "runs")))
    for seed, name in product(range(scale.seeds), ON_THREADS):
        findings += function(name)(seed)
    findings = merged(findings)
    print(printable_lines(report.text(findings)), flush=True)
    how = (
        f"`fedmpi audit --all{' --quick' if scale is campaign.QUICK else ''}`: {scale.seeds} seeds. All runs are under "
        "mpirun, on one machine, except for the rows that say so: S2 and clients in league with a server use their "
        "keys, which no run folder has, and roles that lie are played by the audit."
    )
    written = report.write(findings, out / "report", how)
    _log(findings, log, out / "report")
    return written


def _log(findings: Sequence[Finding], names: Sequence[str], folder: Path) -> None:
    """Pass on how many attempts of each attack succeeded, of 1."""
    for logger in opened(names, folder):
        for one in findings:
            words = (one.system, one.method, one.adversary, one.attack)
            plain = (word.translate(_LETTERS) for word in words)
            tag = "/".join(re.sub(r"[^\w.-]+", "_", word, flags=re.ASCII).strip("_") for word in plain)
            logger.log(0, {tag: one.part})
        logger.close()
