"""Secure sums: exact whoever is lost, once only, and refused where too few are left."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmpi.errors import HeadroomError, ProtocolError, UsageError
from fedmpi.securesum.double_masking import DoubleMasking
from fedmpi.securesum.lightsecagg import LightSecAgg
from fedmpi.securesum.scheme import Member, Scheme

N, U, T, BITS = 7, 4, 2, 40


def schemes(length: int) -> list[Scheme]:
    return [DoubleMasking(N, U, length), LightSecAgg(N, U, T, length)]


def gathered(scheme: Scheme, numbers: Iterable[int]) -> tuple[dict[int, Member], dict[int, bytes]]:
    """Members that have exchanged their envelopes."""
    there = {k: scheme.member(k, 3) for k in numbers}
    publics = {k: member.public for k, member in there.items()}
    assert {len(public) for public in publics.values()} == {scheme.public_bytes}
    for sender, envelopes in {k: member.envelopes(publics) for k, member in there.items()}.items():
        for receiver, envelope in envelopes.items():
            assert len(envelope) == scheme.envelope_bytes
            there[receiver].accept(sender, envelope)
    return there, publics


@pytest.mark.parametrize("which", [0, 1])
@settings(max_examples=10, deadline=None)
@given(
    sharers=st.sets(st.integers(0, N - 1), min_size=U),
    lost=st.sets(st.integers(0, N - 1), max_size=N - U),
    length=st.integers(1, 9),
)
def test_the_sum_is_that_of_the_survivors(which: int, sharers: set[int], lost: set[int], length: int) -> None:
    """Some never share, others are lost after that; the reals come back as if they had been added exactly."""
    survivors = frozenset(sharers - lost)
    if len(survivors) < U:
        return
    scheme = schemes(length)[which]
    there, publics = gathered(scheme, sorted(sharers))
    values = np.rint(np.random.default_rng(length).normal(size=(N, length)) * 2.0**BITS) / 2.0**BITS
    total = np.zeros(scheme.words, scheme.dtype)
    for k in survivors:
        total = scheme.add(total, there[k].mask(scheme.encode(values[k], BITS, N)))
    told = {k: there[k].tell(survivors) for k in sorted(survivors)[-U:]}
    assert {row.size for row in told.values()} == {scheme.told(len(sharers))}
    opened = scheme.decode(scheme.unmask(total, 3, publics, survivors, told), BITS)
    np.testing.assert_array_equal(opened, values[sorted(survivors)].sum(axis=0))
    with pytest.raises(ProtocolError, match="at least 4 members must tell"):
        scheme.unmask(total, 3, publics, survivors, dict(list(told.items())[1:]))


@pytest.mark.parametrize("which", [0, 1])
def test_what_a_member_refuses(which: int) -> None:
    scheme = schemes(3)[which]
    there, _ = gathered(scheme, range(N))
    words = scheme.encode(np.ones(3), BITS, N)
    alone = scheme.member(0, 3)
    alone.envelopes({0: alone.public})
    with pytest.raises(ProtocolError, match="at least 4 members must share, got 1"):
        alone.mask(words)
    with pytest.raises(ValueError, match="a member must deal its secrets once"):
        there[0].envelopes({})
    there[0].mask(words)
    with pytest.raises(ValueError, match="a mask is used once"):
        there[0].mask(words)
    for wrong in ([0, 1, 2], [0, 1, 2, 9], [1, 2, 3, 4]):
        with pytest.raises(ProtocolError, match="survivors must be at least 4 of"):
            there[0].tell(frozenset(wrong))
    there[0].tell(frozenset([0, 1, 2, 3]))
    with pytest.raises(ProtocolError, match="asked once in round 3, got a second list of survivors"):
        there[0].tell(frozenset([0, 1, 2, 4]))
    with pytest.raises(ProtocolError, match="must come from another member"):
        there[0].accept(0, b"")
    with pytest.raises(ProtocolError):
        there[0].accept(1, bytes(scheme.envelope_bytes))
    with pytest.raises(HeadroomError, match="must be below"):
        scheme.encode(np.array([1.0, np.inf, 2.0]), BITS, N)


def test_words_that_are_no_residues() -> None:
    scheme = schemes(2)[1]
    with pytest.raises(ProtocolError, match="words must be residues modulo"):
        scheme.add(np.zeros(4, np.uint32), np.full(4, 2**31, np.uint32))


@pytest.mark.parametrize("least", [(0, 4), (4, 4), (2, 8)])
def test_thresholds_that_hide_nothing_or_cannot_be_met(least: tuple[int, int]) -> None:
    """With T = 0 a piece of a mask would lie open at a single member."""
    colluding, threshold = least
    with pytest.raises(UsageError, match="must have 1 ≤ T < U ≤ N"):
        LightSecAgg(N, threshold, colluding, 5)
