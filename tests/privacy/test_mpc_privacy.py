"""What T parties see of multi-party computation, recorded: uniform, and the same for every data set.

Two levels: two products in a row, where every message of every pair of parties is held against every other; and whole
trainings of the baselines. The fields are so small that each pair of values is a cell of its own. Each check is shown
to see the mutations that it is there for. Nearly all of them leave every product exact: no other test would notice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
import oracles
import pytest
from protocol.codedml_threads import data_of, prepared, repeatable_seeds

from fedmpi.codedml import baseline, dealing
from fedmpi.codedml.baseline import GroupSetup, SharedWeights, mpc_master
from fedmpi.codedml.dealing import CodedData
from fedmpi.codedml.params import Params
from fedmpi.codedml.plain import train_quantized
from fedmpi.codedml.service import serve
from fedmpi.codedml.task import Task
from fedmpi.codedml.training import rounding_noise
from fedmpi.core import DEFAULT_PRIME, PrimeField, Shamir
from fedmpi.core.lagrange import lagrange_basis
from fedmpi.crypto.random import FieldRandom, SecretStream
from fedmpi.mpc import DoubleSharings, Party, bh08, double_sharings, open_, reduce_bgw, reduce_bh08, share
from fedmpi.mpc.bgw import SubShare
from fedmpi.mpc.bh08 import DoubleShare, Masked, Opened
from fedmpi.mpc.party import Share
from fedmpi.net import Channel, run_local
from fedmpi.net.orders import dismiss

HANG_SECONDS = 30.0
Uniform = Callable[[tuple[int, ...]], np.ndarray]


def secret(p: int, *key: int) -> FieldRandom:
    """The real generator under a key that repeats."""
    return FieldRandom(p, SecretStream(bytes(key).ljust(32, b"\0")))


def assert_uniform(rows: dict[str, np.ndarray], p: int) -> None:
    """Every pair of rows is uniform in F_p²."""
    for (one, a), (other, b) in combinations(rows.items(), 2):
        assert oracles.p_value_uniform([a, b], p, p) > oracles.ALARM, f"{one} and {other} are not uniform"


def assert_same(rows: dict[str, np.ndarray], others: dict[str, np.ndarray], p: int) -> None:
    """Every pair of rows has one distribution in both runs."""
    assert rows.keys() == others.keys()
    for one, other in combinations(rows, 2):
        p_value = oracles.p_value_same([rows[one], rows[other]], [others[one], others[other]], p, p)
        assert p_value > oracles.ALARM, f"{one} and {other} tell the data apart"


# == two products in a row: u = ab, v = ua ========================================================================

P, N, T = 11, 5, 2
SEGMENT = 1500
LENGTH = 15 * SEGMENT  # a block of 3 segments for each king, and a batch of 10 for both reductions
BATCH = 2 * LENGTH // (N - T)
DEALER = N  # a rank outside of the group, as the master is

DATA = {
    "zeros": (np.zeros(LENGTH, np.uint32), np.zeros(LENGTH, np.uint32)),
    "ten and seven": (np.full(LENGTH, 10, np.uint32), np.full(LENGTH, 7, np.uint32)),
    "steps": (np.arange(LENGTH, dtype=np.uint32) % 3, np.arange(LENGTH, dtype=np.uint32) // SEGMENT % P),
}

Source = Callable[[int, int], Uniform]
"""(seed, rank) → a party's source of randomness."""


def honest(seed: int, rank: int) -> Uniform:
    return secret(P, 1, seed, rank)


@dataclass
class Run:
    """What each party received, and what it knows of itself."""

    views: list[list[tuple[int, Any]]]
    known: list[dict[str, np.ndarray]]
    opened: np.ndarray
    """The product that was opened in the end."""

    def received(self, rank: int, cls: type, source: int) -> list[Any]:
        return [message for sender, message in self.views[rank] if sender == source and isinstance(message, cls)]


def run(protocol: str, name: str, seed: int, source: Source = honest) -> Run:
    channels: dict[int, Channel] = {}

    def play(ch: Channel) -> dict[str, np.ndarray]:
        channels[ch.rank] = ch
        field = PrimeField(P)
        drawn: list[np.ndarray] = []
        uniform = source(seed, ch.rank)

        def noted(shape: tuple[int, ...]) -> np.ndarray:
            drawn.append(uniform(shape))
            return drawn[-1]

        party = Party(ch, field, range(N), T, noted)
        known: dict[str, np.ndarray] = {}
        if protocol == "bh08":
            made = double_sharings(party, 2 * LENGTH)
            known["dealt"] = drawn[0]
            low, high = made.take(2 * LENGTH)
            doubles = DoubleSharings(low, high)
            known["high"] = high
        a, b = (share(party, DEALER, (LENGTH,)) for _ in range(2))
        reduce = (lambda z: reduce_bgw(party, z)) if protocol == "bgw" else (lambda z: reduce_bh08(party, z, doubles))
        u_2t = field.multiply(a, b)
        u = reduce(u_2t)
        v_2t = field.multiply(u, a)
        v = reduce(v_2t)
        views = len(ch._views)
        opened = open_(party, v)
        del ch._views[views:]  # what is opened on purpose is no secret
        return known | {"products": np.stack([u_2t, v_2t]), "opened": opened}

    def deal(ch: Channel) -> None:
        sharing, uniform = Shamir(PrimeField(P), N, T), secret(P, 2, seed)
        for values in DATA[name]:
            for rank, part in enumerate(sharing.share(values, uniform)):
                ch.send(rank, Share(part))

    known = run_local([play] * N + [deal], timeout_seconds=HANG_SECONDS, record_views=True)[:N]
    return Run([channels[rank]._views for rank in range(N)], known, known[0]["opened"])


COALITIONS = list(combinations(range(N), T))


def outside(coalition: Sequence[int]) -> list[int]:
    return [rank for rank in range(N) if rank not in coalition]


def data_rows(r: Run, coalition: Sequence[int]) -> dict[str, np.ndarray]:
    """Shares of a and b."""
    return {
        f"{name} of {i}": message.values
        for i in coalition
        for name, message in zip("ab", r.received(i, Share, DEALER), strict=True)
    }


def bgw_rows(r: Run, coalition: Sequence[int]) -> dict[str, np.ndarray]:
    """All that a coalition received, of both reductions."""
    return data_rows(r, coalition) | {
        f"{i}'s share of {k}'s {name}": message.values
        for i in coalition
        for k in outside(coalition)
        for name, message in zip("uv", r.received(i, SubShare, k), strict=True)
    }


def offline_rows(r: Run, coalition: Sequence[int]) -> dict[str, np.ndarray]:
    """The double sharings dealt by others, and the values that a member dealt itself."""
    rows = {}
    for i in coalition:
        rows[f"dealt by {i}"] = r.known[i]["dealt"]
        for k in outside(coalition):
            (message,) = r.received(i, DoubleShare, k)
            rows |= {f"{k}'s low for {i}": message.low, f"{k}'s high for {i}": message.high}
    return rows


def block(king: int) -> slice:
    return slice(LENGTH * king // N, LENGTH * (king + 1) // N)


def masked(r: Run, king: int, member: int, turn: int) -> np.ndarray:
    """What a member told a king; what the king tells itself is not sent."""
    if king != member:
        return r.received(king, Masked, member)[turn].values
    own = r.known[king]
    high = own["high"][turn * LENGTH : (turn + 1) * LENGTH]
    return (own["products"][turn].astype(int) - high)[block(king)] % P


def online_rows(r: Run, coalition: Sequence[int], king: int) -> dict[str, np.ndarray]:
    """All that a coalition received on a king's block, of both reductions."""
    rows = {name: row[block(king)] for name, row in data_rows(r, coalition).items()}
    for turn, name in enumerate("uv"):
        if king in coalition:
            rows |= {f"{k}'s masked {name}": masked(r, king, k, turn) for k in outside(coalition)}
        else:
            rows[f"{name} opened"] = r.received(coalition[0], Opened, king)[turn].values
    return rows


def opened_values(r: Run) -> np.ndarray:
    """What everybody learns: u - ρ and v - ρ', shape (2·LENGTH,)."""
    result = np.empty((2, LENGTH), np.uint32)
    for king in range(N):
        for turn, message in enumerate(r.received((king + 1) % N, Opened, king)):
            result[turn, block(king)] = message.values
    return result.ravel()


def views(protocol: str, r: Run) -> Iterator[dict[str, np.ndarray]]:
    """What there is to see, for each coalition of T."""
    for coalition in COALITIONS:
        if protocol == "bgw":
            yield bgw_rows(r, coalition)
        else:
            yield offline_rows(r, coalition)
            for king in range(N):
                yield online_rows(r, coalition, king)


Make = Callable[[str, str, int], Run]


def assert_views_are_uniform(protocol: str, make: Make) -> None:
    """Any two messages that T parties receive are jointly uniform: of one step, of two, and of both reductions."""
    for seed, name in enumerate(DATA):
        for rows in views(protocol, make(protocol, name, seed)):
            assert_uniform(rows, P)


def assert_views_tell_no_data_apart(protocol: str, make: Make) -> None:
    """Any two messages that T parties receive have one distribution for two data sets."""
    runs = [make(protocol, name, 10 + seed) for seed, name in enumerate(DATA)]
    for other in runs[1:]:
        for rows, others in zip(views(protocol, runs[0]), views(protocol, other), strict=True):
            assert_same(rows, others, P)


def assert_the_opened_values_are_uniform(protocol: str, make: Make) -> None:
    """What kings open, x - ρ, is uniform; that of ρ from one batch of dealings is, whatever T dealers know, too."""
    for seed, name in enumerate(DATA):
        r = make(protocol, name, 20 + seed)
        opened = opened_values(r)
        assert oracles.p_value_uniform(opened[None], P, P) > oracles.ALARM, "the opened values are not uniform"
        groups = opened.reshape(N - T, BATCH)
        assert oracles.p_value_uniform(groups, P, P) > oracles.ALARM, "one batch gives ρ that depend on each other"
        rows = {f"opened {g}": values for g, values in enumerate(groups)}
        for rank in range(N):
            for g, values in enumerate(groups):
                pair = [values, r.known[rank]["dealt"]]
                p_value = oracles.p_value_uniform(pair, P, P)
                assert p_value > oracles.ALARM, f"dealer {rank} knows what masks group {g}"
        for coalition in COALITIONS:
            guesses = {f"guess {g} of {coalition}": guess for g, guess in enumerate(guessed_masks(r, coalition))}
            for offline, values in (offline_rows(r, coalition) | guesses).items():
                for online, other in rows.items():
                    p_value = oracles.p_value_uniform([values, other], P, P)
                    assert p_value > oracles.ALARM, f"{offline} and {online} are not uniform"


def assert_kings_see_uniform_polynomials(protocol: str, make: Make) -> None:
    """The polynomial that a king interpolates is uniform in all 2T + 1 coefficients, not only at 0."""
    field = PrimeField(P)
    points = list(range(1, 2 * T + 2))
    at = lagrange_basis(field, points, points)
    assert np.array_equal(at, np.eye(2 * T + 1)), "the basis at its own nodes"
    vandermonde = np.array([[pow(x, k, P) for k in range(2 * T + 1)] for x in points])
    inverse = np.asarray(oracles.solve(vandermonde, np.eye(2 * T + 1, dtype=int), P)).astype(int)
    for seed, name in enumerate(DATA):
        r = make(protocol, name, 30 + seed)
        for king in range(N):
            for turn in range(2):
                told = np.stack([masked(r, king, member, turn) for member in range(N)]).astype(int)
                coefficients = inverse @ told % P
                assert_uniform({f"coefficient {k}": row for k, row in enumerate(coefficients)}, P)


def guessed_masks(r: Run, coalition: Sequence[int]) -> np.ndarray:
    """The ρ that a coalition computes from what it dealt, and from others' shares as if their degree were T - 1."""
    field = PrimeField(P)
    vector = lagrange_basis(field, [i + 1 for i in coalition], [0])[0].astype(int)
    dealt = np.empty((N, BATCH), int)
    for k in range(N):
        if k in coalition:
            dealt[k] = r.known[k]["dealt"]
        else:
            dealt[k] = vector @ np.stack([r.received(i, DoubleShare, k)[0].low for i in coalition]).astype(int) % P
    return bh08.hyperinvertible(field, N - T, N).astype(int) @ dealt % P


Check = Callable[[str, Make], None]
CHECKS: dict[str, Check] = {
    "uniform": assert_views_are_uniform,
    "two samples": assert_views_tell_no_data_apart,
    "opened": assert_the_opened_values_are_uniform,
    "kings": assert_kings_see_uniform_polynomials,
}
PAIRS = [("bgw", "uniform"), ("bgw", "two samples"), *(("bh08", check) for check in CHECKS)]


@cache
def honest_run(protocol: str, name: str, seed: int) -> Run:
    return run(protocol, name, seed)


def expected(name: str) -> np.ndarray:
    a, b = (values.astype(int) for values in DATA[name])
    return a * b * a % P


@pytest.mark.parametrize(("protocol", "check"), PAIRS)
def test_what_t_parties_see_of_two_products(protocol: str, check: str) -> None:
    CHECKS[check](protocol, honest_run)


def test_the_data_sets_make_different_products() -> None:
    assert len({expected(name).tobytes() for name in DATA}) == len(DATA)
    for protocol in ("bgw", "bh08"):
        for name in DATA:
            np.testing.assert_array_equal(honest_run(protocol, name, 0).opened, expected(name))


def test_t_plus_one_parties_do_learn_something() -> None:
    """The positive control: private against two parties, seen by three."""

    def reconstruct(r: Run, cls: type, turn: int) -> np.ndarray:
        vector = lagrange_basis(PrimeField(P), [1, 2, 3], [0])[0].astype(int)
        return vector @ np.stack([r.received(i, cls, DEALER)[turn].values for i in range(3)]).astype(int) % P

    r = honest_run("bgw", "steps", 0)
    np.testing.assert_array_equal(reconstruct(r, Share, 0), DATA["steps"][0])
    np.testing.assert_array_equal(reconstruct(r, Share, 1), DATA["steps"][1])
    rows = {i: r.received(i, Share, DEALER)[0].values for i in range(3)}
    with pytest.raises(AssertionError):
        assert oracles.p_value_uniform(list(rows.values()), P, P) > oracles.ALARM


# -- the mutations ------------------------------------------------------------------------------------------------


def zeros(seed: int, rank: int) -> Uniform:
    """Nobody masks anything."""
    return lambda shape: np.zeros(shape, np.uint32)


def one_party_with_zeros(seed: int, rank: int) -> Uniform:
    return zeros(seed, rank) if rank == 3 else honest(seed, rank)


def one_mask_too_few(seed: int, rank: int) -> Uniform:
    """Polynomials of one degree less: T parties solve for what is shared."""
    source = honest(seed, rank)

    def uniform(shape: tuple[int, ...]) -> np.ndarray:
        masks = source(shape)
        if len(shape) > 1:
            masks[-1] = 0
        return masks

    return uniform


def equal_masks(seed: int, rank: int) -> Uniform:
    source = honest(seed, rank)
    return lambda shape: np.ascontiguousarray(np.broadcast_to(source(shape[-1:]), shape))


def started_again(seed: int, rank: int) -> Uniform:
    """Every call takes its masks from the start of the same stream."""
    return lambda shape: honest(seed, rank)(shape)


def nobody_of_his_own(seed: int, rank: int) -> Uniform:
    """All parties draw the same."""
    return honest(seed, 0)


def from_source(source: Source) -> Callable[[pytest.MonkeyPatch], Make]:
    return lambda monkeypatch: lambda protocol, name, seed: run(protocol, name, seed, source)


def patched(patch: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], Make]:
    def mutate(monkeypatch: pytest.MonkeyPatch) -> Make:
        patch(monkeypatch)
        return run

    return mutate


def reuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same double sharings for every reduction."""
    monkeypatch.setattr(DoubleSharings, "take", lambda self, count: (self._low[:count], self._high[:count]))


def reuse_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One double sharing for two neighbours."""
    take = DoubleSharings.take

    def taken(self: DoubleSharings, count: int) -> tuple[np.ndarray, np.ndarray]:
        if count != LENGTH:
            return take(self, count)
        return tuple(np.repeat(part[::2], 2)[:count] for part in take(self, count))  # type: ignore[return-value]

    monkeypatch.setattr(DoubleSharings, "take", taken)


def unmasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kings see the products themselves: ρ is 0 throughout, at both degrees."""

    def taken(self: DoubleSharings, count: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(count, np.uint32), np.zeros(count, np.uint32)

    monkeypatch.setattr(DoubleSharings, "take", taken)


def unsubtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kings see the products themselves, because nothing is subtracted. The results are wrong, too."""
    monkeypatch.setattr(PrimeField, "subtract", lambda self, a, b: a.copy())


def low_degree_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """[ρ]_2T of degree T only: the upper coefficients of the product stay bare."""
    init = Party.__init__

    def initialize(self: Party, *args: Any) -> None:
        init(self, *args)
        self.sharing_2t = self.sharing

    monkeypatch.setattr(Party, "__init__", initialize)


def dealers_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mixing: the ρ of a group are what one dealer drew."""
    monkeypatch.setattr(bh08, "hyperinvertible", lambda field, rows, columns: np.eye(rows, columns, dtype=np.uint32))


def one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixing into n - T times the same sum."""
    monkeypatch.setattr(bh08, "hyperinvertible", lambda field, rows, columns: np.ones((rows, columns), np.uint32))


def dependent_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row is the sum of the others: three ρ that add up."""
    original = bh08.hyperinvertible

    def matrix(field: PrimeField, rows: int, columns: int) -> np.ndarray:
        result = original(field, rows, columns)
        result[-1] = result[:-1].astype(int).sum(axis=0) % field.p
        return result

    monkeypatch.setattr(bh08, "hyperinvertible", matrix)


BOTH, ALL = {"uniform", "two samples"}, set(CHECKS)
MUTATIONS: dict[str, tuple[Callable[[pytest.MonkeyPatch], Make], dict[str, set[str]]]] = {
    "zeros": (from_source(zeros), {"bgw": BOTH, "bh08": ALL}),
    "zeros of one party": (from_source(one_party_with_zeros), {"bgw": {"uniform"}, "bh08": {"uniform"}}),
    "one mask too few": (from_source(one_mask_too_few), {"bgw": {"uniform"}, "bh08": {"opened", "kings"}}),
    "equal masks": (from_source(equal_masks), {"bgw": {"uniform"}, "bh08": {"uniform"}}),
    "a stream started again": (from_source(started_again), {"bgw": {"uniform"}, "bh08": {"uniform"}}),
    "all parties draw the same": (from_source(nobody_of_his_own), {"bh08": {"uniform", "opened"}}),
    "a reused double sharing": (patched(reuse), {"bh08": BOTH}),
    "an unmasked product": (patched(unmasked), {"bh08": ALL}),
    "nothing subtracted": (patched(unsubtracted), {"bh08": ALL}),
    "masks of degree T": (patched(low_degree_masks), {"bh08": {"kings"}}),
    "dealers know the masks": (patched(dealers_know), {"bh08": {"opened"}}),
    "one sum": (patched(one_sum), {"bh08": {"opened"}}),
    "dependent rows": (patched(dependent_rows), {"bh08": {"opened"}}),
}


@pytest.mark.parametrize(
    ("mutation", "protocol", "check"),
    [
        (m, protocol, check)
        for m, (_, kills) in MUTATIONS.items()
        for protocol in kills
        for check in sorted(kills[protocol])
    ],
)
def test_the_checks_see_every_mutation(
    mutation: str, protocol: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = MUTATIONS[mutation][0](monkeypatch)
    with pytest.raises(AssertionError, match=r"uniform|apart|depend|knows"):
        CHECKS[check](protocol, make)


def test_a_double_sharing_for_two_neighbours_shows_their_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reuse within one reduction, which pairs of messages would not show: neighbouring values do."""

    def assert_neighbours_are_uniform(make: Make) -> None:
        opened = opened_values(make("bh08", "ten and seven", 40)).reshape(-1, 2).T
        assert oracles.p_value_uniform(opened, P, P) > oracles.ALARM

    assert_neighbours_are_uniform(honest_run)
    reuse_one(monkeypatch)
    with pytest.raises(AssertionError):
        assert_neighbours_are_uniform(run)


EXACT = [(m, protocol) for m, (_, kills) in MUTATIONS.items() for protocol in kills if m != "nothing subtracted"]


@pytest.mark.parametrize(("mutation", "protocol"), EXACT)
def test_no_mutation_shows_in_the_products(mutation: str, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = MUTATIONS[mutation][0](monkeypatch)
    np.testing.assert_array_equal(make(protocol, "steps", 0).opened, expected("steps"))


# == whole trainings of the baselines =============================================================================

TRAINING_P, WORKERS = 31, 10  # two groups of 2·2 + 1
ROWS, COLUMNS, ITERATIONS = 1600, 100, 30
METHODS = ["bgw", "bh08"]
TYPES = {
    "bgw": [(CodedData, "X_tilde"), (SharedWeights, "W"), (SubShare, "values")],
    "bh08": [
        (CodedData, "X_tilde"), (SharedWeights, "W"),
        (DoubleShare, "low"), (DoubleShare, "high"), (Masked, "values"), (Opened, "values"),
    ],
}  # fmt: skip


def parameters(method: Any) -> Params:
    return Params(
        method=method, model="linear", subgroups=2, privacy=2, data_bits=0, weight_bits=1, coefficient_bits=0,
        prime=TRAINING_P, iterations=ITERATIONS,
    )  # fmt: skip


@cache
def training_sets() -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """X̄, Y and the step size of three data sets of one shape, of which what is decoded fits in F_31."""
    sparse = np.zeros((ROWS, COLUMNS), np.float32)
    sparse[np.arange(80), np.arange(80)] = 1
    targets = np.random.default_rng(1).choice([-2.0, 2.0], (ROWS, 1))
    return {
        "sparse": (sparse, targets, 20.0 * ROWS / 80),
        "zeros": (np.zeros_like(sparse), targets, 20.0),
        "full": (np.full_like(sparse, 15), targets, 1e-30),  # with weights that are 0 throughout
    }


@dataclass
class Trained:
    """Weights, and what every worker received."""

    W: np.ndarray
    views: dict[int, list[tuple[int, Any]]]

    def row(self, rank: int, cls: type, field: str, source: int) -> np.ndarray:
        """All values of one type that a worker received from one rank."""
        if cls is CodedData:
            return data_of([m for _, m in self.views[rank]]).ravel() if source == 0 else np.empty(0, np.uint32)
        values = [
            getattr(m, field).ravel() for sender, m in self.views[rank] if sender == source and isinstance(m, cls)
        ]
        return np.concatenate(values) if values else np.empty(0, np.uint32)


def training_source(seed: int, rank: int) -> Uniform:
    return secret(TRAINING_P, 3, seed, rank)


def buckets(samples: np.ndarray) -> int:
    """Every pair of elements a cell of its own where there are enough samples for that."""
    return TRAINING_P if samples.size >= 10 * TRAINING_P**2 else 8


def trained(
    method: str,
    name: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    source: Source = training_source,
    masters: Source = training_source,
) -> Trained:
    X_bar, Y, rate = training_sets()[name]
    channels: dict[int, Channel] = {}

    class Keyed(Party):
        def __init__(self, ch: Channel, field: PrimeField, ranks: Any, threshold: int, uniform: Any, **options: Any):
            super().__init__(ch, field, ranks, threshold, source(seed, ch.rank), **options)

    monkeypatch.setattr(baseline, "Party", Keyed)

    def work(ch: Channel) -> None:
        channels[ch.rank] = ch
        serve(ch)

    def lead(ch: Channel) -> Any:
        params = parameters(method)
        repeatable = repeatable_seeds(name, seed)
        task = Task(params, prepared(params, X_bar, Y, rate), rounding_noise(0), (masters(seed, 0),), seed=repeatable)
        training = mpc_master(ch, task)
        dismiss(ch)
        return training

    training = run_local([lead] + [work] * WORKERS, timeout_seconds=HANG_SECONDS, record_views=True)[0]
    return Trained(training.W, {rank: channels[rank]._views for rank in channels})


def training_rows(t: Trained, method: str, pair: Sequence[int]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What two workers received of one type from the same ranks outside the pair, paired value by value.

    Where only one of them is a king, what two others told it is the pair.
    """
    for cls, field in TYPES[method]:
        if cls is Masked:
            for king in pair:
                tellers = [k for k in range(1, WORKERS + 1) if k not in pair and t.row(king, cls, field, k).size]
                both = [(a, b) for a, b in combinations(tellers, 2)]
                yield (
                    f"Masked for {king}",
                    np.concatenate([t.row(king, cls, field, a) for a, _ in both]),
                    np.concatenate([t.row(king, cls, field, b) for _, b in both]),
                )
            continue
        sources = [k for k in range(WORKERS + 1) if k not in pair]
        rows = [[t.row(rank, cls, field, k) for rank in pair] for k in sources]
        if cls is Opened:  # both hear the same: what matters is one value after another
            heard = np.concatenate([r[0] for r in rows])
            heard = heard[: heard.size // 2 * 2]
            yield "Opened", heard[::2], heard[1::2]
            continue
        shared = [r for r in rows if r[0].size == r[1].size > 0]
        if shared:  # members of one group; of two groups only what the master sends is the same kind of thing
            yield cls.__name__ + "." + field, *(np.concatenate([r[i] for r in shared]) for i in range(2))


COLLUDING = [(1, 2), (3, 5), (7, 8), (1, 6), (5, 10)]
"""Pairs within the groups and across."""

Train = Callable[[str, str, int], Trained]


def assert_a_training_is_uniform(method: str, train: Train) -> None:
    for seed, name in enumerate(training_sets()):
        t = train(method, name, seed)
        for pair in COLLUDING:
            for what, one, other in training_rows(t, method, pair):
                p_value = oracles.p_value_uniform([one, other], TRAINING_P, buckets(one))
                assert p_value > oracles.ALARM, f"{what} of {pair} is not uniform"


def assert_a_training_tells_no_data_apart(method: str, train: Train) -> None:
    runs = [train(method, name, 10 + seed) for seed, name in enumerate(training_sets())]
    setups = {
        (m.protocol, m.rows, m.columns, m.outputs, m.coefficients.tobytes(), m.iterations, m.primes.tobytes())
        for t in runs
        for rank in t.views
        for _, m in t.views[rank]
        if isinstance(m, GroupSetup)
    }
    assert len(setups) == 1, "what is public tells the data apart"
    for pair in COLLUDING:
        rows = [list(training_rows(t, method, pair)) for t in runs]
        for other in rows[1:]:
            for (what, a, b), (_, c, d) in zip(rows[0], other, strict=True):
                p_value = oracles.p_value_same([a, b], [c, d], TRAINING_P, buckets(a))
                assert p_value > oracles.ALARM, f"{what} tells {pair} the data apart"


def assert_iterations_are_fresh(method: str, train: Train) -> None:
    """What a worker receives from one rank in two iterations in a row is jointly uniform."""
    t = train(method, "zeros", 20)
    for cls, field in [row for row in TYPES[method] if row[0] in (SharedWeights, SubShare, Opened)]:
        for rank in (1, 5, 8):
            sources = [k for k in range(WORKERS + 1) if t.row(rank, cls, field, k).size]
            per_source = [t.row(rank, cls, field, k).reshape(ITERATIONS, -1) for k in sources]
            one, other = (np.concatenate([v[part].ravel() for v in per_source]) for part in (slice(-1), slice(1, None)))
            p_value = oracles.p_value_uniform([one, other], TRAINING_P, buckets(one))
            assert p_value > oracles.ALARM, f"{cls.__name__} of {rank} is not uniform over two iterations"


TRAINING_CHECKS: dict[str, Callable[[str, Train], None]] = {
    "uniform": assert_a_training_is_uniform,
    "two samples": assert_a_training_tells_no_data_apart,
    "fresh": assert_iterations_are_fresh,
}


def the_same_seed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    stretched = dealing.stretched
    monkeypatch.setattr(dealing, "stretched", lambda seed, *rest: stretched(bytes(32), *rest))


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No patch."""


# the members' source, the master's, and what else changes
TRAINING_MUTATIONS: dict[str, tuple[Source, Source, Callable[[pytest.MonkeyPatch], None], dict[str, set[str]]]] = {
    "zeros of the members": (zeros, training_source, nothing, {"bgw": {"uniform"}, "bh08": {"uniform", "two samples"}}),
    "zeros of the master": (training_source, zeros, nothing, {"bgw": BOTH, "bh08": BOTH}),
    "the same seed twice": (
        training_source,
        training_source,
        the_same_seed_twice,
        {"bgw": {"uniform"}, "bh08": {"uniform"}},
    ),
    "a reused double sharing": (training_source, training_source, reuse, {"bh08": {"fresh"}}),
    "an unmasked product": (training_source, training_source, unmasked, {"bh08": {"uniform", "two samples", "fresh"}}),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("check", TRAINING_CHECKS)
def test_what_t_workers_see_of_a_training(method: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    TRAINING_CHECKS[check](method, lambda m, name, seed: trained(m, name, seed, monkeypatch))


TRAINING_KILLS = [
    (mutation, method, check)
    for mutation, (_, _, _, kills) in TRAINING_MUTATIONS.items()
    for method in kills
    for check in sorted(kills[method])
]


@pytest.mark.parametrize(("mutation", "method", "check"), TRAINING_KILLS)
def test_the_checks_of_trainings_see_every_mutation(
    mutation: str, method: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, masters, patch, _ = TRAINING_MUTATIONS[mutation]
    patch(monkeypatch)
    with pytest.raises(AssertionError, match=r"uniform|apart"):
        TRAINING_CHECKS[check](method, lambda m, name, seed: trained(m, name, seed, monkeypatch, source, masters))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mutation", [None, *TRAINING_MUTATIONS])
def test_no_mutation_shows_in_the_weights(method: str, mutation: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if mutation is None:
        t = trained(method, "sparse", 0, monkeypatch)
    else:
        source, masters, patch, _ = TRAINING_MUTATIONS[mutation]
        patch(monkeypatch)
        t = trained(method, "sparse", 0, monkeypatch, source, masters)
    problem = prepared(parameters(method), *training_sets()["sparse"])
    expected_weights = train_quantized(parameters(method), problem, rounding_noise(0))
    assert np.abs(expected_weights * 2).max() >= 2
    np.testing.assert_array_equal(t.W, expected_weights)


def test_members_draw_from_the_secret_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each member has a source of its own, keyed by the operating system, whatever --seed says."""
    drawn: dict[int, np.ndarray] = {}

    class Listening(Party):
        def __init__(self, ch: Channel, field: PrimeField, ranks: Any, threshold: int, uniform: Any, **options: Any):
            super().__init__(ch, field, ranks, threshold, uniform, **options)
            assert isinstance(uniform, FieldRandom)
            drawn[ch.rank] = uniform((200,))

    monkeypatch.setattr(baseline, "Party", Listening)

    def lead(ch: Channel) -> None:
        params = Params(method="bgw", iterations=1, insecure_repeatable_masks=True, paper=True)
        problem = prepared(params, np.ones((6, 2), np.float32), np.ones((6, 1)))
        mpc_master(ch, Task(params, problem, rounding_noise(0), (secret(DEFAULT_PRIME, 5),)))
        dismiss(ch)

    lots = []
    for _ in range(2):
        run_local([lead] + [serve] * 9, timeout_seconds=HANG_SECONDS)
        lots += [drawn[rank].copy() for rank in range(1, 10)]
    for one, other in combinations(lots, 2):
        assert (one == other).mean() < 0.05
