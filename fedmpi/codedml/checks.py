"""Combinations of options that this system does not have: refused before any rank starts, and once more by rank 0."""

from fedmpi.codedml.faults import parse_faults
from fedmpi.codedml.layout import layout
from fedmpi.codedml.params import Params
from fedmpi.errors import UsageError
from fedmpi.runs.own_options import own_options
from fedmpi.system import Asked


def check(asked: Asked[Params]) -> None:
    """Raise UsageError where options contradict one another, or there are too few workers for them."""
    params, options, ranks = asked.params, asked.options, asked.ranks
    if options.schema is not None:
        raise UsageError(f"--schema must not be given with codedml, which has all rows, got {options.schema}")
    options.check_own(asked.argv)
    if options.inject != own_options(asked.argv).inject:
        raise UsageError("--inject must stand on the command line, where every rank sees it")
    faults = parse_faults(options.inject)
    if faults and params.method != "coded":
        raise UsageError(f"--inject must be used with --method coded, got {params.method}")
    for fault in faults:
        if fault.rank is not None and fault.rank >= ranks:
            raise UsageError(f"--inject must name ranks from 1 to {ranks - 1}, got {fault.rank}")
    if options.class_weight and not (params.model == "logistic" and params.exact):
        what = "a linear model" if params.model == "linear" else f"--degree {params.degree}"
        raise UsageError(f"--class-weight must be given for a logistic model with the sigmoid itself, got {what}")
    if params.method == "plain" and (options.resume or options.checkpoint_every):
        raise UsageError("--resume and --checkpoint-every must be used with a private method, got --method plain")
    if params.model == "linear" and options.dataset is None:
        raise UsageError("--model linear must have a --dataset with a real target, got none")
    layout(params, ranks - 1)
