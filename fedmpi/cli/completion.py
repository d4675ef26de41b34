"""Completion in the shell: a script that asks `fedmpi --complete` what may stand where the cursor is."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fedmpi.errors import UsageError

_BASH = """\
_fedmpi() {
    local IFS=$'\\n'
    local words="$(fedmpi --complete "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)"
    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _fedmpi fedmpi"""

SCRIPTS = {
    "bash": _BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}",
    "fish": "complete -c fedmpi -a '(fedmpi --complete (commandline -opc)[2..] 2>/dev/null)'",
}


def script(shell: str = "", *_: str) -> str:
    """What a shell reads at its start.

    Raises
    ------
    UsageError
        If the shell is another.
    """
    if shell not in SCRIPTS:
        raise UsageError(f"--print-completion must be given one of {', '.join(SCRIPTS)}, got {shell or 'none'}")
    return SCRIPTS[shell]


def candidates(words: list[str]) -> list[str]:
    """What may follow these words of a command line; nothing where files may."""
    from fedmpi.cli.commands import COMMANDS, command
    from fedmpi.runs.commandline import flags_of
    from fedmpi.systems import find, names

    if not words:
        return [*COMMANDS, "--help", "--version"]
    first, *rest = words
    if first not in COMMANDS:
        return []
    kinds: list[Any] = [command(first)]
    if first == "run":
        system = next((word for word in rest if word in names()), None)
        if system is None:
            return list(names())
        kinds = [find(system).options()]
    if first in ("run", "attack"):
        from fedmpi.runs.options import RunOptions

        if first == "attack":
            from fedmpi.attacks.params import Params

            kinds = [Params]
        kinds.append(RunOptions)
        if "--" not in rest:
            kinds.append(command(first))
    if rest and (choices := _choices(kinds, rest[-1])) is not None:
        return choices
    return [*dict.fromkeys(flag for kind in kinds for flag in flags_of(kind)), "--help"]


def _choices(kinds: list[Any], flag: str) -> list[str] | None:
    """The values that a flag may have, as far as they can be named; None where no flag with a value stands before."""
    name = flag.lstrip("-").replace("-", "_")
    for kind in kinds:
        hint = get_type_hints(kind).get(name) if flag.startswith("--") else None
        if hint is None or name not in {field.name for field in dataclasses.fields(kind)} or hint is bool:
            continue
        if name == "dataset":
            from fedmpi.data import catalogue

            return [entry.name for entry in catalogue()]
        literals = [one for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
        return [str(value) for one in literals for value in get_args(one)]
    return None
