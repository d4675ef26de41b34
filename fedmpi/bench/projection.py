"""The cost model: how long each protocol takes on N machines, from kernel rates measured here and counted bytes.

Formulas, assumptions and checks are in docs/cost-model.md. Letters as in `fedmpi.codedml.protocol`: m rows, d columns,
N workers, K blocks, T colluding workers, R recovery threshold, G groups of n workers, r degree, J iterations. With
degree 0 the coded protocol uses the sigmoid itself, in two exchanges; the baselines have degree 1 then, as in `Params`.
COPML's steps are in `owners`, what a step is in `steps`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fedmpi.bench.owners import owners_steps
from fedmpi.bench.rates import Rates
from fedmpi.bench.steps import Machines, Step, Task, this_machine
from fedmpi.bench.together import Together, measure
from fedmpi.codedml.dealing import CHUNK_BYTES, SEED_BYTES
from fedmpi.codedml.params import Params
from fedmpi.core.packing import packed_words
from fedmpi.errors import UsageError

PROTOCOLS = ("coded case 1", "coded case 2", "bh08", "bgw")
OWNERS = ("copml", "copml own")
"""Without a master: of N owners each has a part of the rows. copml own: with --encoding own."""


@dataclass(frozen=True)
class Projection:
    """How long one protocol takes."""

    protocol: str
    workers: int
    layout: dict[str, int]
    seconds: dict[str, float]
    """Of each step over all iterations. `encode` and `distribute` overlap: `distribute` is what sticks out. `total`
    is without `offline`, which needs no data and is reported apart, as in result.json."""
    busy_seconds: dict[str, float]
    """Of each resource, overlaps counted in full, without `offline`."""
    bytes: dict[str, int]

    @property
    def machines(self) -> int:
        """So many: one a rank."""
        return self.workers + (self.protocol not in OWNERS)

    @property
    def bound_by(self) -> str:
        """The resource that is busy the longest."""
        return max(self.busy_seconds, key=lambda name: self.busy_seconds[name])


def project(protocol: str, workers: int, task: Task, machines: Machines, rates: Rates) -> Projection:
    """Time and bytes of one protocol on `workers` machines and a master's, where it has one."""
    layout, steps = STEPS[protocol](workers, task, rates)
    seconds: dict[str, float] = {}
    resources = ("master's processor", "master's link", "workers' processors", "workers' links", "latency")
    busy = dict.fromkeys(resources, 0.0)
    for step in steps:
        cpu, link, latency = step.busy(machines, rates)
        if step.name != "offline":
            first = 0 if step.actor == "master" else 2
            for name, value in zip((*resources[first : first + 2], "latency"), (cpu, link, latency), strict=True):
                busy[name] += value
        if step.overlaps:
            hidden = 0.0 if machines.shared_cores else min(cpu, link)  # copying takes a core, a network card none
            seconds |= {"encode": cpu, "distribute": link - hidden + latency}
        else:
            hidden = 0.0 if machines.shared_cores else step.times * step.hidden_bytes / machines.bandwidth_bytes
            seconds[step.name] = seconds.get(step.name, 0.0) + cpu + link - hidden + latency
    seconds["total"] = sum(value for name, value in seconds.items() if name != "offline")
    sizes = {step.name: step.times * step.bytes for step in steps if step.messages}
    return Projection(protocol, workers, layout, seconds, busy, sizes)


def coded_layout(workers: int, degree: int, case: Literal[1, 2]) -> dict[str, int]:
    """K, T and R of `Params.code`, without its N x (K+T) matrix."""
    f = Params(degree=degree or None).power
    total = (workers - 1) // f + 1
    if total < 2:
        exchange = f"degree r={degree}" if degree else "two exchanges an iteration"
        raise UsageError(f"the number of workers N must be at least {f + 1} for {exchange}, got N={workers}")
    T = 1 if case == 1 else max(1, (workers - 3) // (2 * max(f, 3)))
    return {"K": total - T, "T": T, "R": f * (total - 1) + 1}


def coded_steps(workers: int, task: Task, rates: Rates, *, case: Literal[1, 2]) -> tuple[dict[str, int], list[Step]]:
    """Algorithm 1: `fedmpi.codedml.protocol`."""
    layout = coded_layout(workers, task.degree, case)
    N, K, T, R = workers, layout["K"], layout["T"], layout["R"]
    d, r, J = task.columns, task.degree, task.iterations
    rows = -(-task.rows // K)
    size = rows * d
    encode = rates.convert(K * size) + rates.draw(T * size) + rates.matmul(N - T, K + T, size)
    encode += (N - T) * size / rates.pack
    encode += rates.basis(K + T, N) + rates.basis(K + T, N - T)
    each = pieces_of(rows, d, N)
    pieces = T + (N - T) * each
    payload = T * SEED_BYTES + (N - T) * packed_bytes(size, task)
    distribute = Step("encode", "master", encode, payload, pieces, pieces, 1, overlaps=True)
    unpack = Step("distribute", "worker", size / rates.unpack, actors=N, wakes=each, taken=size)
    if not r:
        return layout, [distribute, unpack, *prepare(task, rates), *two_exchanges(layout, N, rows, d, J, rates)]
    weights = rates.draw(T * d * r) + rates.matmul(N, T + 1, d * r)
    compute = size * (r + 1) / 2 / rates.gradient
    return layout, [
        distribute,
        unpack,
        *prepare(task, rates),
        Step("encode weights", "master", weights, times=J),
        Step("send", "master", 0.0, 4 * N * d * r, N, N, 1, J),
        Step("compute", "worker", compute, times=J, actors=N, wakes=1, answers=1),
        Step("gather", "master", 0.0, 4 * R * d, R, R, 1, J, hidden_bytes=min(4 * N * d * r, 4 * R * d)),
        Step("decode", "master", rates.recombine(R, d) + rates.convert(d), times=J),
        Step("decode", "master", rates.basis(R, K), times=bases(N, R, J)),
    ]


def bases(N: int, R: int, J: int) -> int:
    """How often the matrix that recombines R answers is made: where all N are needed, once."""
    return 1 if R == N else J


def two_exchanges(layout: dict[str, int], N: int, rows: int, d: int, J: int, rates: Rates) -> list[Step]:
    """Without a polynomial: a direction, the same for all blocks, out and m outputs back; m residuals out, d sums back.

    The master's own arithmetic on the m outputs, and on the few directions that L-BFGS remembers, is left out.
    """
    K, T, R = layout["K"], layout["T"], layout["R"]
    encode = rates.draw(T * (d + rows)) + rates.matmul(N, T + 1, d) + rates.matmul(N, K + T, rows)
    compute = rows * d / rates.product + rows * d / rates.transposed
    decode = rates.matmul(K, R, rows) + rates.recombine(R, d) + rates.convert(K * rows + d)
    hidden = 4 * (min(N * d, R * rows) + min(N * rows, R * d))
    return [
        Step("encode weights", "master", encode, times=J),
        Step("send", "master", 0.0, 4 * N * (d + rows), 2 * N, 2 * N, 2, J),
        Step("compute", "worker", compute, times=J, actors=N, wakes=2, answers=2),
        Step("gather", "master", 0.0, 4 * R * (d + rows), 2 * R, 2 * R, 2, J, hidden_bytes=hidden),
        Step("decode", "master", decode, times=J),
        Step("decode", "master", 2 * rates.basis(R, K), times=bases(N, R, J)),
    ]


def mpc_steps(
    workers: int, task: Task, rates: Rates, *, method: Literal["bgw", "bh08"]
) -> tuple[dict[str, int], list[Step]]:
    """The baselines: `fedmpi.codedml.baseline` and `fedmpi.mpc`."""
    T, groups = Params(method=method).groups(workers)
    sizes, N = [len(group) for group in groups], workers
    d, r, J, G = task.columns, task.degree or 1, task.iterations, len(groups)
    rows = -(-task.rows // G)
    size = rows * d
    encode = rates.convert(G * size) + G * rates.draw(T * size) + sum(rates.matmul(n - T, T + 1, size) for n in sizes)
    encode += sum(n - T for n in sizes) * size / rates.pack
    weights = G * rates.draw(T * d * r) + sum(rates.matmul(n, T + 1, d * r) for n in sizes)
    compute = size * r / rates.product + size / rates.transposed + rates.convert(2 * r * rows)
    decode = G * (rates.basis(2 * T + 1, 1) + rates.recombine(2 * T + 1, d) + rates.convert(d))
    pieces = sum(T + (n - T) * pieces_of(rows, d, n) for n in sizes)
    payload = G * T * SEED_BYTES + (N - G * T) * packed_bytes(size, task)
    lengths = [rows * r] + [rows] * (r - 1)  # z_1 … z_r in one reduction, then each product of them
    reduce = reduce_bgw if method == "bgw" else reduce_bh08
    reductions = [max((reduce(n, T, L, rates) for n in sizes), key=lambda step: step.bytes) for L in lengths]
    offline = [offline_bh08(n, T, sum(lengths) * J, rates) for n in sizes] if method == "bh08" else []
    return {"G": G, "T": T}, [
        Step("encode", "master", encode, payload, pieces, pieces, 2, overlaps=True),
        Step("distribute", "worker", size / rates.unpack, actors=N, wakes=pieces_of(rows, d, N // G), taken=size),
        *([dataclasses.replace(max(offline, key=lambda step: step.bytes), actors=N)] if offline else []),
        *prepare(dataclasses.replace(task, degree=r), rates),
        Step("encode weights", "master", weights, times=J),
        Step("send", "master", 0.0, 4 * N * d * r, N, N, 1, J),
        Step("compute", "worker", compute, times=J, actors=N, wakes=1, answers=1),
        *(dataclasses.replace(step, times=J, actors=N) for step in reductions),
        Step("gather", "master", 0.0, 4 * N * d, N, N, 1, J),
        Step("decode", "master", decode, times=J),
    ]


def prepare(task: Task, rates: Rates) -> list[Step]:
    """The master's own preparation: quantizing, norms and XᵀY; of a polynomial in each iteration the proof that nothing
    wraps.
    """
    size = task.rows * task.columns
    return [
        Step("prepare", "master", size / rates.quantize),
        Step("prepare", "master", task.degree * size / rates.stream, times=task.iterations),
    ]


def reduce_bgw(n: int, T: int, length: int, rates: Rates) -> Step:
    """A dealer's part in `fedmpi.mpc.bgw.reduce_bgw`: n - 1 messages out, 2T in."""
    degree = 2 * T
    cpu = rates.draw(T * length) + rates.matmul(n, T + 1, length)
    cpu += rates.basis(degree + 1, 1) + rates.recombine(degree + 1, length)
    return Step("reduce", "worker", cpu, 4 * (n - 1) * length, n - 1, n - 1 + degree, 1, wakes=1)


def reduce_bh08(n: int, T: int, length: int, rates: Rates) -> Step:
    """A party's part in `fedmpi.mpc.bh08.reduce_bh08`: to all kings, and as a king to all."""
    degree, block = 2 * T, -(-length // n)
    cpu = rates.convert(2 * length) + rates.basis(degree + 1, 1) + rates.recombine(degree + 1, block)
    payload = 4 * (length - length // n) + 4 * (n - 1) * block
    return Step("reduce", "worker", cpu, payload, 2 * (n - 1), 3 * (n - 1) + degree, 2, wakes=2)


def offline_bh08(n: int, T: int, count: int, rates: Rates) -> Step:
    """A dealer's part in `fedmpi.mpc.bh08.double_sharings`; the master tells all when to begin, and all when done."""
    good = n - T
    batch = -(-count // good)
    cpu = rates.draw((1 + 3 * T) * batch) + rates.matmul(n, T + 1, batch) + rates.matmul(n, 2 * T + 1, batch)
    cpu += rates.basis(n, good) + 2 * rates.matmul(good, n, batch)
    return Step("offline", "worker", cpu, 8 * (n - 1) * batch, n - 1, 2 * (n - 1), 3)


def packed_bytes(elements: int, task: Task) -> int:
    """Of elements of the data, but for a word that each piece may take more."""
    return 4 * packed_words(elements, task.element_bits)


def pieces_of(rows: int, columns: int, receivers: int) -> int:
    """Messages in which each of so many receivers gets its data: `CHUNK_BYTES` for all of them at a time."""
    return -(-rows // max(1, CHUNK_BYTES // (4 * columns * receivers)))


STEPS: dict[str, Callable[[int, Task, Rates], tuple[dict[str, int], list[Step]]]] = {
    "coded case 1": lambda N, task, rates: coded_steps(N, task, rates, case=1),
    "coded case 2": lambda N, task, rates: coded_steps(N, task, rates, case=2),
    "bh08": lambda N, task, rates: mpc_steps(N, task, rates, method="bh08"),
    "bgw": lambda N, task, rates: mpc_steps(N, task, rates, method="bgw"),
    "copml": lambda N, task, rates: owners_steps(N, task, rates, encoding="joint"),
    "copml own": lambda N, task, rates: owners_steps(N, task, rates, encoding="own"),
}


def project_all(counts: Sequence[int], task: Task, machines: Machines, rates: Rates) -> list[Projection]:
    """Every protocol on every number of machines."""
    return [project(protocol, N, task, machines, rates) for N in counts for protocol in (*PROTOCOLS, *OWNERS)]


COLUMNS = (
    *("encode", "distribute", "prepare", "encode weights", "send", "compute", "reduce", "gather", "decode"),
    *("total", "offline"),
)


def dollars(projection: Projection, price: float) -> float:
    """What all machines cost while they train, at a price per machine and hour."""
    return projection.machines * projection.seconds["total"] / 3600 * price


def table(projections: Sequence[Projection], price: float | None = None) -> list[str]:
    """Lines for people: seconds over all iterations; with a price per machine and hour, what they cost."""
    heads = [*("enc w" if name == "encode weights" else name for name in COLUMNS)]
    lines = [f"{'N':>6}  {'protocol':<13}{'K|G':>5}{'T':>5}" + "".join(f"{h:>11}" for h in heads)]
    lines[0] += "  bound by" if price is None else f"{'cost':>11}      bound by"
    for p in projections:
        cells = "".join(f"{p.seconds[name]:>11.3f}" if name in p.seconds else f"{'-':>11}" for name in COLUMNS)
        blocks = p.layout.get("K", p.layout.get("G", 0))
        share = p.busy_seconds[p.bound_by] / sum(p.busy_seconds.values())
        cost = "" if price is None else f"{dollars(p, price):>11.4f} USD"
        lines.append(
            f"{p.workers:>6}  {p.protocol:<13}{blocks:>5}{p.layout['T']:>5}{cells}{cost}  {p.bound_by} {share:.0%}"
        )
    return lines


def as_json(projections: Sequence[Projection], rates: Rates, price: float | None = None) -> dict[str, Any]:
    """The same for --json."""
    rows = [
        dataclasses.asdict(p) | {"bound_by": p.bound_by} | ({} if price is None else {"usd": dollars(p, price)})
        for p in projections
    ]
    return {"rates": dataclasses.asdict(rates), "projections": rows}


def compare(
    protocol: str, result: Mapping[str, Any], rates: Rates, together: Together | None = None
) -> dict[str, float]:
    """The model, set to this machine, beside the result.json of a run on it.

    Bytes are those that the master sent. The error of the time is relative to the measured one.

    Parameters
    ----------
    together : Together, optional
        By default it is measured, once.
    """
    numbers, params, measured = result["dataset"], result["params"], training_seconds(result)
    columns = numbers["d"] + (params["bias"] and params["degree"] is not None)
    bits = (params["primes"][0] - 1).bit_length()
    task = Task(numbers["m"], columns, params["degree"] or 0, result["metrics"]["iterations"], bits)
    here = project(protocol, params["N"], task, this_machine(rates, together or measure()), rates)
    modelled = here.seconds["total"]
    return {
        "measured seconds": measured,
        "model seconds": modelled,
        "error": modelled / measured - 1,
        "measured bytes": result["bytes"]["sent"]["master"],
        "model bytes": here.bytes["encode"] + here.bytes["send"],
    }


def training_seconds(result: Mapping[str, Any]) -> float:
    """Seconds of a run's protocol, without the evaluations of loss and accuracy."""
    return float(result["seconds"]["total"] - result["seconds"]["evaluate"])
