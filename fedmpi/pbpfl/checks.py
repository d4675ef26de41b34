"""Combinations of options that this system does not have: refused before any rank starts, and once more by rank 0."""

from fedmpi.federated.checks import check as check_federated
from fedmpi.pbpfl.params import Params
from fedmpi.system import Asked


def check(asked: Asked[Params]) -> None:
    """Raise UsageError where options contradict one another, or there are too few clients for them."""
    check_federated(asked)
    params, options = asked.params, asked.options
    params.least_clients(params.clients or asked.ranks - len(asked.system.roles) + 1)
    if options.schema is None:
        params.wants_value(options.dataset or "digits")
