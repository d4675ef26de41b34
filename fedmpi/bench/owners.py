"""What COPML costs each of N owners, counted as in `projection`: r = 1, two classes, three primes.

Letters as in `fedmpi.copml.protocol`: m rows of all, d columns, K blocks, T colluders, R answers to decode from, J
iterations. Each step is that of the busiest owner: who holds shares of w̄ where there are such.
"""

from typing import Literal

from fedmpi.bench.rates import Rates
from fedmpi.bench.steps import Step, Task
from fedmpi.copml.member import rows_at_once
from fedmpi.copml.params import Params
from fedmpi.copml.protocol import group
from fedmpi.core.residues import WIDE_PRIMES

PRIMES = len(WIDE_PRIMES)
ELEMENT_BYTES = 4 * PRIMES
"""Of a number: a word for each prime."""

EIGENVALUE_PASSES = 100
"""Over an owner's own rows, in float32: two in each of 50 power iterations."""

ROUNDING_PASSES = 16
"""Of elementwise steps over w̄ in each iteration: masks on, limbs apart, quotient, masks off, and the step."""


def owners_steps(
    owners: int, task: Task, rates: Rates, *, encoding: Literal["joint", "own"]
) -> tuple[dict[str, int], list[Step]]:
    """`fedmpi.copml.protocol.owner`."""
    layout = Params(encoding=encoding).sizes(owners)
    N, T, R = owners, layout["T"], layout["R"]
    d, J = task.columns, task.iterations
    mine, holders = -(-task.rows // N), T + 1 + N - R  # of shares of w̄
    rows = N * -(-mine // layout["K"])  # of X̃_i
    opening = PRIMES * rates.recombine(T + 1, d) + checked((T + 1) * d, rates)
    answers = shared(N, T, d, rates) + checked((N - 1) * d, rates)
    compute = PRIMES * rows * d / rates.gradient
    rounding = PRIMES * rates.convert(ROUNDING_PASSES * d) + opening
    vector = ELEMENT_BYTES * d
    share = joint if encoding == "joint" else own
    return layout, [
        *share(layout, mine, task, rates),
        *sums(N, T, holders, mine, d, rates),
        *offline(N, T, holders, J * d, rates),
        Step("encode weights", "worker", PRIMES * rates.matmul(N, T + 1, d), times=J, actors=holders),
        Step("send", "worker", opening, (N - 1) * vector, N - 1, N + holders - 2, 1, J, N),
        Step("compute", "worker", compute, times=J, actors=N),
        Step("gather", "worker", answers, (N - 1) * vector, N - 1, N + holders - 2, 1, J, N),
        Step("gather", "worker", 0.0, (N - 1) * 4 * R, N - 1, N - 1, 1, J),
        Step("decode", "worker", PRIMES * rates.recombine(R, d), times=J, actors=holders),
        Step("reduce", "worker", rounding, (holders - 1) * vector, holders - 1, 2 * (holders - 1), 1, J, holders),
        Step("decode", "worker", opening, (N - 1) * vector, N - 1, N + holders - 2, 1, actors=N),
    ]


def joint(layout: dict[str, int], mine: int, task: Task, rates: Rates) -> list[Step]:
    """Rows are shared, and encoded on shares: `Coded.encode_jointly`."""
    N, T, K = layout["N"], layout["T"], layout["K"]
    part = -(-mine // K) * task.columns  # of an owner's rows in one block
    coded = max(sum(rank in group(j, N, T) for j in range(N)) for rank in range(N))  # for so many an owner encodes
    encode = shared(N, T, K * part, rates) + PRIMES * rates.convert(K * part)
    encode += PRIMES * N * (rates.matmul(coded, K + T, part) + rates.recombine(T + 1, part))
    encode += checked(N * (K + T) * part, rates) + N * ELEMENT_BYTES * part / rates.copy_bytes
    slices = -(-part // (task.columns * rows_at_once(N, K * task.columns)))
    payload = ELEMENT_BYTES * ((N - 1) * K * part + N * (coded - 1) * part)
    messages = slices * (N + coded - 2)
    received = slices * (N - 1 + T)
    return [
        Step("encode", "worker", encode, actors=N),
        random("encode", N, T, N * T * part // slices, rates, times=slices),
        Step("distribute", "worker", 0.0, payload, messages, messages + received, 2 * slices, actors=N),
    ]


def own(layout: dict[str, int], mine: int, task: Task, rates: Rates) -> list[Step]:
    """Each owner encodes its own rows: `Coded.encode_own`."""
    N, T, K = layout["N"], layout["T"], layout["K"]
    part = -(-mine // K) * task.columns
    encode = PRIMES * (rates.convert(K * part) + rates.draw(T * part) + rates.matmul(N, K + T, part))
    encode += checked(N * part, rates) + N * ELEMENT_BYTES * part / rates.copy_bytes
    slices = -(-part // (task.columns * rows_at_once(N, task.columns)))
    payload, messages = (N - 1) * ELEMENT_BYTES * part, slices * (N - 1)
    return [
        Step("encode", "worker", encode, actors=N),
        Step("distribute", "worker", 0.0, payload, messages, 2 * messages, slices, actors=N),
    ]


def sums(N: int, T: int, holders: int, mine: int, d: int, rates: Rates) -> list[Step]:
    """X̄ᵀȲ and the step: `Owner.sums`."""
    cpu = rates.convert(mine * d) + (EIGENVALUE_PASSES + 1) * mine * d / rates.stream
    cpu += shared(N, T, d + 1, rates) + checked((N - 1) * (d + 1), rates)
    handled = N + holders - 2
    return [
        Step("prepare", "worker", cpu, (N - 1) * ELEMENT_BYTES * (d + 1), N - 1, handled, 1, actors=N),
        Step("prepare", "worker", 0.0, (N - 1) * ELEMENT_BYTES, N - 1, handled, 1, actors=N),
    ]


def offline(N: int, T: int, holders: int, count: int, rates: Rates) -> list[Step]:
    """The masks of w̃, and those that round, for all iterations: `Coded.prepare`, `Owner.truncation_masks`."""
    limbs = PRIMES * 3 * rates.convert(2 * 2 * count)  # secret integers of three limbs, to residues
    cpu = limbs + shared(N, T, 2 * count, rates) + checked((T + 1) * 2 * count, rates)
    payload = holders * ELEMENT_BYTES * 2 * count
    return [
        random("offline", N, T, T * count, rates),
        Step("offline", "worker", cpu, payload, holders, holders + T + 1, 1, actors=T + 1),
    ]


def random(name: str, N: int, T: int, count: int, rates: Rates, times: int = 1) -> Step:
    """Numbers that nobody knows: `Owner.random`. Who holds them gets as many shares as it could send."""
    batch = -(-count // (N - T))
    cpu = PRIMES * rates.draw(batch) + shared(N, T, batch, rates) + PRIMES * rates.matmul(N - T, N, batch)
    cpu += checked((N - 1) * batch, rates)
    payload = (N - 1) * ELEMENT_BYTES * batch
    return Step(name, "worker", cpu, payload, N - 1, 2 * (N - 1), 1, times, N)


def shared(N: int, T: int, size: int, rates: Rates) -> float:
    """Seconds of sharing so many numbers."""
    return PRIMES * (rates.draw(T * size) + rates.matmul(N, T + 1, size))


def checked(size: int, rates: Rates) -> float:
    """Seconds of looking whether so many numbers that came are residues."""
    return PRIMES * rates.convert(size)
