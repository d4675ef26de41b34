"""A worker's whole life, whatever the method of training."""

import argparse
from pathlib import Path

from fedmpi.codedml.baseline import GroupSetup, member
from fedmpi.codedml.faults import NO_FAULTS, Faults
from fedmpi.codedml.protocol import MASTER, Setup, worker
from fedmpi.net import Channel, Message
from fedmpi.net.placement import tell_host


class Leave(Message, tag=6):
    """Master → worker: no more training; go home."""


def serve(ch: Channel, faults: Faults = NO_FAULTS) -> None:
    """Worker: one training after another, until the master sends it home."""
    tell_host(ch)
    while True:
        ch.tolerated = range(1, ch.size)  # who else is there is the master's business
        order = ch.recv_any(MASTER, (Setup, GroupSetup, Leave), patient=True)
        if isinstance(order, Setup):
            worker(ch, order, faults)
        elif isinstance(order, GroupSetup):
            member(ch, order)
        else:
            return


def dismiss(ch: Channel) -> None:
    """Master: send all workers home."""
    for rank in range(1, ch.size):
        ch.send(rank, Leave())


def own_options(argv: list[str]) -> argparse.Namespace:
    """What every rank takes from its own command line: --record-views, --out, --inject.

    No rank writes where another tells it to, or harms itself because another says so.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--record-views", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--inject")
    return parser.parse_known_args(argv)[0]


def views_folder(argv: list[str]) -> Path | None:
    """Where a rank that was started with --record-views and --out writes what it received."""
    known = own_options(argv)
    return known.out / "views" if known.record_views and known.out else None
