"""Sharing, opening and degree reduction on threads, against Python integers."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import oracles
import pytest

from fedmpi.core import PrimeField
from fedmpi.core import field as field_module
from fedmpi.errors import PeerFailed, ProtocolError, UsageError
from fedmpi.mpc import DoubleSharings, Party, double_sharings, open_, reduce_bgw, reduce_bh08, share
from fedmpi.mpc.bgw import SubShare
from fedmpi.mpc.bh08 import DoubleShare, Masked, Opened
from fedmpi.mpc.party import TAGS, Share
from fedmpi.net import Channel, Message, run_local
from fedmpi.net.message import encode

HANG_SECONDS = 20.0
"""No wait of a protocol that works lasts nearly as long."""

P = 2**25 - 39
GROUPS = [(3, 1), (7, 3), (7, 2), (8, 3), (8, 1), (20, 9), (20, 3)]  # n, T: as few parties as T allows, and more
PROTOCOLS = ["bgw", "bh08"]
every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
every_group = pytest.mark.parametrize(("n", "T"), GROUPS)

Play = Callable[[Party], Any]


def on_parties(
    n: int,
    T: int,
    play: Play,
    *,
    p: int = P,
    ranks: Sequence[int] | None = None,
    size: int | None = None,
    seed: int = 0,
) -> list[Any]:
    """What `play` returns at each member, in the order of their points."""
    ranks = range(n) if ranks is None else ranks

    def role(ch: Channel) -> Any:
        if ch.rank not in ranks:
            return None
        return play(Party(ch, PrimeField(p), ranks, T, oracles.uniform(p, 1000 * seed + ch.rank)))

    results = run_local([role] * (n if size is None else size), timeout_seconds=HANG_SECONDS)
    return [results[rank] for rank in ranks]


def reducer(party: Party, protocol: str, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """A degree reduction, for `count` products in all."""
    if protocol == "bgw":
        return lambda product: reduce_bgw(party, product)
    doubles = double_sharings(party, count)
    return lambda product: reduce_bh08(party, product, doubles)


def values(length: int, seed: int, p: int = P) -> np.ndarray:
    """Random elements with 0, 1 and p - 1 among them."""
    result = oracles.uniform(p, seed)((length,))
    result[1::7], result[3::7], result[5::7] = 0, 1, p - 1
    return result


def recombine(shares: dict[int, np.ndarray], at: int, p: int) -> np.ndarray:
    """The value at a point of the polynomial through point → share, with Python integers."""
    total: Any = 0
    for i, values_i in shares.items():
        scale = 1
        for k in shares:
            if k != i:
                scale = scale * (at - k) * pow(i - k, -1, p) % p
        total = total + scale * values_i.astype(object)
    return np.asarray(total % p)


def assert_sharing(shares: Sequence[np.ndarray], degree: int, secret: Any, p: int = P) -> None:
    """All shares lie on polynomials of this degree with these values at 0; the degree is not lower."""
    points = {i + 1: s for i, s in enumerate(shares)}
    assert all(s.dtype == np.uint32 and (s < p).all() for s in shares)
    base = {i: points[i] for i in range(1, degree + 2)}
    np.testing.assert_array_equal(recombine(base, 0, p), np.asarray(secret))
    for other in range(degree + 2, len(points) + 1):
        np.testing.assert_array_equal(recombine(base, other, p), points[other])
    if np.size(secret) > 0 and p > 1000:  # one polynomial in p has a lower degree
        lower = {i: points[i] for i in range(1, degree + 1)}
        assert (recombine(lower, degree + 1, p) != points[degree + 1]).all()


def multiply(*factors: np.ndarray, p: int = P) -> np.ndarray:
    result: Any = 1
    for factor in factors:
        result = result * factor.astype(object) % p
    return np.asarray(result)


def shared(party: Party, *secrets: np.ndarray, dealer: int | None = None) -> list[np.ndarray]:
    """The shares that this party gets of secrets that a member deals: the first one, unless another is named."""
    dealer = party.ranks[0] if dealer is None else dealer
    return [share(party, dealer, s.shape, s if party.ch.rank == dealer else None) for s in secrets]


# -- sharing and opening ------------------------------------------------------------------------------------------


@every_group
def test_a_shared_array_is_opened_by_everybody(n: int, T: int) -> None:
    secret = values(12, 1).reshape(3, 4)

    def play(party: Party) -> tuple[np.ndarray, np.ndarray]:
        (mine,) = shared(party, secret)
        return mine, open_(party, mine)

    shares, opened = zip(*on_parties(n, T, play), strict=True)
    assert_sharing(shares, T, secret)
    for result in opened:
        np.testing.assert_array_equal(result, secret)


@pytest.mark.parametrize("shape", [(0,), (1,), (5,), (2, 3), (0, 3), (2, 1, 2)])
def test_any_member_deals_arrays_of_any_shape(shape: tuple[int, ...]) -> None:
    secrets = [values(int(np.prod(shape)), seed).reshape(shape) for seed in range(5)]

    def play(party: Party) -> list[np.ndarray]:
        return [open_(party, *shared(party, secret, dealer=dealer)) for dealer, secret in enumerate(secrets)]

    for opened in on_parties(5, 2, play):
        for result, secret in zip(opened, secrets, strict=True):
            assert result.shape == shape
            np.testing.assert_array_equal(result, secret)


def test_shares_of_one_secret_differ_between_parties_and_dealings() -> None:
    secret = np.full(50, 7, np.uint32)
    shares = on_parties(5, 2, lambda party: shared(party, secret, secret))
    seen = [s for pair in shares for s in pair]
    for one, other in combinations(seen, 2):
        assert (one != other).mean() > 0.9


@every_group
def test_a_product_is_opened_at_twice_the_degree(n: int, T: int) -> None:
    a, b = values(9, 1), values(9, 2)

    def play(party: Party) -> tuple[np.ndarray, np.ndarray]:
        x, y = shared(party, a, b)
        product = party.field.multiply(x, y)
        return product, open_(party, product, 2 * T)

    shares, opened = zip(*on_parties(n, T, play), strict=True)
    np.testing.assert_array_equal(recombine(dict(enumerate(shares[: 2 * T + 1], 1)), 0, P), multiply(a, b))
    for result in opened:
        np.testing.assert_array_equal(result, multiply(a, b))


# -- degree reduction ---------------------------------------------------------------------------------------------


def reduced_products(
    protocol: str, n: int, T: int, lengths: Sequence[int], p: int = P, **options: Any
) -> tuple[list[Any], list[np.ndarray]]:
    """What each party ends with for some lengths in a row: shares of the products, and the products opened."""
    factors = [(values(length, 2 * i, p), values(length, 2 * i + 1, p)) for i, length in enumerate(lengths)]

    def play(party: Party) -> list[tuple[np.ndarray, np.ndarray]]:
        pairs = [shared(party, a, b) for a, b in factors]
        reduce = reducer(party, protocol, sum(lengths))
        shares = [reduce(party.field.multiply(x, y)) for x, y in pairs]
        return [(s, open_(party, s)) for s in shares]

    return on_parties(n, T, play, p=p, **options), [multiply(a, b, p=p) for a, b in factors]


def assert_products(results: list[Any], expected: list[np.ndarray], T: int, p: int = P) -> None:
    for i, product in enumerate(expected):
        shares, opened = zip(*(result[i] for result in results), strict=True)
        assert_sharing(shares, T, product, p)
        for result in opened:
            np.testing.assert_array_equal(result, product)


@every_protocol
@every_group
def test_products_are_reduced_to_degree_t(protocol: str, n: int, T: int) -> None:
    """Vectors that are empty, shorter than n, and not divisible by n or n - T, one after another."""
    lengths = [1, 0, 2, n - 1, n, n + 1, 2 * (n - T) + 1, 3 * n * (n - T) + 5]
    assert_products(*reduced_products(protocol, n, T, lengths), T)


@every_protocol
@pytest.mark.parametrize("length", [0, 1, 2, 6, 7, 8, 50])
def test_a_single_reduction_of_any_length(protocol: str, length: int) -> None:
    assert_products(*reduced_products(protocol, 7, 2, [length]), 2)


@every_protocol
@pytest.mark.parametrize("kernels", ["compiled", "numpy"])
@pytest.mark.parametrize("p", [101, 2**26 - 5, 2**31 - 1])
def test_products_in_other_fields(protocol: str, p: int, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels == "numpy":
        monkeypatch.setattr(field_module, "_compiled", None)
    for n, T in ((5, 2), (6, 1)):
        assert_products(*reduced_products(protocol, n, T, [40], p=p), T, p)


@every_protocol
@pytest.mark.parametrize(("ranks", "size"), [([1, 2, 3, 4, 5], 6), ([5, 0, 3, 1, 6], 7), ([9, 8, 7], 10)])
def test_groups_are_any_ranks_in_any_order(protocol: str, ranks: list[int], size: int) -> None:
    n, T = len(ranks), (len(ranks) - 1) // 2
    assert_products(*reduced_products(protocol, n, T, [11, 3], ranks=ranks, size=size), T)


@every_protocol
def test_any_t_plus_1_parties_reconstruct_the_product(protocol: str) -> None:
    results, (product,) = reduced_products(protocol, 7, 3, [10])
    for subset in combinations(range(7), 4):
        known = {i + 1: results[i][0][0] for i in subset}
        np.testing.assert_array_equal(recombine(known, 0, P), product)
    for subset in combinations(range(7), 3):
        assert (recombine({i + 1: results[i][0][0] for i in subset}, 0, P) != product).all()


@every_protocol
@pytest.mark.parametrize(("n", "T"), [(3, 1), (7, 3), (8, 2)])
def test_products_of_products(protocol: str, n: int, T: int) -> None:
    """x^16 by squaring, times y again and again: an error of any reduction would grow."""
    x, y = values(25, 1), values(25, 2)

    def play(party: Party) -> np.ndarray:
        reduce = reducer(party, protocol, 25 * 10)
        power, factor = shared(party, x, y)
        for _ in range(4):
            power = reduce(party.field.multiply(power, power))
        for _ in range(6):
            power = reduce(party.field.multiply(power, factor))
        return power

    assert_sharing(on_parties(n, T, play), T, multiply(*[x] * 16, *[y] * 6))


def test_new_shares_of_the_same_product_are_fresh() -> None:
    a, b = values(40, 1), values(40, 2)

    def play(party: Party) -> list[np.ndarray]:
        x, y = shared(party, a, b)
        bh08 = reducer(party, "bh08", 80)
        product = party.field.multiply(x, y)
        return [reduce_bgw(party, product), reduce_bgw(party, product), bh08(product), bh08(product)]

    for shares in on_parties(5, 2, play):
        for one, other in combinations(shares, 2):
            assert (one != other).all()


def test_the_product_handed_in_is_left_alone() -> None:
    def play(party: Party) -> tuple[np.ndarray, np.ndarray]:
        (x,) = shared(party, values(9, 1))
        product = party.field.multiply(x, x)
        before = product.copy()
        reduce_bgw(party, product)
        reducer(party, "bh08", 9)(product)
        return product, before

    for now, before in on_parties(5, 2, play):
        np.testing.assert_array_equal(now, before)


# -- parties at different speeds ----------------------------------------------------------------------------------


def test_parties_run_ahead_of_one_that_is_not_needed() -> None:
    """Of 7 parties with T = 2 the last deals nothing in BGW: all others are done before it begins."""
    x = values(30, 1)
    done = threading.Semaphore(0)

    def play(party: Party) -> np.ndarray:
        (power,) = shared(party, x)
        if party.ch.rank == 6:
            for _ in range(6):
                assert done.acquire(timeout=HANG_SECONDS)
        for _ in range(5):
            power = reduce_bgw(party, party.field.multiply(power, power))
        done.release()
        return power

    assert_sharing(on_parties(7, 2, play), 2, multiply(*[x] * 32))


def test_parties_run_ahead_of_one_that_is_neither_sender_nor_king() -> None:
    """The king of a single value is the last party, and the first five send: the sixth only listens."""
    x = values(1, 4)
    done = threading.Semaphore(0)

    def play(party: Party) -> np.ndarray:
        (power,) = shared(party, x)
        doubles = double_sharings(party, 5)
        if party.ch.rank == 5:
            for _ in range(6):
                assert done.acquire(timeout=HANG_SECONDS)
        for _ in range(5):
            power = reduce_bh08(party, party.field.multiply(power, power), doubles)
        done.release()
        return power

    assert_sharing(on_parties(7, 2, play), 2, multiply(*[x] * 32))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "T"), [(7, 3), (8, 2)])
def test_everything_in_a_row_with_parties_that_stumble(n: int, T: int, seed: int) -> None:
    """Sharing, both reductions, new double sharings and opening, of changing lengths and with no barrier between."""
    lengths = [5, 0, 23, 1, n, 40, 2]
    a, b = values(40, 1), values(40, 2)

    def play(party: Party) -> list[np.ndarray]:
        pauses = random.Random(100 * seed + party.index)
        results = []
        for turn, length in enumerate(lengths):
            time.sleep(pauses.choice([0, 0, 0.001, 0.004]))
            x, y = shared(party, a[:length], b[:length], dealer=turn % n)
            doubles = double_sharings(party, length)
            time.sleep(pauses.choice([0, 0, 0.001, 0.004]))
            z = reduce_bgw(party, party.field.multiply(x, y))
            z = reduce_bh08(party, party.field.multiply(z, x), doubles)
            time.sleep(pauses.choice([0, 0, 0.001]))
            results.append(open_(party, reduce_bgw(party, party.field.multiply(z, z))))
        return results

    for opened in on_parties(n, T, play, seed=seed):
        for result, length in zip(opened, lengths, strict=True):
            x, y = a[:length], b[:length]
            np.testing.assert_array_equal(result, multiply(x, y, x, x, y, x))


PROGRAM = """
import random, sys, time
import numpy as np
from fedmpi.core import PrimeField
from fedmpi.crypto.random import FieldRandom
from fedmpi.mpc import Party, double_sharings, open_, reduce_bgw, reduce_bh08, share
from fedmpi.net.mpi import job

with job(timeout_seconds=30.0) as ch:
    field = PrimeField()
    party = Party(ch, field, range(ch.size), 2, FieldRandom(field.p))
    secret = np.arange(100_003, dtype=np.uint32) * np.uint32(330)
    x = share(party, 4, secret.shape, secret if ch.rank == 4 else None)
    doubles = double_sharings(party, 3 * len(secret))
    power = x
    for _ in range(3):
        time.sleep(random.random() / 50)
        power = reduce_bgw(party, field.multiply(power, x))
        power = reduce_bh08(party, field.multiply(power, x), doubles)
    opened = open_(party, power)
    expected = secret.astype(object) ** 7 % field.p
    if not (opened == expected).all():
        raise ValueError("the opened powers are wrong")
    if ch.rank == 0:
        print("right")
"""


@pytest.mark.parametrize("n", [5, 6])
def test_mpi_ranks_compute_the_same(mpirun: Callable[..., Any], n: int) -> None:
    """Messages above and below what travels in one piece, with ranks that run ahead."""
    done = mpirun(n, "-c", PROGRAM, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["right"]), done.stderr


# -- double sharings ----------------------------------------------------------------------------------------------


@every_group
@pytest.mark.parametrize("count", ["0", "1", "n-T", "n-T+1", "5n"])
def test_double_sharings_share_the_same_values_at_both_degrees(n: int, T: int, count: str) -> None:
    number = {"0": 0, "1": 1, "n-T": n - T, "n-T+1": n - T + 1, "5n": 5 * n}[count]
    results = on_parties(n, T, lambda party: double_sharings(party, number).take(number))
    lows, highs = zip(*results, strict=True)
    secret = recombine(dict(enumerate(lows[: T + 1], 1)), 0, P)
    assert secret.shape == (number,)
    assert_sharing(lows, T, secret)
    assert_sharing(highs, 2 * T, secret)
    assert len(set(secret.tolist())) == number, "values differ between positions"


def test_two_batches_of_double_sharings_have_nothing_in_common() -> None:
    def play(party: Party) -> tuple[np.ndarray, np.ndarray]:
        return double_sharings(party, 30).take(30)[0], double_sharings(party, 30).take(30)[0]

    one, two = zip(*on_parties(5, 2, play), strict=True)
    secrets = [recombine(dict(enumerate(shares[:3], 1)), 0, P).tolist() for shares in (one, two)]
    assert len(set(secrets[0] + secrets[1])) == 60


def test_double_sharings_are_handed_out_once_and_in_order() -> None:
    low, high = np.arange(10, dtype=np.uint32), np.arange(100, 110, dtype=np.uint32)
    doubles = DoubleSharings(low, high)
    taken = [doubles.take(count) for count in (3, 0, 1, 6, 0)]
    assert [part.tolist() for part, _ in taken] == [[0, 1, 2], [], [3], [4, 5, 6, 7, 8, 9], []]
    assert [part.tolist() for _, part in taken] == [[100, 101, 102], [], [103], list(range(104, 110)), []]
    with pytest.raises(ValueError, match="10 were made, 11 are asked for"):
        doubles.take(1)


def test_an_exhausted_source_never_hands_out_again() -> None:
    doubles = DoubleSharings(np.arange(10, dtype=np.uint32), np.arange(10, dtype=np.uint32))
    first = doubles.take(6)[0].tolist()
    with pytest.raises(ValueError, match="double sharings must suffice: 10 were made, 11 are asked for"):
        doubles.take(5)
    later: list[int] = []
    for count in (4, 1, 4):
        try:
            later += doubles.take(count)[0].tolist()
        except ValueError:
            continue
    assert first == [0, 1, 2, 3, 4, 5]
    assert not set(later) & set(first)
    assert len(set(later)) == len(later)


def test_a_reduction_without_enough_double_sharings_is_refused_before_anything_is_sent() -> None:
    def play(party: Party) -> None:
        doubles = double_sharings(party, 9)
        sent = party.ch.meter.bytes_sent.total()
        with pytest.raises(ValueError, match="9 were made, 10 are asked for"):
            reduce_bh08(party, np.zeros(10, np.uint32), doubles)
        assert party.ch.meter.bytes_sent.total() == sent

    on_parties(5, 2, play)


# -- bytes --------------------------------------------------------------------------------------------------------


def header_bytes(message: Message) -> int:
    return len(encode(message)[0])


def metered(protocol: str, n: int, T: int, length: int) -> list[dict[str, Any]]:
    """Bytes and messages that each party sent, by type: of one reduction, and of what went before it."""
    x = values(length, 1)

    def play(party: Party) -> dict[str, Any]:
        (mine,) = shared(party, x)
        reduce = reducer(party, protocol, length)
        meter = party.ch.meter
        before = meter.bytes_sent.copy()
        reduced = reduce(party.field.multiply(mine, mine))
        online = {name: sent - before[name] for name, sent in meter.bytes_sent.items() if sent > before[name]}
        return {"online": online, "offline": before, "messages": meter.messages_sent.copy(), "share": reduced}

    return on_parties(n, T, play)


@pytest.mark.parametrize(("n", "T"), [(3, 1), (7, 3), (8, 2), (21, 10)])
def test_bytes_of_bgw(n: int, T: int) -> None:
    """4(n - 1) for each product and party that deals, and a header for each message."""
    length = 1000
    header = header_bytes(SubShare(np.zeros(length, np.uint32)))
    assert header < 40
    for index, party in enumerate(metered("bgw", n, T, length)):
        expected = {"SubShare": (n - 1) * (4 * length + header)} if index <= 2 * T else {}
        assert party["online"] == expected


@pytest.mark.parametrize(("n", "T"), [(3, 1), (7, 3), (8, 2), (21, 10)])
def test_bytes_of_bh08(n: int, T: int) -> None:
    """A share of 4 bytes to each value's king, and 4(n - 1) bytes as the king of 1/n of them."""
    length = 100 * n
    header = header_bytes(Masked(np.zeros(100, np.uint32)))
    assert header == header_bytes(Opened(np.zeros(100, np.uint32))) < 40
    for index, party in enumerate(metered("bh08", n, T, length)):
        block = (n - 1) * (400 + header)
        expected = {"Masked": block, "Opened": block} if index <= 2 * T else {"Opened": block}
        assert party["online"] == expected
        assert party["messages"]["Masked"] + party["messages"]["Opened"] <= 2 * (n - 1), "O(n) messages"


def test_bytes_of_bh08_per_product_are_constant_in_n() -> None:
    length = 65536
    per_product = {}
    for n in (7, 21):
        sent = [sum(party["online"].values()) / length for party in metered("bh08", n, (n - 1) // 2, length)]
        assert max(sent) <= 10
        assert max(sent) / min(sent) < 1.02, "no king carries more than the others"
        per_product[n] = sum(sent) / n
    assert per_product[21] / per_product[7] < 1.15  # 8(n - 1)/n, and headers


def test_bytes_of_double_sharings() -> None:
    """Two shares to everybody for each n - T double sharings."""
    n, T, count = 7, 3, 1001
    batch = 251
    header = header_bytes(DoubleShare(np.zeros(batch, np.uint32), np.zeros(batch, np.uint32)))
    for party in metered("bh08", n, T, count):
        assert party["offline"]["DoubleShare"] == (n - 1) * (8 * batch + header)
        assert party["messages"]["DoubleShare"] == n - 1


# -- parties that fail or break the protocol ----------------------------------------------------------------------


class Done(Message, tag=1):
    """Everybody → everybody: through."""


def together(party: Party) -> None:
    """Nobody leaves before everybody is through."""
    for rank in party.others:
        party.ch.send(rank, Done())
    party.ch.gather(party.others, Done)


STEPS: dict[str, Callable[[Party], Any]] = {
    "share": lambda party: shared(party, values(9, 1), dealer=2),
    "open": lambda party: open_(party, values(9, 1)),
    "bgw": lambda party: reduce_bgw(party, values(9, 1)),
    "double sharings": lambda party: double_sharings(party, 9),
    "bh08": lambda party: reduce_bh08(party, values(9, 1), DoubleSharings(values(9, 1), values(9, 2))),
}
every_step = pytest.mark.parametrize("step", STEPS)

CULPRIT = 2


def ends_of(n: int, T: int, play: Play, **options: Any) -> list[BaseException | None]:
    """The exception that each party ended with."""
    ends: list[BaseException | None] = [None] * n

    def role(ch: Channel) -> None:
        try:
            play(Party(ch, PrimeField(P), range(n), T, oracles.uniform(P, ch.rank)))
        except BaseException as error:
            ends[ch.rank] = error
            raise

    with pytest.raises(Exception):  # noqa: B017  # which one is the subject of the callers
        run_local([role] * n, **{"timeout_seconds": HANG_SECONDS, **options})
    return ends


def assert_named(ends: list[BaseException | None], text: str) -> None:
    """Everybody but the culprit ends with one line that names it."""
    for rank, end in enumerate(ends):
        if rank != CULPRIT:
            assert isinstance(end, ProtocolError), rank
            assert f"rank {CULPRIT}" in str(end)
            assert text in str(end)
            assert "\n" not in str(end)


@every_step
@pytest.mark.parametrize("when", ["before", "halfway", "after"])
@pytest.mark.parametrize(("n", "T"), [(5, 2), (7, 2)])
def test_a_party_that_raises_ends_the_work_of_everybody(step: str, when: str, n: int, T: int) -> None:
    def play(party: Party) -> None:
        if party.ch.rank == CULPRIT:
            if when == "before":
                raise RuntimeError("out of order")
            if when == "halfway":
                send = party.ch.send

                def failing(dest: int, message: Message) -> None:
                    if party.ch.meter.messages_sent.total() == 2:
                        raise RuntimeError("out of order")
                    send(dest, message)

                party.ch.send = failing  # type: ignore[method-assign]
        STEPS[step](party)
        if party.ch.rank == CULPRIT:
            raise RuntimeError("out of order")
        together(party)

    def mended(party: Party) -> None:
        try:
            play(party)
        finally:  # run_local tells the others by the same channel
            party.ch.__dict__.pop("send", None)

    ends = ends_of(n, T, mended)
    assert isinstance(ends[CULPRIT], RuntimeError)
    assert_named(ends, f"(rank {CULPRIT}) failed: RuntimeError: out of order (")
    assert all(isinstance(end, PeerFailed) for rank, end in enumerate(ends) if rank != CULPRIT)


@every_step
def test_a_party_that_is_silent_is_named_at_the_deadline(step: str) -> None:
    def play(party: Party) -> None:
        if party.ch.rank == CULPRIT:
            party.ch.recv(0, Done)  # which never comes
        party.ch.timeout_seconds = 1.0
        STEPS[step](party)
        together(party)

    ends = ends_of(5, 2, play)
    assert_named(ends, "(rank 2) sent no ")
    assert all(isinstance(end, PeerFailed) for end in ends)


def changed(step: str, change: Callable[[Message], Message], kind: type[Message], victims: set[int]) -> Any:
    """The ends of a step in which the culprit's messages of one type are changed on their way to some."""

    def play(party: Party) -> None:
        if party.ch.rank == CULPRIT:
            send = party.ch.send

            def altered(dest: int, message: Message) -> None:
                send(dest, change(message) if isinstance(message, kind) and dest in victims else message)

            party.ch.send = altered  # type: ignore[method-assign]
        STEPS[step](party)
        together(party)

    return ends_of(5, 2, play)


KINDS: list[tuple[str, type[Message], str]] = [
    ("share", Share, "values"),
    ("open", Share, "values"),
    ("bgw", SubShare, "values"),
    ("double sharings", DoubleShare, "low"),
    ("double sharings", DoubleShare, "high"),
    ("bh08", Masked, "values"),
    ("bh08", Opened, "values"),
]
every_kind = pytest.mark.parametrize(("step", "kind", "name"), KINDS, ids=lambda v: getattr(v, "__name__", v))
every_victim = pytest.mark.parametrize("victims", [{4}, {0, 1, 3, 4}], ids=["one", "all"])


def replacing(kind: type[Message], name: str, array: Callable[[np.ndarray], np.ndarray]) -> Any:
    def change(message: Message) -> Message:
        fields = {field: getattr(message, field) for field in kind._types}
        return kind(**{**fields, name: array(fields[name])})

    return change


@every_kind
@every_victim
@pytest.mark.parametrize(
    "shape",
    [lambda a: a[:-1], lambda a: np.append(a, a[:1]), lambda a: a[:0], lambda a: a[None], lambda a: a[:, None]],
    ids=["shorter", "longer", "empty", "a row", "a column"],
)
def test_a_wrong_shape_is_refused_and_its_sender_named(
    step: str, kind: type[Message], name: str, victims: set[int], shape: Any
) -> None:
    ends = changed(step, replacing(kind, name, shape), kind, victims)
    assert_named(ends, f"{kind.__name__}.{name} from rank {CULPRIT} must have shape (")
    assert any(not isinstance(end, PeerFailed) for end in ends if end is not None)
    assert isinstance(ends[CULPRIT], PeerFailed)


@every_kind
@every_victim
@pytest.mark.parametrize("value", [P, 2**32 - 1])
def test_values_that_are_no_field_elements_are_refused_and_their_sender_named(
    step: str, kind: type[Message], name: str, victims: set[int], value: int
) -> None:
    def spoil(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[-1] = value
        return array

    ends = changed(step, replacing(kind, name, spoil), kind, victims)
    assert_named(ends, f"field elements from rank {CULPRIT} must be below {P}, got {value}")
    assert isinstance(ends[CULPRIT], PeerFailed)


def test_the_largest_element_is_not_refused() -> None:
    """The control of the test above: p - 1 passes."""
    top = np.full(9, P - 1, np.uint32)
    for opened in on_parties(5, 2, lambda party: open_(party, top)):
        np.testing.assert_array_equal(opened, top)


def test_a_message_of_another_protocol_is_not_taken_for_ones_own() -> None:
    """One party believes that the group runs BH08: nobody computes on what it sends."""

    def play(party: Party) -> None:
        party.ch.timeout_seconds = 1.0
        if party.ch.rank == CULPRIT:
            party.ch.timeout_seconds = HANG_SECONDS
            STEPS["bh08"](party)
        else:
            STEPS["bgw"](party)

    assert_named(ends_of(5, 2, play), "(rank 2) sent no SubShare for 1 s")


# -- rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "T"), [(2, 1), (4, 2), (6, 3), (7, 4), (20, 10), (5, 0), (5, -1), (1, 0), (1, 1)])
def test_thresholds_that_products_or_privacy_rule_out(n: int, T: int) -> None:
    def role(ch: Channel) -> None:
        with pytest.raises(UsageError) as error:
            Party(ch, PrimeField(P), range(n), T, oracles.uniform(P, 0))
        assert str(error.value) == f"the threshold must have 1 ≤ T < n/2, got T={T}, n={n}"

    run_local([role] * n, timeout_seconds=HANG_SECONDS)


def test_tags_are_in_the_range_of_the_package_and_different() -> None:
    tags = [kind.tag for kind in (Share, SubShare, DoubleShare, Masked, Opened)]
    assert len(set(tags)) == 5
    assert all(tag in TAGS for tag in tags)
