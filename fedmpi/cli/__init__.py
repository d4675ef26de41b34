"""The `fedmpi` command.

Each command is a file, with a class whose fields are the command's options and whose call does the work. They are thin:
what they call lives in the packages below. No rank of a job imports them, and only the file of the command that is
named is imported: help, and what is wrong with a command line, are said at once.
"""

import os
import sys

from fedmpi.cli.early import heed, heeded
from fedmpi.rules import printable, printable_lines

if os.path.basename(sys.argv[0]) in ("-m", "fedmpi") and sys.argv[1:2] == ["run"]:  # noqa: PTH119  # the program itself
    heed()

import difflib

from fedmpi.cli.commands import COMMANDS, command
from fedmpi.errors import FedmpiError, FilesError, UsageError
from fedmpi.version import __version__

__all__ = ["COMMANDS", "main"]

_USAGE = """\
usage: fedmpi COMMAND …

Privacy-preserving machine learning over MPI.

{commands}

fedmpi COMMAND --help says more; fedmpi run SYSTEM --help names the options of a system.
fedmpi --version; fedmpi --print-completion bash, zsh or fish writes a completion script.

Start with: fedmpi run codedml -n 11 -- --iterations 20"""

_BROKEN_PIPE = 141
"""What a shell says of a program that SIGPIPE has ended."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is that of the command (0 done, 2 usage, 5 files, 130 Ctrl-C, …)."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        try:
            code = _main(argv)
        except SystemExit as end:
            if end.code:
                raise
            code = 0  # after --help
        sys.stdout.flush()
    except FedmpiError as error:
        print(f"fedmpi: error: {printable_lines(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("fedmpi: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads has read enough, as `head` does
        _forget_output()
        return _BROKEN_PIPE
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "fedmpi") or os.environ.get("FEDMPI_TRACEBACK"):
            raise
        print(f"fedmpi: error: {package} must be installed for fedmpi {argv[0]}", file=sys.stderr)
        return UsageError.exit_code
    except OSError as error:
        if os.environ.get("FEDMPI_TRACEBACK"):
            raise
        _forget_output()
        print(f"fedmpi: error: {printable(FilesError.of(error))}", file=sys.stderr)
        return FilesError.exit_code
    return code


def _forget_output() -> None:
    """What stdout can't take is not tried again as Python ends, which would say so once more and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main(argv: list[str]) -> int:
    first = argv[0] if argv else ""
    if first == "--version":
        print(f"fedmpi {__version__}")
        return 0
    if first in ("-h", "--help"):
        print(_USAGE.format(commands="\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())))
        return 0
    if first == "--print-completion":
        from fedmpi.cli.completion import script

        print(script(*argv[1:]))
        return 0
    if first == "--complete":
        from fedmpi.cli.completion import candidates

        print("\n".join(candidates(argv[1:])))
        return 0
    if first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"the command must be one of {', '.join(COMMANDS)}, got {first or 'none'}{hint}")
    if first == "run":
        with heeded():
            from fedmpi.cli.run import run

            return run(argv[1:])
    own, options = argv[1:], list[str]()
    if "--" in argv:
        own, options = argv[1 : argv.index("--")], argv[argv.index("--") + 1 :]
    if options and first not in ("attack", "compare"):
        raise UsageError(f"options behind -- must be for run, compare or attack, got {' '.join(options)}")
    from fedmpi.runs.commandline import read

    return int(read(command(first), own, f"fedmpi {first}")(options))
