"""Which systems there are: those of fedmpi, and those that other packages offer by an entry point."""

import importlib
from importlib.metadata import entry_points

from fedmpi.errors import UsageError
from fedmpi.runs.programs import GROUP, OWN, names, program
from fedmpi.system import System

__all__ = ["GROUP", "OWN", "find", "names", "program"]


def find(name: str) -> System:
    """The record of a system.

    Raises
    ------
    UsageError
        If there is none of this name, or what the entry point names is none.
    """
    if name in OWN:
        system = importlib.import_module(f"fedmpi.{name}").SYSTEM
    else:
        entry = next(iter(entry_points(group=GROUP, name=name)), None)
        if entry is None:
            raise UsageError(f"system must be one of {', '.join(names())}, got {name}")
        system = entry.load()
    if not isinstance(system, System):
        raise UsageError(f"entry point {name} of {GROUP} must name a System, got {type(system).__name__}")
    return system
