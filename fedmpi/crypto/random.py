"""Cryptographically secure uniform numbers, fast enough to mask data sets."""

import os
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_CHUNK = 1 << 16  # words per step: everything stays in the second-level cache
_ZEROS = bytes(4 * _CHUNK)


def fresh_seed() -> bytes:
    """32 secret bytes from the operating system."""
    return os.urandom(32)


class Stream(Protocol):
    """A source of uniform random words."""

    def words(self, count: int) -> NDArray[np.uint32]:
        """`count` independent uniform uint32."""
        ...


class SecretStream:
    """The AES-256-CTR keystream under a fresh key from the operating system.

    Parameters
    ----------
    key : bytes, optional
        32 bytes that make the stream repeatable: a secret seed, as of `fresh_seed`. Anything else is for tests only,
        for whoever knows the key knows every mask.
    number : int
        Below 2^64. Streams of one key with different numbers are parts of its keystream that do not overlap.

    Notes
    -----
    One stream never repeats; two streams have independent keys. A forked process must make its own.
    """

    def __init__(self, key: bytes | None = None, number: int = 0):
        key = fresh_seed() if key is None else key
        first_block = number.to_bytes(8, "big") + bytes(8)
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(first_block)).encryptor()
        self._buffer = bytearray(4 * _CHUNK + 15)  # update_into wants room for one block more

    def words(self, count: int) -> NDArray[np.uint32]:
        """`count` independent uniform uint32 (at most 65536); valid until the next call."""
        if count > _CHUNK:
            raise ValueError(f"words drawn at once must be at most {_CHUNK}, got {count}")
        size = 4 * count
        self._encryptor.update_into(memoryview(_ZEROS)[:size], self._buffer)
        return np.frombuffer(self._buffer, np.uint32, count)


class FieldRandom:
    """Uniform elements of F_p by rejection: words masked to the bits of p, redrawn while they are ≥ p.

    Parameters
    ----------
    p : int
        The prime, below 2^31.
    stream : Stream, optional
        Default: a fresh `SecretStream`.
    """

    def __init__(self, p: int, stream: Stream | None = None):
        self.p = p
        self._mask = np.uint32((1 << (p - 1).bit_length()) - 1)
        self._stream = SecretStream() if stream is None else stream

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.uint32]:
        """Independent uniform elements of F_p of this shape."""
        out = np.empty(shape, np.uint32)
        flat = out.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            np.bitwise_and(self._stream.words(chunk.size), self._mask, out=chunk)
            while chunk.max() >= self.p:
                rejected = np.flatnonzero(chunk >= self.p)
                chunk[rejected] = self._stream.words(rejected.size) & self._mask
        return out


def permutation(count: int) -> NDArray[np.int64]:
    """A secret random order of 0 … count-1."""
    words = np.frombuffer(SecretStream().words(2 * count).tobytes(), np.uint64)
    return np.argsort(words, kind="stable")
