"""Masks against independent implementations, keys that two parties alone share, and each mask handed out once."""

import hashlib
import hmac
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedmpi.crypto import masks
from fedmpi.crypto.keys import KeyPair, derive
from fedmpi.crypto.masks import KINDS, MaskStream, mask_words
from fedmpi.errors import ProtocolError

KEY = bytes(range(32))
COUNTS = [0, 1, 3, 4, 5, 1 << 16, (1 << 16) + 3, 200_001]


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 by hand, for 32 bytes."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def digests(key: bytes, round: int, count: int) -> bytes:
    blocks = range(1, -(-count // 4) + 1)
    message = round.to_bytes(8, "big")
    return b"".join(hmac.digest(key, message + block.to_bytes(4, "big"), "sha256") for block in blocks)


def keystream(kind: str, key: bytes, round: int, count: int) -> bytes:
    stream_key = hkdf(key, b"fedmpi mask stream " + round.to_bytes(8, "big"))
    if kind == "chacha20":
        cipher = Cipher(algorithms.ChaCha20(stream_key, bytes(16)), None)
    else:
        cipher = Cipher(algorithms.AES256(stream_key), modes.CTR(bytes(16)))
    return cipher.encryptor().update(bytes(8 * count))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", COUNTS)
def test_masks_are_what_the_docstring_says(kind, count):
    raw = digests(KEY, 7, count) if kind == "sha256" else keystream(kind, KEY, 7, count)
    np.testing.assert_array_equal(mask_words(kind, KEY, 7, count), np.frombuffer(raw[: 8 * count], "<u8"))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_differ_by_key_round_and_kind(kind):
    masks = [mask_words(kind, key, round, 1000) for key in (KEY, bytes(32)) for round in (0, 1, 2**40)]
    masks += [mask_words(other, KEY, 0, 1000) for other in KINDS if other != kind]
    words = np.concatenate(masks)
    assert len(np.unique(words)) == len(words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_handed_out_once(kind):
    stream = MaskStream(KEY, kind)
    stream.prepare(range(3, 6), 10)
    stream.prepare(range(3, 9), 10)
    np.testing.assert_array_equal(stream.take(3, 10), mask_words(kind, KEY, 3, 10))
    for round in (3, 2):
        with pytest.raises(ValueError, match=f"must be at least 4, got {round}: a mask is used once"):
            stream.take(round, 10)
    stream.prepare(range(2, 5), 10)
    np.testing.assert_array_equal(stream.take(5, 12), mask_words(kind, KEY, 5, 12))  # another size than prepared
    assert not stream._ready


def test_no_mask_is_made_twice(monkeypatch):
    made = []
    monkeypatch.setattr(masks, "mask_words", lambda kind, key, round, count: made.append(round))
    stream = MaskStream(KEY, "aes-ctr")
    for rounds in (range(3, 6), range(3, 9), range(2, 8), range(0)):
        stream.prepare(rounds, 10)
    assert made == [3, 4, 5, 2, 6, 7]


# -- keys ---------------------------------------------------------------------------------------------------------


def test_both_ends_have_the_same_key_and_nobody_else():
    one, two, other = KeyPair(), KeyPair(), KeyPair()
    key = one.shared(two.public, info=b"a")
    assert two.shared(one.public, info=b"a") == key
    assert len(key) == 32
    different = [
        one.shared(two.public, info=b"b"),
        one.shared(two.public, info=b"a", salt=b"s"),
        one.shared(other.public, info=b"a"),
        other.shared(two.public, info=b"a"),
    ]
    assert len({key, *different}) == 5


def test_a_key_pair_is_fresh():
    publics = sorted(KeyPair().public for _ in range(20))
    assert all(a != b for a, b in pairwise(publics))


@pytest.mark.parametrize(
    ("public", "text"),
    [(b"", "must be 32 bytes, got 0"), (bytes(31), "got 31"), (bytes(32), "low order"), (b"\1" + bytes(31), "low or")],
)
def test_a_public_key_that_is_none_is_refused(public, text):
    with pytest.raises(ProtocolError, match=text):
        KeyPair().shared(public, info=b"a")


def test_derive_is_hkdf():
    assert derive(KEY, info=b"i") == hkdf(KEY, b"i")
    assert derive(KEY, info=b"i", salt=b"s") == hmac.digest(hmac.digest(b"s", KEY, hashlib.sha256), b"i\1", "sha256")
