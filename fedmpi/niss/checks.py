"""Combinations of options that NISS does not have: refused before any rank starts, and once more by rank 0."""

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmpi.federated.checks import check as check_federated
from fedmpi.niss.budgets import contents
from fedmpi.system import Asked

if TYPE_CHECKING:
    from fedmpi.niss.params import Params


def check(asked: "Asked[Params]") -> None:
    """Raise UsageError where options contradict one another, budgets of clients break a rule, or a round is too small.

    A secure sum needs clients.
    """
    check_federated(asked)
    params, clients = asked.params, asked.params.clients or asked.ranks - len(asked.system.roles) + 1
    params.summing(clients, 1)
    params.distributed(clients, 1)
    if params.budgets is not None and asked.here:
        replace(params, budgets=contents(params.budgets), clients=clients)
