"""The `fedmpi` command.

Each command is a file, with a class whose fields are the command's options and whose call does the work. They are thin:
what they call lives in the packages below. No rank of a job imports them.
"""

import sys
from typing import Any

import tyro

from fedmpi.cli.attack import Attack
from fedmpi.cli.audit import Audit
from fedmpi.cli.bench import Bench
from fedmpi.cli.data import Data
from fedmpi.cli.doctor import Doctor
from fedmpi.cli.export import Export
from fedmpi.cli.hostfile import Hostfile
from fedmpi.cli.keygen import Keygen
from fedmpi.cli.predict import Predict
from fedmpi.cli.project import Project
from fedmpi.cli.report import Report
from fedmpi.cli.reproduce import Reproduce
from fedmpi.cli.run import SYSTEMS, Run
from fedmpi.cli.watch import Watch
from fedmpi.errors import FedmpiError, UsageError
from fedmpi.version import __version__

__all__ = ["COMMANDS", "SYSTEMS", "main"]

COMMANDS: dict[str, Any] = {
    "run": Run,
    "keygen": Keygen,
    "hostfile": Hostfile,
    "predict": Predict,
    "export": Export,
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
