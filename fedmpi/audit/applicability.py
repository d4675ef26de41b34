"""System → the attacks that apply to its runs. Modules are loaded when they are needed: some of them load torch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from fedmpi.audit.finding import Finding, merged
from fedmpi.audit.recording import Recorded
from fedmpi.errors import UsageError
from fedmpi.runs.reading import Run


@dataclass(frozen=True)
class Attacks:
    """Names of functions, ``module:function``."""

    alone: tuple[str, ...]
    """Of one run; each finds nothing where it does not apply to the run's method."""
    pairs: tuple[str, ...] = ()
    """Of two runs on different data sets of one shape."""


REGISTRY = {
    "codedml": Attacks(("colluders:findings",), ("colluders:comparison",)),
    "copml": Attacks(("owners:findings",), ("owners:comparison",)),
    "ppadmm": Attacks(("servers:findings",), ("servers:comparison",)),
    "niss": Attacks(
        (
            *("uploads:reconstructions", "members:findings", "canaries:findings"),
            *("secure_sums:findings", "secure_sums:sealed"),
        )
    ),
    "pbpfl": Attacks(
        (
            "uploads:reconstructions",
            "uploads:masked_words",
            "models:findings",
            "members:findings",
            "secure_sums:sealed",
        ),
    ),
    "spn": Attacks(("uploads:reconstructions", "members:findings")),
}


def attack(runs: Sequence[Recorded]) -> list[Finding]:
    """All attacks on all runs, and on pairs of runs that differ in their data.

    Raises
    ------
    UsageError
        If no attack applies to a run.
    """
    found: list[Finding] = []
    for run in runs:
        own = [one for name in _of(run).alone for one in function(name)(run)]
        if not own:
            raise UsageError(f"RUN must be one that an attack is known for, got {run.system} --method {run.method}")
        found += own
    for run, other in pairs(runs):
        for name in _of(run).pairs:
            found += function(name)(run, other)
    return merged(found)


def check_known(run: Run) -> None:
    """Refuse a run of a system that no attack knows.

    Raises
    ------
    UsageError
    """
    system = run.result.get("system")
    if system is not None and system not in REGISTRY:
        raise UsageError(f"RUN must be of {', '.join(REGISTRY)}: no attack knows {system}, got {run.path}")


def pairs(runs: Sequence[Recorded]) -> Iterator[tuple[Recorded, Recorded]]:
    """The first run of each kind, with each other one that differs in its data alone."""
    firsts: dict[tuple[Any, ...], Recorded] = {}
    for run in runs:
        sizes = tuple(run.result["dataset"].get(name) for name in ("m", "d"))
        used = str([run.result["params"].get(name) for name in ("N", "K", "T", "degree")])
        kind = (run.system, run.method, sizes, used)
        first = firsts.setdefault(kind, run)
        if _data(first) != _data(run):
            yield first, run


def function(name: str) -> Callable[..., Iterator[Finding]]:
    """An attack by its name."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Iterator[Finding]] = getattr(import_module(f"fedmpi.audit.{module}"), attribute)
    return found


def _of(run: Recorded) -> Attacks:
    check_known(run)
    return REGISTRY[run.system]


def _data(run: Recorded) -> tuple[Any, ...]:
    return run.options.dataset, run.options.classes
