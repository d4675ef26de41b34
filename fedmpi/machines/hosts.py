"""Hosts and their slots: reading and writing hostfiles, and which rank goes to which host."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fedmpi.errors import UsageError

_LINE = re.compile(r"(?P<name>[^\s:=]+)(?::(?P<colon>\w+)|(?P<options>(?:\s+[a-z_-]+\s*=\s*\S+)*))")
_OPTION = re.compile(r"([a-z_-]+)\s*=\s*(\S+)")
_SSH_ARGUMENTS = "PRTE_MCA_plm_ssh_args"  # where Open MPI 5 takes arguments for its ssh from: a key, a port
_GROUP = re.compile(r"\[([^\[\]]*)\]")

SSH_SECONDS = 10
"""How long ssh may take to reach a host."""


@dataclass(frozen=True)
class Host:
    """A machine, and how many ranks it takes; None: as many as mpirun finds."""

    name: str
    slots: int | None = None


def read_hostfile(path: Path) -> list[Host]:
    """The hosts of a file: one a line, `name`, `name slots=4` or `name:4`; # begins a comment.

    Raises
    ------
    UsageError
        If there is no such file, a line that is none of these, or no host.
    """
    if not path.is_file():
        raise UsageError(f"--hostfile must be a file, got {path}")
    hosts: dict[str, Host] = {}
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if text:
            host = _parse(text, f"line {number} of {path}")
            if host.name in hosts:
                raise UsageError(f"a host must have one line in {path}, got {host.name} again in line {number}")
            hosts[host.name] = host
    if not hosts:
        raise UsageError(f"--hostfile must name a host, got none in {path}")
    return list(hosts.values())


def _parse(text: str, where: str) -> Host:
    found = _LINE.fullmatch(text)
    if found is not None:
        count = found["colon"] or dict(_OPTION.findall(found["options"] or "")).get("slots")
        if count is None or (count.isdecimal() and int(count) > 0):
            return Host(found["name"], int(count) if count else None)
    raise UsageError(f"{where} must be like `name slots=4`, got {text!r}")


def require_slots(hosts: Sequence[Host], ranks: int) -> None:
    """Refuse to start more ranks than there is room for.

    Raises
    ------
    UsageError
    """
    counts = [host.slots for host in hosts]
    room = sum(count or 0 for count in counts)
    if None not in counts and room < ranks:
        raise UsageError(f"the hosts must have slots for {ranks} ranks, got {room} on {len(hosts)} hosts")


def parse_places(text: str, roles: Mapping[str, int]) -> dict[int, str]:
    """Rank → host of ``s1=hostA,s2=hostB``; a role without a name is its rank.

    Raises
    ------
    UsageError
        If a role is unknown, or has two hosts.
    """
    places: dict[int, str] = {}
    for part in text.split(","):
        role, equals, host = part.strip().partition("=")
        rank = roles.get(role, int(role) if role.isdecimal() else -1)
        if not equals or not host or rank < 0:
            known = ", ".join([*roles, "or a rank"])
            raise UsageError(f"--place must be ROLE=HOST,… with the roles {known}, got {part.strip()!r}")
        if rank in places:
            raise UsageError(f"--place must give rank {rank} one host, got {places[rank]} and {host}")
        places[rank] = host
    return places


def assign(ranks: int, hosts: Sequence[Host], places: Mapping[int, str]) -> list[str]:
    """The host of every rank: as `places` say, all others in the order of the hosts, where there is room.

    A host that does not tell its slots has one.

    Raises
    ------
    UsageError
        If a place is no host, or takes more ranks than it has slots, or there are too few slots.
    """
    free = {host.name: host.slots or 1 for host in hosts}
    require_slots([Host(name, count) for name, count in free.items()], ranks)
    for rank, name in places.items():
        if name not in free:
            raise UsageError(f"--place must name hosts of the hostfile ({', '.join(free)}), got {name}")
        if rank >= ranks:
            raise UsageError(f"--place must name ranks below {ranks}, got {rank}")
        free[name] -= 1
        if free[name] < 0:
            raise UsageError(f"--place must leave each host its slots, got more ranks than slots on {name}")
    others = (name for name, count in free.items() for _ in range(count))
    return [places[rank] if rank in places else next(others) for rank in range(ranks)]


def expand(pattern: str) -> list[str]:
    """The names of a pattern as Slurm writes them: ``node[01-03,7],head`` → node01, node02, node03, node7, head.

    Raises
    ------
    UsageError
        If a bracket holds something else than numbers and ranges.
    """
    names = []
    for part in re.split(r",(?![^\[]*\])", pattern):
        pieces = _GROUP.split(part)
        if not part.strip() or any(set("[]") & set(piece) for piece in pieces):
            raise UsageError(f"hosts must be like node[01-12],head, got {pattern!r}")
        choices = [_numbers(piece, pattern) if i % 2 else [piece.strip()] for i, piece in enumerate(pieces)]
        names += ["".join(choice) for choice in product(*choices)]
    return names


def _numbers(text: str, pattern: str) -> list[str]:
    numbers = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise UsageError(f"hosts must be like node[01-12],head, got {pattern!r}")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def named_hosts(patterns: Iterable[str], slots: int) -> list[Host]:
    """Hosts of patterns such as ``head:1`` and ``node[01-12]``, with `slots` where a pattern says none.

    Raises
    ------
    UsageError
        If a host is named twice, or has no slots.
    """
    hosts = []
    for pattern in patterns:
        names, colon, count = pattern.partition(":")
        if colon and not count.isdecimal():
            raise UsageError(f"hosts must be like head:1, got {pattern!r}")
        hosts += [Host(name, int(count) if colon else slots) for name in expand(names)]
    for position, host in enumerate(hosts):
        if host.slots is not None and host.slots < 1:
            raise UsageError(f"every host must have at least 1 slot, got {host.slots} for {host.name}")
        if any(host.name == other.name for other in hosts[:position]):
            raise UsageError(f"hosts must be named once, got {host.name} again")
    return hosts


def hostfile_text(hosts: Iterable[Host], *, mpich: bool = False) -> str:
    """The text of a hostfile, as Open MPI or as MPICH and Intel MPI read it."""
    lines = []
    for host in hosts:
        slots = "" if host.slots is None else f":{host.slots}" if mpich else f" slots={host.slots}"
        lines.append(f"{host.name}{slots}\n")
    return "".join(lines)


def ssh_command(host: str, script: str) -> list[str]:
    """The ssh that runs a shell script on a host, with the arguments that Open MPI's own gets."""
    arguments = shlex.split(os.environ.get(_SSH_ARGUMENTS, ""))
    return ["ssh", *arguments, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={SSH_SECONDS}", "--", host, script]


def ranges(ranks: Sequence[int]) -> str:
    """1-3, 7."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    return ", ".join("-".join(map(str, run)) for run in runs)
