"""``fedmpi audit``: attack recorded runs, or make some of every system and attack them."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from fedmpi.audit import campaign, report
from fedmpi.audit.applicability import attack, function
from fedmpi.audit.finding import merged
from fedmpi.audit.recording import Recorded
from fedmpi.errors import UsageError
from fedmpi.pages import figures

ON_THREADS = ("servers:together", "partners:findings")
"""Attacks by who knows keys or seeds of its own, which no run folder has."""


def audit(folders: Sequence[Path], out: Path | None) -> Path:
    """Attack recorded runs, print the table, and write the report.

    Parameters
    ----------
    folders : sequence of Path
        Of runs; those of one method that differ in their data are compared.
    out : Path, optional
        Of the report. Default: audit/ in the first folder.

    Returns
    -------
    Path
        Of report.md.
    """
    if not folders:
        raise UsageError("either folders of runs or --all must be given, got neither")
    figures.require()
    report.check(out := out or folders[0] / "audit")
    findings = attack([Recorded.read(folder) for folder in folders])
    print(report.text(findings), flush=True)
    how = "Runs: " + ", ".join(f"`{folder.name}`" for folder in folders)
    return report.write(findings, out, how)


def audit_all(scale: campaign.Scale, out: Path) -> Path:
    """Run every system, attack all of it, print the table, and write the report.

    Returns
    -------
    Path
        Of report.md.
    """
    figures.require()
    report.check(out / "report")
    findings = attack(list(campaign.recorded(scale, out / "runs")))
    for seed, name in product(range(scale.seeds), ON_THREADS):
        findings += function(name)(seed)
    findings = merged(findings)
    print(report.text(findings), flush=True)
    how = (
        f"`fedmpi audit --all{' --quick' if scale is campaign.QUICK else ''}`: {scale.seeds} seeds. All runs are under "
        "mpirun, on one machine, but for the rows that say so: S2 and clients in league with a server use their keys, "
        "which no run folder has."
    )
    return report.write(findings, out / "report", how)
