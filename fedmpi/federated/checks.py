"""Combinations of options that no system with clients has: refused before any rank starts, and once more by rank 0."""

from typing import Any

from fedmpi.errors import UsageError
from fedmpi.learn.names import AUTO, check_name
from fedmpi.system import Asked, check_common


def check(asked: Asked[Any]) -> None:
    """Raise UsageError where options contradict one another, or a role has no rank."""
    system, params, options = asked.system, asked.params, asked.options
    if asked.ranks < (least := len(system.roles)):
        who = ", ".join(["a server", *(f"a {role}" for role in system.roles[1:-1])])
        raise UsageError(f"there must be at least {least} ranks: {who} and a host of clients, got {asked.ranks}")
    check_common(asked)
    if options.schema is not None and params.method == "standalone":
        raise UsageError("--schema must be given without --method standalone, whose models are many")
    if options.impute not in (None, "mean") and not options.statistics:
        raise UsageError(
            f"--impute must be mean in {system.name}, where only sums over all clients' rows are known, "
            f"got {options.impute}"
        )
    if params.model != AUTO:
        check_name(params.model)
