"""The `fedmpi` command."""

import sys
from typing import Any

import tyro

from fedmpi import __version__
from fedmpi.cli.benchmarks import Bench
from fedmpi.cli.machine import Data, Doctor
from fedmpi.cli.papers import Project, Reproduce
from fedmpi.cli.results import Audit, Report, Watch
from fedmpi.cli.running import SYSTEMS, Attack, Hostfile, Keygen, Run
from fedmpi.errors import FedmpiError, UsageError

__all__ = ["COMMANDS", "SYSTEMS", "main"]

COMMANDS: dict[str, Any] = {
    "run": Run,
    "keygen": Keygen,
    "hostfile": Hostfile,
    "attack": Attack,
    "audit": Audit,
    "doctor": Doctor,
    "data": Data,
    "bench": Bench,
    "project": Project,
    "reproduce": Reproduce,
    "report": Report,
    "watch": Watch,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is that of the command (0 done, 2 usage, 130 Ctrl-C, …)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv == ["--version"]:
        print(f"fedmpi {__version__}")
        return 0
    own, options = argv, []
    if "--" in argv:
        own, options = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="fedmpi", args=own, description="Privacy-preserving machine learning over MPI."
    )
    try:
        if options and not isinstance(command, Run | Attack):
            raise UsageError(f"options behind -- must be for run or attack, got {' '.join(options)}")
        return int(command(options))
    except FedmpiError as error:
        print(f"fedmpi: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
