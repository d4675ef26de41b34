"""Reading a command line with tyro: an error is one line, and help is plain text where no terminal shows it."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from fedmpi.errors import UsageError

T = TypeVar("T")

SYNONYMS = {
    "adam": "optimizer",
    "alpha": "penalty l2 dirichlet-alpha learning-rate",
    "batch": "batch-size",
    "bs": "batch-size",
    "categories": "categorical",
    "csv": "dataset",
    "cuda": "device",
    "data": "dataset",
    "data-path": "data-dir",
    "eps": "epsilon",
    "epoch": "epochs rounds iterations",
    "epochs": "rounds iterations",
    "eta": "learning-rate",
    "file": "dataset",
    "gpu": "device",
    "hosts": "hostfile",
    "input": "dataset",
    "iters": "iterations rounds",
    "iterations": "rounds",
    "k": "parallelization",
    "label": "label-column",
    "lam": "penalty l2",
    "lambda": "penalty l2",
    "lr": "learning-rate",
    "max-epochs": "rounds iterations",
    "max-iter": "iterations rounds",
    "max-iters": "iterations rounds",
    "n-clients": "clients",
    "n-iter": "iterations rounds",
    "n-procs": "ranks",
    "nodes": "hostfile",
    "np": "ranks",
    "num-clients": "clients",
    "num-epochs": "epochs rounds iterations",
    "num-rounds": "rounds iterations",
    "output": "out",
    "output-dir": "out",
    "path": "dataset",
    "processes": "ranks",
    "random-state": "seed",
    "reg": "penalty l2",
    "regularization": "penalty l2",
    "rounds": "iterations",
    "save": "out",
    "split": "partition test-fraction",
    "step-size": "learning-rate",
    "steps": "rounds iterations",
    "t": "privacy",
    "target": "label-column",
    "test-size": "test-fraction",
    "threshold": "privacy",
    "verbose": "quiet",
    "weight-decay": "l2 penalty",
    "workers": "ranks",
    "y": "label-column",
}
"""What others call an option → what it may be called here; the first that there is is suggested."""


LAUNCHER = ("--ranks", "--hostfile", "--interface", "--tolerate-failures", "--place")
"""Options of `fedmpi run` itself, which may be meant where an option of a system is not known."""

_SAYINGS = (
    (r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)", "{0} must be a whole number, got {1}"),
    (r"Error parsing (\S+): could not convert string to float: (.*)", "{0} must be a number, got {1}"),
    (
        r"Error parsing (\S+): no type matching \{None\}\|(\S+) could be instantiated from \[(.*)\]\.",
        "{0} must be {1}, got {2}",
    ),
    (r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]", "{0} must be numbers, got {1}"),
    (r"Error parsing (\S+): (.*)", "{0} must be readable, got what can't be read: {1}"),
    (r"Missing value for argument '(\S+)'\..*", "{0} must have a value, got none"),
)
"""What tyro says → how it is said here."""
_KINDS = {"INT": "a whole number", "FLOAT": "a number"}


def read(kind: type[T], argv: Sequence[str], prog: str, description: str | None = None) -> T:
    """Read a command line into a dataclass.

    Parameters
    ----------
    kind : dataclass
        Its fields are the options.
    argv : sequence of str
    prog, description : str
        For --help.

    Raises
    ------
    UsageError
        If the command line is wrong: one line.
    SystemExit
        After --help.
    """
    said, wrong = io.StringIO(), io.StringIO()  # tyro draws no boxes on what has no encoding
    boxes = fancy() and not {"-h", "--help"}.isdisjoint(argv)
    try:
        with contextlib.redirect_stderr(wrong), contextlib.redirect_stdout(sys.stdout if boxes else said):
            value, unknown = tyro.cli(
                kind, prog=prog, description=description, args=list(argv), return_unknown_args=True
            )
    except SystemExit as end:
        if end.code:
            raise UsageError(_one_line(wrong.getvalue(), prog, argv)) from None
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in said.getvalue().splitlines()))
        raise
    if unknown:
        raise UsageError(not_known(unknown[0], prog, flags_of(kind)))
    return value


def fancy() -> bool:
    """Whether boxes and colours are wanted: on a terminal, unless NO_COLOR or a dumb one says otherwise."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def not_known(word: str, prog: str, flags: Sequence[str]) -> str:
    """The error for a word that is no option; with the nearest one, if any is near."""
    name = word.partition("=")[0]
    if not name.startswith("-"):
        near = difflib.get_close_matches(name, [flag for flag in flags if not flag.startswith("-")], 1)
        return f"words behind {prog} must be known, got {word}{_did_you_mean(near)}"
    flags = [*flags, *LAUNCHER] if prog.startswith("fedmpi run ") else flags
    if prog == "fedmpi compare":  # --rounds is not --out: most likely it is for the systems
        near = difflib.get_close_matches(name, flags, 1, 0.75)
        hint = _did_you_mean(near) or "; those of systems stand behind --"
        return f"options of {prog} must be known, got {name}{hint}"
    return f"options of {prog} must be known, got {name}{_did_you_mean(nearest(name, flags))}"


def nearest(flag: str, flags: Sequence[str]) -> list[str]:
    """The flag that was meant, if one is near: by what others call it, else by its letters."""
    bare = flag.lstrip("-").replace("_", "-").lower()
    for meant in SYNONYMS.get(bare, "").split():
        if f"--{meant}" in flags:
            return [f"--{meant}"]
    shorts = [one for one in flags if len(one) == 2 and one[1:].lower() == bare]
    return shorts or difflib.get_close_matches(f"--{bare}", [one for one in flags if one.startswith("--")], 1, 0.6)


def flags_of(kind: Any) -> list[str]:
    """All flags of a dataclass, as they are written; of one with commands, those of all of them, and their names."""
    found: list[str] = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name not in {field.name for field in dataclasses.fields(kind)}:
            continue
        bare, extras = _bare(hint)
        options = [one for one in extras if type(one).__name__ in ("_ArgConfig", "_SubcommandConfig")]
        parts = [part for part in (bare, *(_bare(one)[0] for one in get_args(bare))) if dataclasses.is_dataclass(part)]
        for part in parts:
            found += flags_of(part)
        if parts:
            found += [one.name for part in get_args(bare) for one in _bare(part)[1] if getattr(one, "name", None)]
            continue
        named = next((one.name for one in options if one.name), None) or name
        found += [f"--{named.replace('_', '-')}", *(alias for one in options for alias in one.aliases or ())]
    return list(dict.fromkeys(found))


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its annotations, and these."""
    if get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def _did_you_mean(near: Sequence[str]) -> str:
    return f" (did you mean {near[0]}?)" if near else ""


def _one_line(said: str, prog: str, argv: Sequence[str]) -> str:
    """What tyro says, as one line of fedmpi's form; as it stands where that is not known."""
    rows = list(_rows(said))
    if rows and rows[0].startswith("Missing from"):
        names = [row.strip().partition(",")[0] for row in rows[1:] if row[:5].strip() and row.startswith("    ")]
        return f"{prog} must be given {', '.join(names)}, got none"
    text = " ".join(row.strip() for row in rows)
    if choice := re.fullmatch(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)\.", text):
        choices = [one.strip("' ") for one in choice[3].split(",") if one.strip("' ") not in ("", "None")]
        near = difflib.get_close_matches(choice[1], choices, 1)
        return f"{choice[2]} must be one of {', '.join(choices)}, got {choice[1]}{_did_you_mean(near)}"
    if commands := re.fullmatch(r"Expected one of \{(.*)\}\.", text):
        word = next((one for one in argv if not one.startswith("-")), "none")
        near = difflib.get_close_matches(word, commands[1].split(", "), 1)
        return f"the command behind {prog} must be one of {commands[1]}, got {word}{_did_you_mean(near)}"
    for pattern, form in _SAYINGS:
        if found := re.fullmatch(pattern, text):
            return form.format(*(_KINDS.get(part, part.replace("'", "")) for part in found.groups()))
    return f"{prog} must be used as its --help says, got an error: {text}"


def _rows(said: str) -> Iterator[str]:
    """The lines below the title, until the next rule."""
    lines = iter(said.splitlines())
    for line in lines:
        if set(line.strip()) == {"-"}:
            break
    for line in lines:
        if set(line.strip()) <= {"-"}:
            return
        yield line[2:]
