"""What works between the hosts of a hostfile: ssh, versions, and the network."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedmpi.machines.doctor import Check
from fedmpi.machines.hosts import Host, read_hostfile, ssh_command
from fedmpi.machines.launcher import environment, mpirun_command
from fedmpi.net import job_folder

SECONDS = 60.0
"""How long one host may take to answer; the measuring may take ten times as long."""

TABLE_HOSTS = 12
"""Up to so many hosts the whole matrix is shown."""

Facts = dict[str, dict[str, Any]]


def examine_hosts(hostfile: Path, interface: str | None = None) -> Iterator[Check]:
    """Look at everything that a run on these hosts needs.

    Raises
    ------
    UsageError
        If the hostfile is none.
    """
    hosts = read_hostfile(hostfile)
    with ThreadPoolExecutor(16) as pool:
        answers = dict(zip(hosts, pool.map(_ask, hosts), strict=True))
    facts: Facts = {}
    for host, answer in answers.items():
        if isinstance(answer, str):
            yield Check("host", False, f"{host.name}: {answer}")
        else:
            facts[host.name] = answer
    if len(facts) < len(hosts):
        return
    yield Check("hosts", True, f"{len(hosts)} hosts answer")
    differences = list(version_differences(facts))
    yield from differences
    if differences:
        return
    yield Check("versions", True, ", ".join(f"{k} {v}" for k, v in next(iter(facts.values()))["versions"].items()))
    yield advise_interface(facts)
    yield from _measure(hosts, hostfile, interface)


def _ask(host: Host) -> dict[str, Any] | str:
    """The facts of a host, or why there are none."""
    program = [sys.executable, "-m", "fedmpi.net.facts"]
    here = host.name in ("localhost", os.uname().nodename)
    command = program if here else ssh_command(host.name, shlex.join(program))
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it must answer within {SECONDS:g} s, and does not"
    try:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        what = (
            "ssh must log in without a password (ssh-copy-id)"
            if done.returncode == 255
            else f"{program[0]} must run there"
        )
        return f"{what}, got: {said}"
    return facts if isinstance(facts, dict) else f"it must tell its facts, got {done.stdout!r}"


def version_differences(facts: Facts) -> Iterator[Check]:
    """One line for each program of which there are several versions."""
    names = next(iter(facts.values()))["versions"]
    for name in names:
        by_version: dict[str, list[str]] = {}
        for host, fact in facts.items():
            by_version.setdefault(str(fact["versions"].get(name)), []).append(host)
        if len(by_version) > 1:
            found = "; ".join(f"{version} on {', '.join(hosts)}" for version, hosts in by_version.items())
            yield Check("versions", False, f"{name} must be the same everywhere, got {found}")


def advise_interface(facts: Facts) -> Check:
    """Name a network that all hosts are in."""
    sets = [set(fact["networks"].values()) for fact in facts.values()]
    common = sorted(set.intersection(*sets))
    if not common:
        return Check(
            "interface", False, "the hosts share no network: say --interface with one that connects them", True
        )
    names = {name for fact in facts.values() for name, net in fact["networks"].items() if net == common[0]}
    called = f" ({names.pop()} everywhere)" if len(names) == 1 else ""
    alone = all(len(networks) == 1 for networks in sets)
    advice = "the only one, nothing to say" if alone else f"say --interface {common[0]}, hosts have others too"
    return Check("interface", True, f"all hosts are in {' and '.join(common)}{called}: {advice}")


def _measure(hosts: list[Host], hostfile: Path, interface: str | None) -> Iterator[Check]:
    """Start a rank on each host, and measure all links."""
    with environment(alone=False) as variables:
        program, names = [sys.executable, "-m", "fedmpi.net.probe"], [host.name for host in hosts]
        folder = Path(variables[job_folder.VARIABLE])
        command, _ = mpirun_command(len(hosts), program, hostfile, interface=interface, places=names, folder=folder)
        try:
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, timeout=10 * SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            yield Check("network", False, f"the ranks must talk within {10 * SECONDS:g} s, and do not: a firewall?")
            return
    try:
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = [line for line in done.stderr.splitlines() if line.strip(" -")] or [f"exit code {done.returncode}"]
        yield Check("network", False, f"a rank on each host must start and talk, got: {said[-1].strip()}")
        return
    yield from summarize(found)


def summarize(found: dict[str, Any]) -> Iterator[Check]:
    """The measurements for people.

    Parameters
    ----------
    found : dict
        What `fedmpi.net.probe` prints.
    """
    hosts = found["hosts"]
    pairs = [(i, j) for i in range(len(hosts)) for j in range(len(hosts)) if i != j]
    if not pairs:
        yield Check("network", True, "one host: no network is used")
        return
    for name, key, scale, unit, worst in (
        ("latency", "latency_seconds", 1e3, "ms", max),
        ("bandwidth", "bytes_per_second", 8e-6, "Mbit/s", min),
    ):
        values = {pair: found[key][pair[0]][pair[1]] * scale for pair in pairs}
        i, j = worst(values, key=values.__getitem__)
        span = f"{min(values.values()):.3g} to {max(values.values()):.3g} {unit}"
        yield Check(name, True, f"{span} one way, worst from {hosts[i]} to {hosts[j]}")
        if len(hosts) <= TABLE_HOSTS:
            for a, host in enumerate(hosts):
                row = " ".join(f"{values[a, b]:>8.3g}" if a != b else f"{'.':>8}" for b in range(len(hosts)))
                yield Check(name, True, f"{host:<12} {row} {unit}")
