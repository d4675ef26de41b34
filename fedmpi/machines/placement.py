"""Ranks that must not collude do not belong on one machine: whoever controls that sees what all of them see."""

import contextlib
import os
import re
import socket
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.machines.hosts import ranges
from fedmpi.net import Channel, Message
from fedmpi.rules import printable

PLACES = "FEDMPI_PLACES"
"""The launcher tells ranks what --place asks for: rank=host,… Empty where it asks for nothing."""

START_SECONDS = 10.0
"""How long rank 0 waits for the names of the others' machines."""


class Host(Message, tag=123):
    """Any rank → rank 0, at the start: the name of its machine, as it says itself, and the memory that is free there.

    `free_bytes` is 0 where nobody knows.
    """

    name: str
    free_bytes: int


def this_host() -> Host:
    """The machine of this process."""
    free = 0
    with contextlib.suppress(OSError):  # only Linux has it
        found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = 1024 * int(found[1]) if found else 0
    return Host(os.uname().nodename, free)


def tell_host(ch: Channel) -> None:
    """Ranks that `hosts_of_ranks` asks for, as their first message."""
    ch.send(0, this_host())


def hosts_of_ranks(ch: Channel, ranks: Collection[int], seconds: float) -> dict[int, Host]:
    """Rank 0: its own machine, and those of other ranks that tell theirs in time."""
    return {0: this_host(), **ch.gather_within(seconds, ranks, Host)}


class Place(Message, tag=119):
    """A rank that --place names → rank 0, before all else: its machine, and whether that is the host it was named."""

    name: str
    right: bool


def named_places(places: Mapping[int, str]) -> str:
    """What `PLACES` says, on the launcher's machine."""
    own = os.uname().nodename
    return ",".join(f"{rank}={own if host == 'localhost' else host}" for rank, host in places.items())


def confirm_places(ch: Channel) -> None:
    """All ranks, before training: rank 0 refuses to begin where a launcher has put ranks elsewhere than --place says.

    Machines tell where they are themselves: this finds launchers that ignore what they are told, not lies.

    Raises
    ------
    UsageError
    """
    pairs = (part.partition("=") for part in os.environ.get(PLACES, "").split(",") if part)
    asked = {int(rank): host for rank, _, host in pairs}
    mine = Place(os.uname().nodename, ch.rank not in asked or is_this_machine(asked[ch.rank]))
    if ch.rank != 0:
        if ch.rank in asked:
            ch.send(0, mine)
        return
    places = {0: mine, **ch.gather(asked.keys() - {0}, Place)}
    wrong = [f"rank {rank} on {place.name}, not {asked[rank]}" for rank, place in places.items() if not place.right]
    if wrong:
        raise UsageError(f"ranks must be where --place puts them, got {', '.join(wrong)}")


def is_this_machine(host: str) -> bool:
    """Whether a host's name, or address, is of this machine."""
    own, host = os.uname().nodename.lower(), host.lower().rpartition("@")[2]
    if own == host or (("." in own) != ("." in host) and own.partition(".")[0] == host.partition(".")[0]):
        return True
    with contextlib.suppress(OSError):  # nobody knows the name
        for family, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family) as here:  # only one's own address can be bound
                here.bind((address[0], 0))
                return True
    return False


@dataclass(frozen=True)
class Apart:
    """Ranks of which at most `most` may be on one machine."""

    who: str
    """For people: "workers", "servers S1 and S2"."""
    ranks: Collection[int]
    most: int = 1


def violations(rules: Sequence[Apart], hosts: Mapping[int, str]) -> list[str]:
    """One line for each machine that holds more ranks than a rule allows.

    Parameters
    ----------
    rules : sequence of Apart
    hosts : mapping
        Rank → name of its machine.
    """
    lines = []
    for rule in rules:
        together = defaultdict(list)
        for rank in rule.ranks:
            if rank in hosts:
                together[hosts[rank]].append(rank)
        for host, ranks in together.items():
            if len(ranks) > rule.most:
                lines.append(
                    f"at most {rule.most} of the {rule.who} must be on one machine, "
                    f"got {len(ranks)} on {host} (ranks {ranges(ranks)})"
                )
    return lines


def check_placement(ch: Channel, rules: Sequence[Apart], *, strict: bool, warn: bool = True) -> dict[int, Host]:
    """Rank 0: warn of ranks that share a machine and should not.

    Machines tell their own names: this finds mistakes, not lies.

    Returns
    -------
    Rank → its machine, as far as they tell

    Raises
    ------
    UsageError
        With `strict`, in place of the warning; then also where a rank does not tell its machine.
    """
    ranks = {rank for rule in rules for rank in rule.ranks if rank < ch.size} - {0}
    before, ch.tolerated = (
        ch.tolerated,
        {*ch.tolerated, *ranks},
    )  # whether a rank can be done without, the protocol will say
    hosts = hosts_of_ranks(ch, ranks, min(START_SECONDS, ch.timeout_seconds))
    ch.tolerated = before
    lines = violations(rules, {rank: host.name for rank, host in hosts.items()})
    if strict and (silent := sorted(ranks - hosts.keys())):
        lines.append(f"every rank must name its machine, got nothing from ranks {ranges(silent)}")
    if strict and lines:
        raise UsageError(f"--strict-placement: {'; '.join(lines)}")
    for line in lines if warn else ():
        print(f"fedmpi: warning: {printable(line)}", file=sys.stderr, flush=True)
    return hosts
