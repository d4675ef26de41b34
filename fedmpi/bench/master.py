"""What the master does in an iteration with many workers, without MPI and the workers, beside the cost model."""

from typing import Any

from fedmpi.bench.projection import coded_layout, coded_steps
from fedmpi.bench.rates import calibrate
from fedmpi.bench.steps import Task
from fedmpi.bench.timing import fastest
from fedmpi.codedml.params import Params
from fedmpi.codedml.protocol import CodedGradient, CodedWeights, shares_by_worker
from fedmpi.core import PrimeField
from fedmpi.core.lagrange import LagrangeCode
from fedmpi.crypto.random import FieldRandom
from fedmpi.net.local import channels

COLUMNS = 3073
COUNTS = (50, 200, 1000)


def measure(workers: tuple[int, ...] = COUNTS) -> dict[str, Any]:
    """Milliseconds of each step of an iteration, and what the cost model says of them; case 1, one output, r = 1."""
    rates = calibrate()
    return {f"N={N}": _measure(N, rates) for N in workers}


def _measure(N: int, rates: Any) -> dict[str, float]:
    field = PrimeField()
    layout, uniform = coded_layout(N, 1, 1), FieldRandom(field.p)
    code = LagrangeCode(field, layout["K"], layout["T"], N, Params(degree=1).power)
    master, *others = channels(N + 1)
    W, answer = uniform((COLUMNS, 1, 1)), uniform((1, COLUMNS, 1))
    shares = shares_by_worker([code.encode_repeated(W, uniform)])
    answers = dict.fromkeys(range(N), answer[0])
    step = 0

    def send() -> None:
        for rank, share in enumerate(shares, start=1):
            master.send(rank, CodedWeights(0, step, share))

    def reply() -> None:
        nonlocal step
        step += 1
        for ch in others:
            ch.send(0, CodedGradient(0, step, answer))

    def gather() -> None:
        master.gather_first(N, range(1, N + 1), CodedGradient, training=0, iteration=step)

    t_encode, t_decode = fastest(lambda: code.encode_repeated(W, uniform), lambda: code.decode_sums(answers), rounds=3)
    t_send, _, t_gather = fastest(send, reply, gather, rounds=3)
    measured = {"encode weights": t_encode, "send": t_send, "gather": t_gather, "decode": t_decode}
    modelled = dict.fromkeys(measured, 0.0)
    for each in coded_steps(N, Task(columns=COLUMNS, iterations=2), rates, case=1)[1]:
        if each.name in modelled and each.times == 2:  # what is done once is not of an iteration
            modelled[each.name] += each.cpu_seconds + each.handled * rates.message_seconds
    return {
        f"{name}{what}": 1e3 * seconds[name]
        for name in measured
        for what, seconds in ((" ms", measured), (" modelled", modelled))
    }
