"""Rules that options keep, named as flags of the command line or as Python names them; and what text may be printed."""

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


def printable(text: object, most: int = 1000) -> str:
    """Text of peers and files as it may reach a terminal: one line, without anything that a terminal would act upon.

    Parameters
    ----------
    text : object
        What a peer or a file says.
    most : int
        Characters that are kept.
    """
    line = str(text)
    if not line.isprintable():
        line = "".join(one if one.isprintable() else " " if one.isspace() else ascii(one)[1:-1] for one in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def printable_lines(text: str) -> str:
    """The same of text that may have several lines."""
    return "\n".join(printable(line, 10_000) for line in text.split("\n"))


def is_line(text: str) -> bool:
    """Whether text is printable as it is."""
    return text.isprintable()
