"""The cost model: its bytes are those that the channels count, its times follow from them."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmpi.bench.projection import (
    OWNERS,
    PROTOCOLS,
    STEPS,
    as_json,
    coded_layout,
    compare,
    project,
    project_all,
    table,
)
from fedmpi.bench.rates import Rates, calibrate
from fedmpi.bench.steps import HEADER_BYTES, Machines, Step, Task, this_machine
from fedmpi.bench.together import Together, measure
from fedmpi.cli import main
from fedmpi.codedml import SYSTEM
from fedmpi.codedml.baseline import mpc_master
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import master
from fedmpi.codedml.service import serve
from fedmpi.codedml.task import Task as Job
from fedmpi.codedml.training import masks, rounding_noise
from fedmpi.copml.member import Task as Owned
from fedmpi.copml.params import Params as Copml
from fedmpi.copml.protocol import owner
from fedmpi.errors import UsageError
from fedmpi.net import Channel, run_local
from fedmpi.net.orders import dismiss

RATES = Rates(**dict.fromkeys(Rates.__annotations__, 1e9) | {"message_seconds": 1e-6})
FREE = replace(RATES, **dict.fromkeys(Rates.__annotations__, math.inf) | {"message_seconds": 0.0})
"""Computing costs nothing."""
METHODS = {"coded case 1": "coded", "coded case 2": "coded", "bh08": "bh08", "bgw": "bgw"}


def channels_of(protocol: str, workers: int, task: Task) -> list[Channel]:
    """The channels of all ranks after a training on threads."""
    method, case = METHODS[protocol], protocol[-1]
    options: dict[str, Any] = {"case": int(case)} if method == "coded" else {}
    if task.degree or method != "coded":
        options |= {"degree": task.degree or 1, "weight_bits": 1, "coefficient_bits": 6, "fit_range": (-1.0, 3.0)}
    options |= {"iterations": task.iterations, "tolerance": 0.0, "learning_rate": "0.01", "scale": "none"}
    params = Params(method=method, data_bits=0, prime=2**31 - 1, **options)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    X = rng.integers(-1, 2, (task.rows, task.columns - params.has_ones)).astype(np.float64)
    problem = Problem.prepare(params, X, rng.integers(0, 2, task.rows), 2)

    def lead(ch: Channel) -> Channel:
        role = master if method == "coded" else mpc_master
        role(ch, Job(params, problem, rounding_noise(0), masks(params, problem.precision.primes, 0)))
        dismiss(ch)
        return ch

    def follow(ch: Channel) -> Channel:
        serve(ch)
        return ch

    found: list[Channel] = run_local([lead, *[follow] * workers], timeout_seconds=30.0)
    return found


def traffic(channels: list[Channel], names: set[str], *, received: bool = False) -> tuple[int, int]:
    """Messages and bytes of these types at the rank that sent (or received) the most bytes of them."""

    def sums(ch: Channel) -> tuple[int, int]:
        meter = ch.meter
        messages, sizes = meter.messages_sent, meter.bytes_sent
        if received:
            messages, sizes = meter.messages_received, meter.bytes_received
        return sum(sizes[name] for name in names), sum(messages[name] for name in names)

    size, messages = max(map(sums, channels))
    return messages, size


MESSAGES = {
    "encode": {"CodedData", "DataSeed"},
    "send": {"CodedWeights", "CodedVectors", "SharedWeights"},
    "gather": {"CodedGradient", "CodedProduct", "SharedGradient"},
    "reduce": {"SubShare", "Masked", "Opened"},
    "offline": {"DoubleShare"},
}


@pytest.mark.parametrize(
    ("protocol", "workers", "degree"),
    [
        *((protocol, 16, degree) for protocol in ("coded case 1", "coded case 2") for degree in (1, 2)),
        *((protocol, 17, 0) for protocol in ("coded case 1", "coded case 2")),
        *(("bh08", workers, degree) for workers in (10, 16) for degree in (1, 2)),
        *(("bgw", workers, degree) for workers in (10, 17) for degree in (0, 1, 2)),
    ],
)
def test_bytes_are_those_that_the_channels_count(protocol: str, workers: int, degree: int) -> None:
    # 16 = R of both degrees, and 17 without a polynomial, so that every answer is waited for; groups of 3 and 4, 5 and
    # 6 or 5 and 7 workers, and 60 rows each: BH08's kings have equal blocks.
    task = Task(180, 7, degree, 3, element_bits=31)
    channels = channels_of(protocol, workers, task)
    steps = STEPS[protocol](workers, task, RATES)[1]
    payload, messages, counted = Counter[str](), Counter[str](), set[str]()
    for step in steps:
        payload[step.name] += step.times * step.payload_bytes
        messages[step.name] += step.times * step.messages
    for name, types in MESSAGES.items():
        if not messages[name]:
            continue
        ranks = channels[:1] if name in ("encode", "send", "gather") else channels[1:]
        real_messages, real_bytes = traffic(ranks, types, received=name == "gather")
        assert real_messages == messages[name], name
        assert payload[name] < real_bytes <= payload[name] + HEADER_BYTES * messages[name], name
        counted |= types
    known = counted | {"Host", "Setup", "GroupSetup", "Ready", "Stop", "Report", "Leave"}
    assert {name for ch in channels for name in ch.meter.bytes_sent} <= known


OWNERS_SEND: list[tuple[list[tuple[str, int]], set[str], bool]] = [
    ([("distribute", 0)], {"RowShare", "CodedShare", "CodedRows"}, False),
    ([("encode", 0), ("offline", 0)], {"RandomShare"}, True),
    ([("offline", 1)], {"MaskShare"}, False),
    ([("prepare", 0)], {"SumShare"}, True),
    ([("prepare", 1), ("decode", 0)], {"OpenedShare"}, False),
    ([("send", 0)], {"WeightShare"}, False),
    ([("gather", 0)], {"GradientShare"}, True),
    ([("gather", 1)], {"Chosen"}, False),
    ([("reduce", 0)], {"MaskedShare"}, False),
]
"""Steps that exchange something, each the so manieth of its name, their messages, and whether more come in."""


@pytest.mark.parametrize(("protocol", "encoding"), [("copml", "joint"), ("copml own", "own")])
@pytest.mark.parametrize(("workers", "rows"), [(7, 14), (10, 60)])
def test_bytes_of_owners_are_those_that_the_channels_count(
    protocol: str, encoding: Any, workers: int, rows: int
) -> None:
    """All answers are needed, so that all are received; with 7 owners the last group overlaps the one before."""
    task = Task(rows, 5, 1, 3)
    params = Copml(encoding=encoding, iterations=3)
    each = [rows // workers] * workers
    X, Y = np.ones((each[0], 5)), np.ones((each[0], 1), np.int64)

    def role(ch: Channel) -> Channel:
        owner(ch, Owned(params, each, 5, 1, 1.0), X, Y)
        return ch

    channels = run_local([role] * workers, timeout_seconds=30.0)
    layout, steps = STEPS[protocol](workers, task, RATES)
    assert layout == params.sizes(workers)
    named: dict[str, list[Step]] = {}
    for step in steps:
        if step.messages:
            named.setdefault(step.name, []).append(step)
    for keys, types, received in OWNERS_SEND:
        of = [named[name][k] for name, k in keys if name in named]
        messages = sum(step.times * step.messages for step in of)
        payload = sum(step.times * step.payload_bytes for step in of)
        real_messages, real_bytes = traffic(channels, types, received=received)
        assert real_messages == messages, types
        assert payload < real_bytes <= payload + HEADER_BYTES * messages, types
    known = {name for _, types, _ in OWNERS_SEND for name in types}
    assert {name for ch in channels for name in ch.meter.bytes_sent} <= known


def test_owners_have_no_master() -> None:
    of = {name: project(name, 50, Task(), Machines(), RATES) for name in (*OWNERS, "bgw")}
    assert [of[name].machines for name in of] == [50, 50, 51]
    assert of["copml own"].seconds["distribute"] < of["copml"].seconds["distribute"]
    assert of["copml"].busy_seconds["master's link"] == 0 == of["copml"].busy_seconds["master's processor"]


def test_unequal_blocks_of_bh08_are_bounded() -> None:
    task = Task(181, 7, 1, 2)
    channels = channels_of("bh08", 10, task)
    (step,) = [step for step in STEPS["bh08"](10, task, RATES)[1] if step.name == "reduce"]
    messages, size = traffic(channels[1:], MESSAGES["reduce"])
    assert messages == 2 * step.messages
    assert 0.95 * size < 2 * step.bytes
    assert size <= 2 * step.bytes


def test_data_in_pieces() -> None:
    task = Task(36, 200_000, 1, 1, element_bits=31)
    channels = channels_of("bgw", 10, task)
    step = STEPS["bgw"](10, task, RATES)[1][0]
    messages, size = traffic(channels[:1], MESSAGES["encode"])
    assert messages == step.messages > 10
    assert step.payload_bytes < size <= step.bytes


@pytest.mark.parametrize("case", [1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_layout_is_that_of_the_protocol(case: Any, degree: int) -> None:
    params = Params(case=case, degree=degree or None)
    few = 2 * degree + 1 if degree else 2
    for workers in [*range(few + 1, 40), 50, 200]:
        code = params.code(workers)
        expected = {"K": code.parallelization, "T": code.privacy, "R": code.recovery_threshold}
        assert coded_layout(workers, degree, case) == expected
    with pytest.raises(UsageError) as ours:
        coded_layout(few, degree, case)
    with pytest.raises(UsageError) as theirs:
        params.code(few)
    assert f"at least {few + 1}" in str(ours.value)
    assert f"= {few + 1} " in str(theirs.value)


@pytest.mark.parametrize(
    ("protocol", "degree", "once", "rounds"),
    [
        ("coded case 1", 1, 1, 2),
        ("coded case 2", 1, 1, 2),
        ("coded case 2", 0, 1, 4),
        ("bh08", 1, 2, 4),
        ("bgw", 1, 2, 3),
    ],
)
def test_latency_counts_once_per_round(protocol: str, degree: int, once: int, rounds: int) -> None:
    task = Task(900, 30, degree, 7)
    near = project(protocol, 20, task, Machines(latency_seconds=0), RATES)
    far = project(protocol, 20, task, Machines(latency_seconds=1), RATES)
    assert far.seconds["total"] - near.seconds["total"] == pytest.approx(once + rounds * 7)
    assert far.bound_by == "latency"


def test_with_free_computing_only_bytes_cost() -> None:
    task, machines = Task(9000, 100, 1, 10), Machines(1e6, 0.0)
    coded = project("coded case 1", 10, task, machines, FREE)
    sent = (25 / 8 * 9000 * 100 * 9 / 3 + 10 * 10 * 4 * 100) / 1e6  # T = 1 gets a seed
    assert coded.seconds["distribute"] + coded.seconds["send"] == pytest.approx(sent, rel=0.02)
    assert coded.seconds["gather"] == pytest.approx(0, abs=0.01)  # in, while as much goes out
    assert coded.seconds["total"] == pytest.approx(sent, rel=0.02)
    bgw = project("bgw", 50, task, machines, FREE)
    assert bgw.seconds["reduce"] == pytest.approx(10 * 19 * 4 * 3000 / 1e6, rel=0.02)  # the group of 20
    bh08 = project("bh08", 50, task, machines, FREE)
    assert bh08.seconds["reduce"] == pytest.approx(10 * (8 * 3000 * 19 / 20 + 38 * 64) / 1e6, rel=0.001)
    assert bh08.seconds["offline"] == pytest.approx(8 * 14 * 30_000 / 8 / 1e6, rel=0.02)  # 15 workers, T = 7


def test_computing_takes_its_terms_over_the_rates() -> None:
    task, wire = Task(9000, 100, 1, 10), Machines(math.nextafter(math.inf, 0), 0.0)
    rates = replace(FREE, gradient=1e6, matmul_terms=1e6, recombine_terms=1e6)
    coded = project("coded case 1", 10, task, wire, rates)
    assert coded.seconds["compute"] == pytest.approx(10 * 3000 * 100 / 1e6)
    assert coded.seconds["encode"] == pytest.approx(9 * 4 * 3000 * 100 / 1e6)  # (N-T) (K+T) m/K d
    assert coded.seconds["encode weights"] == pytest.approx(10 * 10 * 2 * 100 / 1e6)  # J N (T+1) d
    assert coded.seconds["decode"] == pytest.approx(10 * 10 * 100 / 1e6)  # J R d
    exact = project("coded case 1", 10, replace(task, degree=0), wire, replace(rates, product=1e6, transposed=2e6))
    assert exact.layout == {"K": 4, "T": 1, "R": 9}
    assert exact.seconds["compute"] == pytest.approx(10 * 1.5 * 2250 * 100 / 1e6)
    assert exact.seconds["encode weights"] == pytest.approx(
        10 * 10 * (2 * 100 + 5 * 2250) / 1e6
    )  # N ((T+1) d + (K+T) m/K)
    assert exact.seconds["decode"] == pytest.approx(10 * (4 * 9 * 2250 + 9 * 100) / 1e6)  # J (K R m/K + R d)
    mpc = project("bgw", 10, task, wire, replace(FREE, product=1e6, transposed=2e6, matmul_terms=1e6))
    assert mpc.seconds["compute"] == pytest.approx(10 * 1.5 * 3000 * 100 / 1e6)
    assert mpc.seconds["reduce"] == pytest.approx(10 * 4 * 2 * 3000 / 1e6)  # the group of 4: J n (T+1) m/G


@pytest.mark.parametrize("protocol", [*PROTOCOLS, *OWNERS])
def test_faster_machines_take_less(protocol: str) -> None:
    task = Task(900, 30)
    slow = project(protocol, 20, task, Machines(), RATES)
    assert project(protocol, 20, task, Machines(speed=2.0), RATES).seconds["total"] < slow.seconds["total"]
    assert project(protocol, 20, task, Machines(2e9), RATES).seconds["total"] < slow.seconds["total"]
    no_wire = Machines(math.nextafter(math.inf, 0), 0.0)
    once = project(protocol, 20, task, no_wire, RATES).seconds["total"]
    assert project(protocol, 20, task, replace(no_wire, speed=4.0), RATES).seconds["total"] == pytest.approx(once / 4)


def test_encoding_and_sending_overlap_unless_they_share_cores() -> None:
    step = Step("encode", "master", 2.0, 3 * 10**9, overlaps=True)
    busy = step.busy(Machines(1e9, 0.0), FREE)
    assert busy == (2.0, 3.0, 0.0)
    task = Task(9000, 100, 1, 1)
    alone = project("bgw", 10, task, Machines(1e9, 0.0), RATES).seconds
    shared = project("bgw", 10, task, Machines(1e9, 0.0, shared_cores=2), RATES).seconds
    assert alone["encode"] == shared["encode"]
    unpack = 3000 * 100 / 1e9
    link = shared["distribute"] - 10 / 2 * unpack
    assert link == pytest.approx(25 / 8 * 7 * 3000 * 100 / 1e9, rel=0.01)  # three of ten get seeds
    assert alone["distribute"] == pytest.approx(max(0.0, link - shared["encode"]) + unpack)
    assert shared["compute"] == pytest.approx(5 * alone["compute"])


def test_what_is_busy_the_longest() -> None:
    task = Task(9000, 300)
    assert project("coded case 2", 20, task, Machines(1e5), RATES).bound_by == "master's link"
    assert project("coded case 2", 20, task, Machines(speed=1e-4), RATES).bound_by == "master's processor"
    slow = replace(FREE, product=1.0)
    assert project("bgw", 20, task, Machines(), slow).bound_by == "workers' processors"
    long = Task(10**7, 1)
    assert project("bgw", 20, long, Machines(1e6), FREE).bound_by == "workers' links"


def test_more_workers_less_data_on_each_but_not_for_the_baselines() -> None:
    def sent(protocol: str, workers: int) -> int:
        return project(protocol, workers, Task(), Machines(), RATES).bytes["encode"] // workers

    assert sent("coded case 1", 100) < 0.2 * sent("coded case 1", 12)
    assert sent("bgw", 100) > 0.65 * sent("bgw", 12)  # where T grows: more of them get seeds


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Task(rows=0), "--rows must be at least 1, got 0"),
        (lambda: Task(iterations=-1), "--iterations must be at least 1, got -1"),
        (lambda: Task(degree=-1), "--degree must be at least 0, got -1"),
        (lambda: Machines(0.0), "bandwidth and speed must be positive, got 0 and 1"),
        (lambda: Machines(speed=math.nan), "must be positive, got 1.25e"),
        (lambda: Machines(latency_seconds=-1.0), "latency must not be negative, got -1 s"),
        (lambda: project("bgw", 8, Task(), Machines(), RATES), "at least G·"),
    ],
)
def test_rules(make: Any, rule: str) -> None:
    with pytest.raises(UsageError, match=rule.replace("(", r"\(")) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("protocol", "options", "degree"), [("bgw", "--method bgw --paper", 1), ("coded case 2", "--tolerance 0", 0)]
)
def test_a_run_beside_the_model(protocol: str, options: str, degree: int, tmp_path: Path) -> None:
    def lead(ch: Channel) -> None:
        SYSTEM.lead(ch, f"{options} --iterations 3 --no-compare --quiet --out {tmp_path / 'run'}".split())

    run_local([lead, *[serve] * 9], timeout_seconds=30.0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    together = Together(1e-3, 1e-3, 1e-3, 1e-9, 0.01)
    both = compare(protocol, result, RATES, together)
    seconds = result["seconds"]
    assert both["measured seconds"] == seconds["total"] - seconds["evaluate"]
    assert both["measured bytes"] == pytest.approx(both["model bytes"], rel=0.05)
    assert both["error"] == pytest.approx(both["model seconds"] / both["measured seconds"] - 1)
    task = Task(result["dataset"]["m"], result["dataset"]["d"] + degree, degree, 3)  # the paper's has a column of ones
    assert both["model seconds"] == project(protocol, 9, task, this_machine(RATES, together), RATES).seconds["total"]


def test_ranks_that_share_cores_pay_for_waking_taking_their_data_and_waiting() -> None:
    task, free = Task(9000, 100, 1, 10), Machines(math.nextafter(math.inf, 0), 0.0, shared_cores=2)

    def seconds(**together: float) -> dict[str, float]:
        return project("coded case 1", 10, task, replace(free, together=Together(**together)), FREE).seconds

    assert seconds()["total"] == pytest.approx(0)
    assert seconds(wake=1e-3, answer=1e-4)["compute"] == pytest.approx(10 * 10 / 2 * 1.1e-3)
    assert seconds(wake=1e-3)["distribute"] == pytest.approx(10 / 2 * 1e-3)  # one piece
    assert seconds(element=1e-9)["distribute"] == pytest.approx(10 / 2 * 3000 * 100 * 1e-9)
    assert seconds(message=1e-3)["send"] == pytest.approx(10 * 10 * 1e-3)
    assert seconds(wake=1e-3, waiting=0.1)["compute"] == pytest.approx(1.5 * 50e-3)
    alone = replace(free, shared_cores=None, together=Together(wake=1.0))
    assert project("coded case 1", 10, task, alone, FREE).seconds["total"] == pytest.approx(0)


def test_what_ranks_cost_one_another_is_measured() -> None:
    """With processes: nothing else shows it."""
    for value in vars(measure()).values():
        assert 0 < value < 1


def test_rates_are_measured() -> None:
    rates = calibrate()
    for name, value in vars(rates).items():
        assert 0 < value < math.inf, name
    assert rates.message_seconds < 0.1


def test_a_line_per_protocol_and_number_of_machines() -> None:
    projections = project_all([10, 2000], Task(), Machines(), RATES)
    lines = table(projections)
    assert len(lines) == 1 + 2 * len((*PROTOCOLS, *OWNERS))
    for line, p in zip(lines[1:], projections, strict=True):
        assert line.split()[0] == str(p.workers)
        assert f"{p.seconds['total']:.3f}" in line.split()
        assert p.bound_by in line
    assert json.loads(json.dumps(as_json(projections, RATES)))["projections"][0]["protocol"] == "coded case 1"
    for line, p, row in zip(
        table(projections, 0.36)[1:], projections, as_json(projections, RATES, 0.36)["projections"], strict=True
    ):
        assert row["usd"] == pytest.approx(p.machines * p.seconds["total"] * 1e-4)
        assert f"{row['usd']:.4f} USD" in line


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["project", "--machines", "10", "--rows", "100", "--columns", "20", "--iterations", "2", "--json"]
    assert main(command) == 0
    slow = json.loads(capsys.readouterr().out)
    assert main([*command, "--bandwidth-gbit", "1000", "--latency-ms", "0"]) == 0
    fast = json.loads(capsys.readouterr().out)
    assert [p["protocol"] for p in slow["projections"]] == [*PROTOCOLS, *OWNERS]
    for before, after in zip(slow["projections"], fast["projections"], strict=True):
        assert before["seconds"]["send"] > after["seconds"]["send"]
    assert main([*command, "-r", "0"]) == 0
    exact = json.loads(capsys.readouterr().out)
    assert [p["layout"]["R"] for p in exact["projections"][:2]] == [9, 9]
    assert main([*command, "--speed", "0"]) == 2
    assert capsys.readouterr().err.startswith("fedmpi: error: bandwidth and speed must be positive")
