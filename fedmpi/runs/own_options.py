"""What every rank takes from its own command line: no rank writes, imports or breaks anything because another says so.

Ranks that compute only must start fast, so this reads a few options by itself; `fedmpi.runs.options` reads them all.
"""

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class OwnOptions:
    """The options that a rank believes from nobody else."""

    run: Path | None
    """Folder of the run, where --out or --resume names it."""
    views: Path | None
    """Where to write what this rank received: with --record-views and a folder."""
    model: str | None
    """--model, whose code is imported only if it stands here."""
    inject: str | None
    """--inject: faults on purpose."""
    strict_placement: bool
    """--strict-placement."""
    dry_run: bool = False
    """--dry-run: nothing is written."""
    rows: str | None = None
    """--own-rows: the file of this rank's own rows, with {rank} and {host} in its name."""
    timeout: float | None = None
    """--timeout: how long to wait for a rank 0 that has not told yet, and is seen to be stopped."""

    def rows_of(self, rank: int) -> Path | None:
        """The file of the rows of a rank on this machine."""
        if self.rows is None:
            return None
        return Path(self.rows.replace("{rank}", str(rank)).replace("{host}", platform.node())).expanduser()


def own_options(argv: list[str]) -> OwnOptions:
    """Read them from a command line; what is wrong there is for the full parser of rank 0 to say."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("record-views", "strict-placement", "dry-run"):
        parser.add_argument(*spellings(flag), action=argparse.BooleanOptionalAction, default=False)
    for flag, kind in (
        ("out", Path),
        ("resume", Path),
        ("model", str),
        ("inject", str),
        ("own-rows", str),
        ("timeout", float),
    ):
        parser.add_argument(*spellings(flag), type=kind)
    try:
        known = parser.parse_known_args(argv)[0]
    except argparse.ArgumentError:
        return OwnOptions(None, None, None, None, strict_placement=False)
    run = known.out or known.resume
    views = run / "views" if known.record_views and run else None
    flags = {"strict_placement": known.strict_placement, "dry_run": known.dry_run}
    return OwnOptions(run, views, known.model, known.inject, rows=known.own_rows, timeout=known.timeout, **flags)


def spellings(flag: str) -> list[str]:
    """A flag as tyro takes it: with - or with _."""
    return list(dict.fromkeys((f"--{flag}", f"--{flag.replace('-', '_')}")))
