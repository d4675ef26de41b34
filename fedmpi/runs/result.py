"""The keys of result.json, which every system fills in the same way and order; docs/run-folder.md says what each is."""

import os
import platform
from collections.abc import Iterable, Mapping
from typing import Any

from fedmpi.data import Dataset
from fedmpi.net import Channel
from fedmpi.net.costs import Report
from fedmpi.version import __version__

SCHEMA = 3
"""Counts up when a key changes its meaning or goes."""

WAITING = ("communicate", "wait")
"""Phases in which rank 0 sends, or waits for others."""


def result(
    system: str,
    method: str,
    roles: Mapping[str, int],
    *,
    params: Mapping[str, Any],
    data: Dataset,
    metrics: Mapping[str, Any],
    measured: Mapping[str, Any],
    failures: Iterable[Mapping[str, Any]] = (),
    warnings: Iterable[str] = (),
    seed: int,
    **own: Any,
) -> dict[str, Any]:
    """The contents of result.json.

    Parameters
    ----------
    system, method : str
    roles : mapping
        Role → how many ranks have it, in the order of the ranks.
    params : mapping
        All parameters, as the run came down to them, and what follows from them.
    data : Dataset
    metrics : mapping
    measured : mapping
        What `costs` gives.
    failures : iterable of mapping
        Each with a reason, and a rank or a client.
    warnings : iterable of str
        What is wrong with a training that ended.
    seed : int
    **own
        Further keys that only this system has.
    """
    return {
        **beginning(system, method, roles, params, data),
        "metrics": dict(metrics),
        **own,
        **measured,
        "failures": list(failures),
        "warnings": list(warnings),
        "resumed_from": None,
        "seed": seed,
    }


def beginning(
    system: str, method: str, roles: Mapping[str, int], params: Mapping[str, Any], data: Dataset
) -> dict[str, Any]:
    """The first keys of result.json, which are known when training begins."""
    return {
        "schema": SCHEMA,
        "system": system,
        "method": method,
        "version": __version__,
        "ranks": sum(roles.values()),
        "roles": dict(roles),
        "params": dict(params),
        "dataset": {
            "name": data.name,
            "m": len(data.X_train),
            "d": data.X_train.shape[1],
            "classes": list(data.classes),
        },
    }


def costs(ch: Channel, roles: Mapping[str, int], reports: Mapping[int, Report], **seconds: float) -> dict[str, Any]:
    """Time, bytes and messages of a run, seen from rank 0.

    Parameters
    ----------
    ch : Channel
        Of rank 0.
    roles : mapping
        Role → how many ranks have it, in the order of the ranks. Of the last role mean and largest are told.
    reports : mapping
        Rank → what it told at the end.
    **seconds : float
        Further times: startup, total and such.

    Notes
    -----
    Of the time in the phases `WAITING`, as much counts as "compute" as the busiest rank of the last role computed, and
    the rest as "communicate".
    """
    meter = ch.meter
    first, *middle, last = roles
    alone = {role: reports[rank] for rank, role in enumerate(middle, 1) if rank in reports}
    many = [report for rank, report in reports.items() if rank > len(middle)]
    waited = sum(meter.seconds[phase] for phase in WAITING)
    compute = min(waited, max((report.compute_seconds for report in many), default=0.0))
    phases = {phase: spent for phase, spent in meter.seconds.items() if phase not in WAITING}

    def by_role(own: float | None, name: str) -> dict[str, float]:
        values = [getattr(report, name) for report in many]
        return {
            **({} if own is None else {first: own}),
            **{role: getattr(report, name) for role, report in alone.items()},
            f"{last}_mean": sum(values) / max(len(values), 1),
            f"{last}_max": max(values, default=0),
        }

    return {
        "seconds": {
            "startup": 0.0,
            "encode": 0.0,
            "decode": 0.0,
            **phases,
            "communicate": waited - compute,
            "compute": compute,
            **seconds,
        },
        "cpu_seconds": by_role(meter.cpu_seconds, "cpu_seconds"),
        "bytes": {
            "sent": by_role(meter.bytes_sent.total(), "bytes_sent"),
            "received": by_role(meter.bytes_received.total(), "bytes_received"),
        },
        "peak_memory_bytes": by_role(None, "peak_memory_bytes"),
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
            "hosts": sorted({os.uname().nodename, *(report.host for report in reports.values())}),
        },
    }
