"""Combinations of options that this system does not have: refused before any rank starts, and once more by rank 0."""

from fedmpi.errors import UsageError
from fedmpi.ppadmm.params import Params
from fedmpi.runs.own_options import own_options
from fedmpi.system import Asked, check_common

SERVERS = 2
"""All ranks but these are participants."""


def check(asked: Asked[Params]) -> None:
    """Raise UsageError where options contradict one another, or there are too few participants for them."""
    params, options = asked.params, asked.options
    if options.classes:
        raise UsageError(f"--classes must not be given for a regression, got {' '.join(options.classes)}")
    check_common(asked)
    if options.schema is not None and (options.impute or params.split_by or params.method == "dssgd"):
        raise UsageError("--schema must be given without --impute, --split-by and --method dssgd, got one of them")
    own = own_options(asked.argv)
    if own.run != (options.resume or options.out):
        raise UsageError("--out must stand on the command line, where every rank sees it")
    if options.checkpoint_every and own.run is None:
        raise UsageError("--checkpoint-every must be given with --out on the command line, where every rank sees it")
    if params.deadline > options.timeout:
        raise UsageError(f"--deadline must be at most --timeout, {options.timeout:g}, got {params.deadline:g}")
    params.fewest(asked.ranks - SERVERS)
