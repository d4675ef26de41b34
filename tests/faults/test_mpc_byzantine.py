"""Parties that lie about shares that are opened, and kings that lie: corrected, noticed, or not, as documented."""

from collections.abc import Callable, Collection, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import oracles
import pytest

from fedmpi.core import PrimeField, Shamir
from fedmpi.errors import DecodingError, PeerFailed, ProtocolError, UsageError
from fedmpi.mpc import DoubleSharings, Party, double_sharings, open_, reduce_bgw, reduce_bh08
from fedmpi.mpc.bgw import SubShare
from fedmpi.mpc.bh08 import DoubleShare, Masked, Opened, OpenedDigests
from fedmpi.mpc.party import TAGS, Share
from fedmpi.net import Channel, Message, run_local
from fedmpi.net.message import encode

HANG_SECONDS = 20.0
"""No wait of a protocol that works lasts nearly as long."""

P = 2**25 - 39
FIELD = PrimeField(P)
GROUPS = [(n, T) for n in range(4, 10) for T in range(1, (n + 1) // 2)]
every_group = pytest.mark.parametrize(("n", "T"), GROUPS)
FEW = [(n, T) for n, T in GROUPS if n < 8] + [(9, 4)]
"""Where each group has many whole reductions to make: every T of small groups, and the largest."""

Play = Callable[[Party], Any]
Lie = Callable[[Party, int, np.ndarray], np.ndarray]
"""(liar, destination, array) → what is sent instead."""


class Done(Message, tag=1):
    """Everybody → everybody: through."""


def together(party: Party) -> None:
    """Nobody leaves before everybody is through."""
    for rank in party.others:
        party.ch.send(rank, Done())
    party.ch.gather(party.others, Done)


def ends_of(
    n: int,
    T: int,
    byzantine: int,
    play: Play,
    liars: Collection[int] = (),
    lies: dict[type[Message], Lie] | None = None,
    *,
    ranks: Sequence[int] | None = None,
) -> tuple[list[Any], list[dict[int, str]]]:
    """What `play` returns or raises at each member, and whom each corrected.

    The messages of `liars` (positions) are changed on their way.
    """
    ranks = range(n) if ranks is None else ranks
    ends: dict[int, Any] = {}
    corrected: dict[int, dict[int, str]] = {}

    def role(ch: Channel) -> None:
        if ch.rank not in ranks:
            return
        party = Party(ch, FIELD, ranks, T, oracles.uniform(P, 1000 + ch.rank), byzantine)
        corrected[ch.rank] = party.liars
        send = ch.send

        def lying(dest: int, message: Message) -> None:
            if lies and type(message) in lies:
                (name,) = message._types
                message = type(message)(lies[type(message)](party, dest, getattr(message, name)))
            send(dest, message)

        if party.index in liars:
            ch.send = lying  # type: ignore[method-assign]
        try:
            ends[ch.rank] = play(party)
            together(party)
        except BaseException as error:
            ends[ch.rank] = error
            raise
        finally:  # run_local tells the others by the same channel
            ch.__dict__.pop("send", None)

    try:
        run_local([role] * (max(ranks) + 1), timeout_seconds=HANG_SECONDS)
    except ProtocolError:
        assert any(isinstance(end, ProtocolError) for end in ends.values())
    return [ends[rank] for rank in ranks], [corrected[rank] for rank in ranks]


def flip(party: Party, dest: int, array: np.ndarray) -> np.ndarray:
    """One coordinate is wrong."""
    array = array.copy()
    array.reshape(-1)[-1] ^= 1
    return array


def towards(victims: Collection[int], lie: Lie = flip) -> Lie:
    return lambda party, dest, array: lie(party, dest, array) if dest in victims else array


def colluding(honest: Collection[int]) -> Lie:
    """Add values of a polynomial that is 0 for some honest members, and not at 0."""

    def lie(party: Party, dest: int, array: np.ndarray) -> np.ndarray:
        offset = 1
        for index in honest:
            offset = offset * (party.index - index) % P
        return FIELD.add(array, np.full(array.shape, offset, np.uint32))

    return lie


def shared(n: int, degree: int, secret: np.ndarray) -> np.ndarray:
    return Shamir(FIELD, n, degree).share(secret, oracles.uniform(P, 3))


SECRET = oracles.uniform(P, 1)((11,))


def assert_noticed(ends: list[Any], honest: Collection[int]) -> None:
    """Every honest member ends with a line about shares that can't be told apart: its own error, or another's."""
    for index in honest:
        assert isinstance(ends[index], ProtocolError), index
        assert "share" in str(ends[index])
        assert "must " in str(ends[index])
        assert "\n" not in str(ends[index])
    assert any(isinstance(end, DecodingError) for end in ends)


# -- opening ------------------------------------------------------------------------------------------------------


@every_group
@pytest.mark.parametrize("twice", [False, True], ids=["T", "2T"])
def test_one_liar_in_any_position_is_corrected_or_noticed_exactly_where_it_can_be(n: int, T: int, twice: bool) -> None:
    degree = 2 * T if twice else T
    shares = shared(n, degree, SECRET)
    for liar in range(n):
        honest = [i for i in range(n) if i != liar]
        ends, corrected = ends_of(
            n, T, 1, lambda party: open_(party, shares[party.index], degree), [liar], {Share: flip}
        )
        if n >= degree + 1 + 2:
            for i in honest:
                np.testing.assert_array_equal(ends[i], SECRET)
                assert corrected[i] == {liar: "sent a wrong share"}
        elif n >= degree + 1 + 1:
            assert_noticed(ends, honest)
            assert not any(corrected)
        else:
            assert n == degree + 1, "no share to spare"
            for i in honest:
                assert (ends[i] != SECRET).any()


@every_group
@pytest.mark.parametrize("twice", [False, True], ids=["T", "2T"])
def test_as_many_colluding_liars_as_are_to_be_caught(n: int, T: int, twice: bool) -> None:
    """Corrected iff n ≥ d + 1 + 2e, noticed iff n ≥ d + 1 + e: with a share fewer their lie goes through."""
    degree = 2 * T if twice else T
    shares = shared(n, degree, SECRET)
    outcomes = set()
    for e in range(1, n - T):
        for liars in (range(e), range(n - e, n)):
            honest = [i for i in range(n) if i not in liars]
            ends, corrected = ends_of(
                n,
                T,
                e,
                lambda party: open_(party, shares[party.index], degree),
                liars,
                {Share: colluding(honest[:degree])},
            )
            if n >= degree + 1 + 2 * e:
                outcomes.add("corrected")
                for i in honest:
                    np.testing.assert_array_equal(ends[i], SECRET)
                    assert corrected[i].keys() == set(liars)
            elif n >= degree + 1 + e:
                outcomes.add("noticed")
                assert_noticed(ends, honest)
            else:
                outcomes.add("passed")
                for i in honest:
                    assert (ends[i] != SECRET).any()
    expected = {"corrected"} if n >= degree + 3 else set()
    expected |= {"noticed"} if any(n < degree + 1 + 2 * e and n >= degree + 1 + e for e in range(1, n - T)) else set()
    expected |= {"passed"} if n < degree + 1 + (n - T - 1) else set()
    assert outcomes == expected


def test_fewer_liars_than_are_to_be_caught_are_corrected_as_far_as_the_others_stay_noticed() -> None:
    """9 shares of degree 2, e = 4: 2 are corrected, 3 and 4 noticed; a decoder for 3 would believe 4."""
    shares = shared(9, 2, SECRET)
    for count in range(5):
        liars, honest = range(9 - count, 9), range(9 - count)
        ends, corrected = ends_of(
            9, 2, 4, lambda party: open_(party, shares[party.index]), liars, {Share: colluding(honest[:2])}
        )
        if count <= 2:
            for i in honest:
                np.testing.assert_array_equal(ends[i], SECRET)
                assert corrected[i].keys() == set(liars)
        else:
            assert_noticed(ends, honest)


def test_a_liar_that_lies_to_one_party_only_is_corrected_or_noticed_there() -> None:
    shares = shared(6, 2, SECRET)
    for victim in (0, 5):
        ends, corrected = ends_of(
            6, 2, 1, lambda party: open_(party, shares[party.index]), [3], {Share: towards([victim])}
        )
        assert [liars.keys() for liars in corrected] == [{3} if i == victim else set() for i in range(6)]
        for end in ends:
            np.testing.assert_array_equal(end, SECRET)
    shares = shared(6, 4, SECRET)
    ends, _ = ends_of(6, 2, 1, lambda party: open_(party, shares[party.index], 4), [3], {Share: towards([5])})
    assert isinstance(ends[5], DecodingError)
    assert str(ends[5]) == (
        "share from ranks [0, 1, 2, 3, 4, 5]: all of 6 shares must lie on one polynomial of degree 4, got others: "
        "too few shares to tell which are wrong"
    )


def test_liars_are_named_by_their_ranks() -> None:
    ranks = [5, 0, 3, 1, 6]
    shares = shared(5, 1, SECRET)
    ends, corrected = ends_of(5, 1, 1, lambda party: open_(party, shares[party.index]), [0], {Share: flip}, ranks=ranks)
    for i in range(1, 5):
        np.testing.assert_array_equal(ends[i], SECRET)
        assert corrected[i].keys() == {5}


def test_a_party_whose_own_share_is_wrong_finds_itself_among_the_wrong() -> None:
    shares = shared(5, 1, SECRET)
    shares[2, 0] ^= 1
    ends, corrected = ends_of(5, 1, 1, lambda party: open_(party, shares[party.index]))
    for end, liars in zip(ends, corrected, strict=True):
        np.testing.assert_array_equal(end, SECRET)
        assert liars.keys() == {2}


# -- degree reduction with kings ----------------------------------------------------------------------------------

LENGTH = 23


def reduction(n: int, T: int, length: int = LENGTH) -> tuple[Play, np.ndarray]:
    """Reduce and open shares of degree 2T; and what must come out."""
    secret = oracles.uniform(P, 2)((length,))
    shares = shared(n, 2 * T, secret)

    def play(party: Party) -> tuple[np.ndarray, np.ndarray]:
        doubles = double_sharings(party, length)
        reduced = reduce_bh08(party, shares[party.index], doubles)
        return reduced, open_(party, reduced)

    return play, secret


@pytest.mark.parametrize(("n", "T"), FEW)
def test_honest_parties_compute_the_same_bits_whether_liars_are_to_be_caught_or_not(n: int, T: int) -> None:
    for length in (0, 1, n - 1, LENGTH):
        play, secret = reduction(n, T, length)
        plain, _ = ends_of(n, T, 0, play)
        for e in range(1, n - T):
            checked, corrected = ends_of(n, T, e, play)
            assert not any(corrected)
            for (share, opened), (share_plain, opened_plain) in zip(checked, plain, strict=True):
                np.testing.assert_array_equal(share, share_plain)
                np.testing.assert_array_equal(opened, opened_plain)
                np.testing.assert_array_equal(opened, secret)


@pytest.mark.parametrize(("n", "T"), FEW)
def test_one_party_in_any_position_lies_to_the_kings(n: int, T: int) -> None:
    play, secret = reduction(n, T)
    for liar in range(n):
        honest = [i for i in range(n) if i != liar]
        ends, corrected = ends_of(n, T, 1, play, [liar], {Masked: flip})
        if n >= 2 * T + 1 + 2:
            for i in range(n):
                np.testing.assert_array_equal(ends[i][1], secret)
            for i in honest:
                assert corrected[i] == {liar: "sent a wrong share of x - ρ"}
        elif n >= 2 * T + 1 + 1:
            assert_noticed(ends, honest)
            assert not any(corrected)
        else:
            assert all((ends[i][1] != secret).any() for i in honest)


@pytest.mark.parametrize(("n", "T", "e"), [(7, 1, 2), (9, 1, 3), (9, 2, 2)])
def test_several_colluding_parties_lie_to_the_kings_and_in_openings(n: int, T: int, e: int) -> None:
    play, secret = reduction(n, T)
    for liars in ([*range(e)], [*range(n - e, n)], [*range(1, n, 2)][:e]):
        honest = [i for i in range(n) if i not in liars]
        lies = {Masked: colluding(honest[: 2 * T]), Share: colluding(honest[:T])}
        ends, corrected = ends_of(n, T, e, play, liars, lies)
        for i in honest:
            np.testing.assert_array_equal(ends[i][1], secret)
            assert corrected[i].keys() == set(liars)


def test_a_liar_in_a_long_computation_changes_nothing() -> None:
    """x^16, with lies in every message to a king and in the opening."""
    x = oracles.uniform(P, 4)((13,))
    shares = shared(7, 2, x)

    def play(party: Party) -> np.ndarray:
        doubles = double_sharings(party, 4 * 13)
        power = shares[party.index]
        for _ in range(4):
            power = reduce_bh08(party, FIELD.multiply(power, power), doubles)
        return open_(party, power)

    expected = [pow(v, 16, P) for v in x.tolist()]
    for liar in (0, 4, 6):
        ends, corrected = ends_of(7, 2, 1, play, [liar], {Masked: flip, Share: flip})
        for i in range(7):
            if i != liar:
                assert ends[i].tolist() == expected
                assert corrected[i] == {liar: "sent a wrong share of x - ρ"}


# -- lying kings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "T"), FEW)
def test_a_king_in_any_position_that_opens_different_values_is_named(n: int, T: int) -> None:
    """It needs no share to spare, and nobody else is accused."""
    play, _ = reduction(n, T)
    for king in range(n):
        others = [i for i in range(n) if i != king]
        for victims in (others[:1], others[-1:], others[: n // 2]):
            ends, _ = ends_of(n, T, 1, play, [king], {Opened: towards(victims)})
            own = 0
            for end in ends:
                assert isinstance(end, ProtocolError)
                assert f"king (rank {king}) must open the same values to all parties, got others at ranks [" in str(end)
                assert str(end).count("king (") == 1
                own += str(end).startswith("king (")
            assert own >= 1, "somebody found out"


def test_the_parties_that_got_other_values_are_named_with_the_king() -> None:
    play, _ = reduction(5, 2)
    ends, _ = ends_of(5, 2, 1, play, [1], {Opened: towards([0, 3])})
    rule = "king (rank 1) must open the same values to all parties, got others at ranks"
    seen = [f"{rule} {ranks}" for ranks in ([1, 2, 4], [0, 3], [0, 3], [1, 2, 4], [0, 3])]
    for end, own in zip(ends, seen, strict=True):
        if isinstance(end, PeerFailed):  # another was faster
            assert str(end).endswith(tuple(seen))
        else:
            assert str(end) == own


def test_every_king_that_lies_is_named() -> None:
    play, _ = reduction(6, 1)
    ends, _ = ends_of(6, 1, 2, play, [1, 4], {Opened: towards([0])})
    assert str(ends[0]).count("must open") == 2
    assert "king (rank 1)" in str(ends[0])
    assert "king (rank 4)" in str(ends[0])


def test_a_party_that_lies_about_what_it_got_is_named_with_every_king() -> None:
    play, _ = reduction(5, 1)

    def spoiled(party: Party, dest: int, array: np.ndarray) -> np.ndarray:
        return array ^ np.uint8(1)

    ends, _ = ends_of(5, 1, 1, play, [3], {OpenedDigests: spoiled})
    for i in (0, 1, 2, 4):
        for king in range(5):
            assert f"king (rank {king}) must open the same values to all parties, got others at ranks [3]" in str(
                ends[i]
            )


def test_digests_of_another_shape_are_refused_and_their_sender_named() -> None:
    play, _ = reduction(5, 1)
    for shape in (lambda a: a[:-1], lambda a: a[:, :31], lambda a: a[:0], lambda a: a.reshape(-1)):
        ends, _ = ends_of(5, 1, 1, play, [3], {OpenedDigests: lambda party, dest, array, shape=shape: shape(array)})
        for i in (0, 1, 2, 4):
            assert isinstance(ends[i], ProtocolError)
            assert "OpenedDigests.digests from rank 3 must have shape (5, 32), got" in str(ends[i])


@pytest.mark.parametrize("value", [P, 2**32 - 1])
@pytest.mark.parametrize("kind", [Share, Masked, Opened])
def test_what_is_no_field_element_is_refused_and_not_corrected(kind: type[Message], value: int) -> None:
    def spoil(party: Party, dest: int, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[-1] = value
        return array

    play, _ = reduction(7, 1)
    ends, _ = ends_of(7, 1, 2, play, [2], {kind: spoil})
    for i in (0, 1, 3, 4, 5, 6):
        assert f"field elements from rank 2 must be below {P}, got {value}" in str(ends[i])


# -- what is not covered ------------------------------------------------------------------------------------------


def test_a_king_that_opens_the_same_wrong_value_to_everybody_is_believed() -> None:
    """A limit, and documented: if this fails the documentation is out of date."""
    play, secret = reduction(7, 1)

    def play_with_lying_king(party: Party) -> Any:
        corrected = party.corrected
        if party.index == 3:
            party.corrected = lambda *args: flip(party, 0, corrected(*args))  # type: ignore[method-assign]
        return play(party)

    ends, corrected = ends_of(7, 1, 2, play_with_lying_king)
    for i in (0, 1, 2, 4, 5, 6):
        assert np.flatnonzero(ends[i][1] != secret).tolist() == [LENGTH * 4 // 7 - 1], "the last of the king's block"
    assert not any(corrected)


def test_wrong_subshares_of_bgw_give_a_wrong_product() -> None:
    """A limit, and documented."""
    secret = oracles.uniform(P, 2)((LENGTH,))
    shares = shared(7, 2, secret)

    def play(party: Party) -> np.ndarray:
        return open_(party, reduce_bgw(party, shares[party.index]))

    def offset(party: Party, dest: int, array: np.ndarray) -> np.ndarray:
        return FIELD.add(array, np.uint32(1))

    ends, corrected = ends_of(7, 1, 2, play, [0], {SubShare: offset})
    assert all((end != secret).all() for end in ends[1:])
    assert all(liars.keys() <= {0} for liars in corrected)


def test_a_wrong_double_sharing_gives_a_wrong_product() -> None:
    """A limit, and documented."""
    play, secret = reduction(7, 1)

    def play_with_wrong_dealer(party: Party) -> Any:
        send = party.ch.send

        def offset(dest: int, message: Message) -> None:
            if isinstance(message, DoubleShare) and party.index == 0:
                message = DoubleShare(FIELD.add(message.low, np.ones_like(message.low)), message.high)
            send(dest, message)

        party.ch.send = offset  # type: ignore[method-assign]
        return play(party)

    ends, _ = ends_of(7, 1, 2, play_with_wrong_dealer)
    assert all((end[1] != secret).any() for end in ends[1:])


# -- bytes, rules, MPI --------------------------------------------------------------------------------------------


def test_bytes_with_and_without_liars_to_be_caught() -> None:
    """Without: 2T + 1 senders and no digest. With: n senders, and a digest of each block to everybody."""
    n, T, length = 7, 1, 700

    def play(party: Party) -> dict[str, int]:
        doubles = DoubleSharings(np.zeros(length, np.uint32), np.zeros(length, np.uint32))
        reduce_bh08(party, np.zeros(length, np.uint32), doubles)
        open_(party, np.zeros(100, np.uint32))
        sent = dict(party.ch.meter.bytes_sent)
        sent.pop("Done", None)
        return sent

    header = len(encode(Masked(np.zeros(100, np.uint32)))[0])
    block = (n - 1) * (400 + header)
    plain, _ = ends_of(n, T, 0, play)
    for index, sent in enumerate(plain):
        senders = {"Masked": block, "Opened": block} if index <= 2 * T else {"Opened": block}
        assert sent == (senders | {"Share": block} if index <= T else senders)
    digests = OpenedDigests(np.zeros((n, 32), np.uint8))
    digest = (n - 1) * (32 * n + len(encode(digests)[0]))
    checked, _ = ends_of(n, T, 2, play)
    for sent in checked:
        assert sent == {"Masked": block, "Opened": block, "OpenedDigests": digest, "Share": block}


def test_nothing_is_compared_where_nothing_was_opened() -> None:
    def play(party: Party) -> int:
        reduce_bh08(party, np.zeros(0, np.uint32), double_sharings(party, 0))
        return party.ch.meter.messages_sent["OpenedDigests"]

    assert ends_of(5, 1, 1, play)[0] == [0] * 5


@pytest.mark.parametrize(("n", "T", "e"), [(5, 1, -1), (5, 1, 4), (5, 2, 3), (9, 4, 5)])
def test_more_liars_than_could_be_noticed_are_refused(n: int, T: int, e: int) -> None:
    def role(ch: Channel) -> None:
        with pytest.raises(UsageError) as error:
            Party(ch, FIELD, range(n), T, oracles.uniform(P, 0), e)
        assert str(error.value) == f"the number of liars e must have 0 ≤ e < n - T, got e={e}, n={n}, T={T}"

    run_local([role] * n, timeout_seconds=HANG_SECONDS)


def test_the_tag_is_in_the_range_of_the_package_and_its_own() -> None:
    tags = [kind.tag for kind in (Share, SubShare, DoubleShare, Masked, Opened, OpenedDigests)]
    assert len(set(tags)) == 6
    assert all(tag in TAGS for tag in tags)


PROGRAM = """
import numpy as np
from fedmpi.core import PrimeField
from fedmpi.crypto.random import FieldRandom
from fedmpi.mpc import Party, double_sharings, open_, reduce_bh08, share
from fedmpi.mpc.bh08 import Masked
from fedmpi.net.mpi import job

with job(timeout_seconds=30.0) as ch:
    field = PrimeField()
    party = Party(ch, field, range(ch.size), 1, FieldRandom(field.p), byzantine=1)
    secret = np.arange(100_003, dtype=np.uint32) * np.uint32(330)
    x = share(party, 4, secret.shape, secret if ch.rank == 4 else None)
    doubles = double_sharings(party, 3 * len(secret))
    send = ch.send
    if ch.rank == 2:
        ch.send = lambda dest, m: send(dest, Masked(m.values ^ np.uint32(1)) if isinstance(m, Masked) else m)
    power = x
    for _ in range(3):
        power = reduce_bh08(party, field.multiply(power, x), doubles)
    opened = open_(party, power)
    if not (opened == secret.astype(object) ** 4 % field.p).all():
        raise ValueError("the opened powers are wrong")
    if ch.rank == 0:
        print("right", *party.liars)
"""


def test_mpi_ranks_correct_a_liar(mpirun: Callable[..., Any]) -> None:
    done = mpirun(5, "-c", PROGRAM, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["right", "2"]), done.stderr


def test_pairs_of_liars_in_any_position_are_corrected() -> None:
    shares = shared(7, 2, SECRET)
    for liars in combinations(range(7), 2):
        honest = [i for i in range(7) if i not in liars]
        ends, corrected = ends_of(7, 2, 2, lambda party: open_(party, shares[party.index]), liars, {Share: flip})
        for i in honest:
            np.testing.assert_array_equal(ends[i], SECRET)
            assert corrected[i].keys() == set(liars)
