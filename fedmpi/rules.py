"""Rules that options keep; the one that breaks a rule is named as a flag of the command line, or as Python names it."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fedmpi.errors import UsageError

_FLAG = re.compile(r"(?<![\w-])(--(?=[A-Za-z])|-(?=[A-Za-z](?!\w)))([A-Za-z][a-z0-9-]*)")  # and not the value -inf
_RANKS = re.compile(r" \(start \d+ ranks or more[^)]*\)")


def at_least(options: object, **least: float) -> None:
    """Raise UsageError unless each named option is at least so large and finite, or None."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and not smallest <= value < float("inf"):
            raise UsageError(f"{flag(name)} must be at least {smallest}, got {value}")


def positive(options: object, *names: str) -> None:
    """Raise UsageError unless each named option is above 0 and finite, or None."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag(name)} must be positive, got {value}")


def flag(name: str) -> str:
    """As an option is written on the command line."""
    return f"--{name.replace('_', '-')}"


@contextmanager
def parameters_of_python(names: Mapping[str, str], *, ranks: bool = False) -> Iterator[None]:
    """Errors of the block speak of parameters of Python in place of flags of the command line.

    Parameters
    ----------
    names : mapping
        What a flag is called in Python, without its dashes, where that is not its own name with underscores.
    ranks : bool
        Whether there are ranks of which to start more.
    """
    try:
        yield
    except UsageError as error:
        text = _FLAG.sub(lambda found: names.get(found[2], found[2].replace("-", "_")), str(error))
        error.args = (text if ranks else _RANKS.sub("", text),)
        raise
