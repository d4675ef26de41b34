"""Combinations of options that this system does not have: refused before any rank starts, and once more by rank 0."""

from fedmpi.copml.params import Params
from fedmpi.errors import UsageError
from fedmpi.system import Asked, check_common


def check(asked: Asked[Params]) -> None:
    """Raise UsageError where options contradict one another, or there are too few owners for them."""
    params, options = asked.params, asked.options
    check_common(asked)
    if options.impute not in (None, "mean") and not options.statistics:
        raise UsageError(
            f"--impute must be mean in copml, where only sums over all owners' rows are known, got {options.impute}"
        )
    if options.own_rows is not None and options.schema is None:
        raise UsageError("--own-rows must be given with --schema, got --own-rows alone")
    if options.schema is not None and (params.split_by or params.method == "plain"):
        raise UsageError("--schema must be given without --split-by and --method plain, got one of them")
    params.sizes(asked.ranks)
