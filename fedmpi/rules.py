"""Rules that options keep; the one that breaks a rule is named as a flag of the command line."""

from fedmpi.errors import UsageError


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
