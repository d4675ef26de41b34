"""Uniform field elements: uniform, rejected, never repeated."""

from dataclasses import dataclass, field

import numpy as np
import oracles
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from fedmpi.crypto import random as crypto_random
from fedmpi.crypto.random import FieldRandom, SecretStream

PRIMES = [2**25 - 39, 2**26 - 5, 2**31 - 1, 131, 25165813]
KEY = bytes(range(32))


@dataclass
class Listed:
    """A stream of given words, and a record of how many were asked for."""

    values: list[int]
    asked: list[int] = field(default_factory=list)

    def words(self, count):
        self.asked.append(count)
        words, self.values = self.values[:count], self.values[count:]
        assert len(words) == count, "the listed words are used up"
        return np.array(words, np.uint32)


class WithoutRejection(FieldRandom):
    def __call__(self, shape):
        return (self._stream.words(int(np.prod(shape))) & self._mask).astype(np.uint32)


class Modulo(FieldRandom):
    def __call__(self, shape):
        return (self._stream.words(int(np.prod(shape))) & self._mask) % np.uint32(self.p)


class Clamped(FieldRandom):
    def __call__(self, shape):
        return np.minimum(self._stream.words(int(np.prod(shape))) & self._mask, self.p - 1)


def assert_uniform(random, p):
    values = np.concatenate([random((50_000,)) for _ in range(4)])
    assert values.dtype == np.uint32
    assert values.max() < p
    assert oracles.p_value_uniform(values[None, :], p, min(p, 257)) > oracles.ALARM
    pairs = values.reshape(2, -1)  # neighbours in time and place, jointly
    assert oracles.p_value_uniform(pairs, p, 16) > oracles.ALARM


@pytest.mark.parametrize("p", PRIMES)
def test_elements_are_uniform_singly_and_in_pairs(p):
    assert_uniform(FieldRandom(p, SecretStream(KEY)), p)


@pytest.mark.parametrize("mutant", [WithoutRejection, Modulo, Clamped])
@pytest.mark.parametrize("p", [131, 25165813])  # a half or a quarter of the masked words is rejected
def test_the_check_sees_missing_rejection(mutant, p):
    with pytest.raises(AssertionError):
        assert_uniform(mutant(p, SecretStream(KEY)), p)


@pytest.mark.parametrize("p", PRIMES)
def test_every_bit_has_its_share_of_ones(p):
    n = 200_000
    values = np.concatenate([FieldRandom(p, SecretStream(bytes([i] * 32)))((n // 4,)) for i in range(4)])
    for bit in range(p.bit_length()):
        period, rest = divmod(p, 2 << bit)
        ones = period * (1 << bit) + max(0, rest - (1 << bit))  # elements of F_p with this bit set
        count = int((values >> bit & 1).sum())
        assert stats.binomtest(count, n, ones / p).pvalue > oracles.ALARM, f"bit {bit}"
    assert not (values >> p.bit_length()).any()


def test_words_at_or_above_the_prime_are_redrawn_until_they_fit_and_the_others_stay():
    stream = Listed([7, 1, 6, 2, 5, 3, 7, 4])
    np.testing.assert_array_equal(FieldRandom(5, stream)((4,)), [4, 1, 3, 2])
    assert stream.asked == [4, 2, 1, 1]


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 2 * 65536 + 1])
def test_every_element_is_a_word_of_its_own_whatever_the_size(size):
    values = FieldRandom(2**31 - 1, Listed(list(range(size))))((size,))
    np.testing.assert_array_equal(values, np.arange(size))


def test_only_the_bits_of_the_prime_are_used():
    stream = Listed([0xFFFFFFF8 | 3, 0x80000000 | 6, 0x10 | 4, 8])
    np.testing.assert_array_equal(FieldRandom(5, stream)((3,)), [3, 0, 4])


def test_the_prime_itself_is_rejected_and_the_largest_element_is_not():
    p = 2**31 - 1
    np.testing.assert_array_equal(FieldRandom(p, Listed([p, p - 1, 0]))((2,)), [0, p - 1])


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (7,), (2, 3, 4), (65536,), (65537,), (3, 70_001)])
def test_the_shape_is_that_asked_for(shape):
    result = FieldRandom(2**25 - 39, SecretStream(KEY))(shape)
    assert result.shape == shape
    assert result.dtype == np.uint32
    assert result.size == 0 or int(result.max()) < 2**25 - 39


def test_large_arrays_are_random_up_to_the_last_element_and_repeat_no_chunk():
    values = FieldRandom(2**31 - 1, SecretStream(KEY))((3 * 65536 + 7,))
    chunks = values[: 3 * 65536].reshape(3, 65536)
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert (chunks[a] == chunks[b]).sum() < 5
    assert len(set(values[-7:].tolist())) == 7


def test_nothing_comes_twice_from_one_source_or_from_two():
    one, two = FieldRandom(2**25 - 39), FieldRandom(2**25 - 39)
    drawn = [one((8,)), one((8,)), two((8,)), two((8,))]
    for i, first in enumerate(drawn):
        for second in drawn[i + 1 :]:
            assert (first != second).any()


def test_what_was_drawn_does_not_change_when_more_is_drawn():
    random = FieldRandom(2**25 - 39, SecretStream(KEY))
    first = random((1000,))
    before = first.copy()
    random((1000,))
    np.testing.assert_array_equal(first, before)


def test_an_insecure_key_repeats_and_another_does_not():
    first, again = (FieldRandom(2**25 - 39, SecretStream(KEY)) for _ in range(2))
    other = FieldRandom(2**25 - 39, SecretStream(bytes(32)))
    for shape in [(5,), (70_000,), (2, 3)]:
        a, b, c = first(shape), again(shape), other(shape)
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_the_key_comes_from_the_operating_system_and_is_new_for_every_stream(monkeypatch):
    keys = [KEY, bytes(32)]
    monkeypatch.setattr(crypto_random.os, "urandom", lambda size: keys.pop()[:size])
    for key in (bytes(32), KEY):
        np.testing.assert_array_equal(SecretStream().words(64).copy(), SecretStream(key).words(64))
    assert keys == []


def test_the_stream_is_the_aes_256_counter_mode_keystream_however_it_is_drawn():
    stream = SecretStream(KEY)
    words = np.concatenate([stream.words(count).copy() for count in (1, 6, 9, 65536, 3, 500)])
    blocks = b"".join(i.to_bytes(16, "big") for i in range(len(words) * 4 // 16 + 1))
    encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    np.testing.assert_array_equal(words, np.frombuffer(encryptor.update(blocks), np.uint32)[: len(words)])


def test_numbered_streams_are_parts_of_one_keystream_that_are_far_apart():
    encryptor = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    for number in (0, 1, 7 << 32 | 5, 2**64 - 1):
        blocks = b"".join(((number << 64) + i).to_bytes(16, "big") for i in range(4))
        expected = np.frombuffer(encryptor.update(blocks), np.uint32)
        np.testing.assert_array_equal(SecretStream(KEY, number).words(16), expected)


@pytest.mark.parametrize("excess", [1, 3, 4, 1000])
def test_the_stream_refuses_more_words_than_it_can_fill(excess):
    with pytest.raises(ValueError):
        SecretStream(KEY).words(65536 + excess)
