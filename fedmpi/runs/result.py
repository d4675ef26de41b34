"""The keys of result.json that every system fills in the same way."""

import os
import platform
from collections.abc import Collection, Mapping
from typing import Any

from fedmpi import __version__
from fedmpi.net import Channel
from fedmpi.net.report import Report

SCHEMA = 1


def costs(ch: Channel, role: str, reports: Collection[Report], waiting: Collection[str]) -> dict[str, Any]:
    """Time, bytes and messages of a run, seen from rank 0.

    Parameters
    ----------
    ch : Channel
        Of rank 0.
    role : str
        What the ranks that sent reports do ("worker").
    reports : collection of Report
    waiting : collection of str
        The phases in which rank 0 sent, or waited for others. Of their time, as much counts as "compute" as the
        busiest of the others computed, and the rest as "communicate".
    """
    meter = ch.meter
    waited = sum(meter.seconds[phase] for phase in waiting)
    compute = min(waited, max((report.compute_seconds for report in reports), default=0.0))
    phases = {phase: seconds for phase, seconds in meter.seconds.items() if phase not in waiting}
    return {
        "seconds": {
            "encode": 0.0,
            "decode": 0.0,
            **phases,
            "communicate": waited - compute,
            "compute": compute,
        },
        "cpu_seconds": {"master": meter.cpu_seconds, **_mean_and_max(role, [r.cpu_seconds for r in reports])},
        "bytes": {
            "sent": {
                "master": meter.bytes_sent.total(),
                **_mean_and_max(role, [r.bytes_sent for r in reports]),
            },
            "received": {
                "master": meter.bytes_received.total(),
                **_mean_and_max(role, [r.bytes_received for r in reports]),
            },
        },
        "peak_memory_bytes": _mean_and_max(role, [r.peak_memory_bytes for r in reports]),
        "messages": {
            "sent": dict(meter.messages_sent),
            "received": dict(meter.messages_received),
            "late": meter.late,
        },
        "message_bytes": {"sent": dict(meter.bytes_sent), "received": dict(meter.bytes_received)},
        "environment": {
            "mpi": ch.transport.library,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "hosts": sorted({os.uname().nodename, *(report.host for report in reports)}),
        },
    }


def result(system: str, method: str, roles: Mapping[str, int], seed: int) -> dict[str, Any]:
    """The head of result.json."""
    return {
        "schema": SCHEMA,
        "system": system,
        "method": method,
        "version": __version__,
        "ranks": sum(roles.values()),
        "roles": dict(roles),
        "failures": [],
        "seed": seed,
    }


def _mean_and_max(role: str, values: Collection[float]) -> dict[str, float]:
    return {f"{role}_mean": sum(values) / max(len(values), 1), f"{role}_max": max(values, default=0)}
