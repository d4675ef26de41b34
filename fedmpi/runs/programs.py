"""Which systems are installed, and the program that every rank of one runs; none is imported for that."""

from importlib.metadata import entry_points

OWN = ("codedml", "copml", "ppadmm", "niss", "pbpfl", "spn")
"""Those of fedmpi."""
GROUP = "fedmpi.systems"
"""Group of the entry points of others: ``name = module:SYSTEM``, whose name is that of the module's program."""


def names() -> tuple[str, ...]:
    """The names of all systems that are installed, fedmpi's own first."""
    return (*OWN, *sorted({entry.name for entry in entry_points(group=GROUP)} - set(OWN)))


def program(name: str) -> str:
    """The module that every rank of a system runs."""
    others = {entry.name: entry.module for entry in entry_points(group=GROUP)} if name not in OWN else {}
    return others.get(name, f"fedmpi.{name}")
