"""Parameters of Python as the command line that says the same."""

import dataclasses
import difflib
import importlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from fedmpi.errors import UsageError
from fedmpi.rules import flag
from fedmpi.runs.options import RunOptions, parse
from fedmpi.system import System, named, require

NOT_HERE = {
    "dry_run": "a command line",
    "json": "a command line: Run.result is the same",
    "quiet": "a command line: progress=False",
    "record_views": "a command line, whose ranks are processes",
}
"""Options that a program has no use for, and where to use them."""
_one_at_a_time = threading.Lock()
"""Parsers are: searches fit in threads."""


def command_line(system: System, options: Mapping[str, Any], *, values: bool = True) -> list[str]:
    """The words that say the same to `fedmpi run`.

    Parameters
    ----------
    system : System
    options : mapping
        Names of the system's parameters and of `RunOptions` → values; None leaves the default.
    values : bool
        Check them too, not only the names: rank 0 of a job does it later.

    Raises
    ------
    UsageError
        If a name is unknown, or a value breaks a rule.
    """
    require(system.name, *system.packages)
    parameters = named(system.training).parameters
    known = {field.name for kind in (parameters, RunOptions) for field in dataclasses.fields(kind)}
    short = _short_names(parameters)
    words: list[str] = []
    for name, value in options.items():
        if name in NOT_HERE:
            raise UsageError(f"{name} must be used on {NOT_HERE[name]}, got it in Python")
        if name not in known | short.keys():
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"options of {system.name} must be its parameters or those of a run, got {name}{hint}")
        if value is not None:
            words += _words(short.get(name, name), value)
    if values:
        with _one_at_a_time:
            parse(parameters, words, system.name, "")
    return words


def import_path(model: Any) -> Any:
    """What ``--model`` calls a class or function; anything but a class or function as it is.

    Raises
    ------
    UsageError
        If it can't be imported by other ranks, since it stands inside of a function.
    """
    if isinstance(model, str | None) or not callable(model):
        return model
    module, name = getattr(model, "__module__", None), getattr(model, "__qualname__", None)
    if module is None or name is None or getattr(importlib.import_module(module), name, None) is not model:
        what = name or type(model).__name__
        raise UsageError(f"model must be a name, or a class or function at the top of a module, got {what}")
    return f"{module}:{name}"


def _short_names(parameters: type[Any]) -> dict[str, str]:
    """K → parallelization and the like: the flags of one letter."""
    found = {}
    for name, hint in get_type_hints(parameters, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            for alias in getattr(extra, "aliases", None) or ():
                found[alias.lstrip("-")] = name
    return found


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool | np.bool_):
        return [flag(name) if value else flag(f"no_{name}")]
    if isinstance(value, list | tuple | set | np.ndarray):
        return [flag(name), *map(_text, value)] if len(value) else []
    text = _text(value)
    return [f"{flag(name)}={text}"] if text.startswith("-") else [flag(name), text]


def _text(value: Any) -> str:
    if isinstance(value, str | int | float | Path | np.generic):
        return str(value)
    raise UsageError(f"options must be numbers, text, paths or lists of these, got {type(value).__name__}")
