"""Envelopes: one receiver, one sender, one place; anything else is refused."""

import pytest

from fedmpi.crypto.envelope import OVERHEAD, seal, unseal
from fedmpi.crypto.keys import KeyPair
from fedmpi.errors import ProtocolError


def test_only_the_receiver_opens_it_and_only_for_its_place() -> None:
    alice, bob, eve = KeyPair(), KeyPair(), KeyPair()
    contents = bytes(range(32))
    envelope = seal(alice, bob.public, b"round 1", contents)
    assert len(envelope) == len(contents) + OVERHEAD
    assert unseal(bob, alice.public, b"round 1", envelope) == contents
    for pair, sender, context, what in (
        (eve, alice.public, b"round 1", envelope),
        (bob, eve.public, b"round 1", envelope),
        (bob, alice.public, b"round 2", envelope),
        (bob, alice.public, b"round 1", envelope[:-1] + bytes([envelope[-1] ^ 1])),
        (bob, alice.public, b"round 1", b""),
        (alice, bob.public, b"round 1", envelope),  # sent back
    ):
        with pytest.raises(ProtocolError, match="an envelope must be sealed by its sender for its place"):
            unseal(pair, sender, context, what)


def test_envelopes_of_other_places_have_other_keys() -> None:
    """The nonce is zero: under one key equal contents would look equal."""
    alice, bob = KeyPair(), KeyPair()
    one, two, back = seal(alice, bob.public, b"1", bytes(64)), seal(alice, bob.public, b"2", bytes(64)), None
    back = seal(bob, alice.public, b"1", bytes(64))
    assert len({one[:32], two[:32], back[:32]}) == 3


def test_keys_that_are_none_are_refused() -> None:
    for key, text in ((bytes(31), "must be 32 bytes, got 31"), (bytes(32), "must not be of low order")):
        with pytest.raises(ProtocolError, match=text):
            seal(KeyPair(), key, b"", b"")
