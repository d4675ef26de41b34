"""What a made-up data set is to be like, as the command line says it: ``key=number,…``."""

from collections.abc import Mapping

from fedmpi.errors import UsageError


def numbers(spec: str, types: Mapping[str, type[int] | type[float]], of: str) -> dict[str, int | float]:
    """Key → number.

    Parameters
    ----------
    types : mapping
        The keys that there are, and the kind of number of each.
    of : str
        What an error message calls the data set.

    Raises
    ------
    UsageError
        For a key that is unknown or given twice, or a value that is no such number.
    """
    given: dict[str, int | float] = {}
    for item in spec.split(","):
        key, _, text = item.partition("=")
        if key not in types:
            raise UsageError(f"key of {of} must be one of {', '.join(types)}, got {item!r}")
        if key in given:
            raise UsageError(f"key of {of} must be given once, got {key} twice")
        try:
            given[key] = types[key](text)
        except ValueError:
            raise UsageError(f"{key} of {of} must be a number, got {text!r}") from None
    return given
