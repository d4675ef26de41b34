"""What the cost model counts: a training, machines, and steps as their busiest rank sees them; see `projection`."""

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Literal

from fedmpi.bench.rates import Rates
from fedmpi.bench.together import Together
from fedmpi.errors import UsageError

HEADER_BYTES = 64
"""Of one message, at most; TCP/IP's own are not counted."""

Actor = Literal["master", "worker"]


@dataclass(frozen=True)
class Task:
    """What is trained, modulo one prime; `columns` counts the column of ones. Degree 0: no polynomial."""

    rows: int = 9019
    columns: int = 3073
    degree: int = 1
    iterations: int = 50
    element_bits: int = 25
    """Of an element of the field, as the data are packed."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value < (least := 0 if name == "degree" else 1):
                raise UsageError(f"--{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Machines:
    """Equal machines, one rank each, on a switch that is never the bottleneck."""

    bandwidth_bytes: float = 1e9 / 8
    """Bytes per second of a machine's link, each way at the same time."""
    latency_seconds: float = 0.5e-3
    speed: float = 1.0
    """Of one core, relative to a core of this machine."""
    shared_cores: int | None = None
    """All ranks share so many cores of one machine: what the workers do then adds up."""
    together: Together | None = None
    """What that costs beyond computing."""

    def __post_init__(self) -> None:
        if not (0 < self.bandwidth_bytes < math.inf and 0 < self.speed < math.inf):
            raise UsageError(f"bandwidth and speed must be positive, got {self.bandwidth_bytes:g} and {self.speed:g}")
        if not 0 <= self.latency_seconds < math.inf:
            raise UsageError(f"the latency must not be negative, got {self.latency_seconds:g} s")


def this_machine(rates: Rates, together: Together) -> Machines:
    """All ranks on this one: rank 0 copies a byte once, what others copy is in `together`; a wait ends 1 ms late."""
    return Machines(rates.copy_bytes, 1e-3, 1.0, os.cpu_count(), together)


@dataclass(frozen=True)
class Step:
    """One step of a protocol, as its busiest rank sees it."""

    name: str
    actor: Actor
    cpu_seconds: float = 0.0
    payload_bytes: int = 0
    """Arrays through the rank's link, in the busier direction."""
    messages: int = 0
    """Messages in that direction."""
    handled: int = 0
    """Messages that the rank sends and receives."""
    rounds: int = 0
    times: int = 1
    actors: int = 1
    """Ranks that do the same at the same time."""
    overlaps: bool = False
    """Whether computing and sending go on at the same time."""
    hidden_bytes: int = 0
    """Of these bytes those that come in while the step before goes out: they take no time of their own."""
    wakes: int = 0
    """How often a rank waits for a message of others and wakes up, where that is not free."""
    answers: int = 0
    """Messages that it sends back; `handled` does not count them."""
    taken: int = 0
    """Elements of the data that arrive; `cpu_seconds` is what it takes where the rank is alone."""

    @property
    def bytes(self) -> int:
        """Of one time, with headers."""
        return self.payload_bytes + HEADER_BYTES * self.messages

    def busy(self, machines: Machines, rates: Rates) -> tuple[float, float, float]:
        """Seconds of the processor, the link and the latency, over all times."""
        share, cpu, message, together = 1.0, self.cpu_seconds, rates.message_seconds, machines.together
        if machines.shared_cores:
            share = max(1.0, self.actors / machines.shared_cores)
        if together and machines.shared_cores:
            message = together.message
            share *= (
                1 + self.actors * together.waiting / machines.shared_cores
            )  # of a rank that computes the others wait
            cpu = (together.element * self.taken or cpu) + together.wake * self.wakes + together.answer * self.answers
        cpu = share * (cpu + self.handled * message) / machines.speed
        link = share * self.bytes / machines.bandwidth_bytes
        return self.times * cpu, self.times * link, self.times * self.rounds * machines.latency_seconds
