"""Numbers of a few bits, packed without gaps: elements of a field with a 25-bit prime take 25 bits and not 32."""

import math

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.native import compiled, pointer

Words = NDArray[np.uint32]

_ROWS, _LANES = 32, 8
_BLOCK = _ROWS * _LANES


def packed_words(count: int, bits: int) -> int:
    """How many words so many numbers take: the only length that `unpack` accepts.

    Raises
    ------
    ValueError
        If `bits` is not in [1, 32].
    """
    if not 1 <= bits <= 32:
        raise ValueError(f"bits must be in [1, 32], got {bits}")
    blocks, rest = divmod(count, _BLOCK)
    return blocks * _LANES * bits + -(-rest * bits // 32)


def pack(values: Words, bits: int) -> Words:
    """Numbers below 2^bits, of any shape, in as few words as they fit into.

    Returns
    -------
    array of uint32, shape (packed_words(values.size, bits),)

    Raises
    ------
    ValueError
        If a number is larger, or `bits` is not in [1, 32].
    """
    values = np.ascontiguousarray(values, np.uint32)
    words = np.empty(packed_words(values.size, bits), np.uint32)
    if compiled:
        seen = compiled.lib.fedmpi_pack(pointer(values), values.size, bits, pointer(words))
    else:
        seen = int(np.bitwise_or.reduce(values, axis=None))
        _pack(values.reshape(-1), bits, words)
    if seen >> bits:
        raise ValueError(f"numbers to be packed must be below 2^{bits}, got {values.max()}")
    return words


def unpack(words: Words, bits: int, shape: tuple[int, ...], out: Words | None = None) -> Words:
    """What was packed, all of it below 2^bits; whether it is below a prime is for the caller to check.

    Parameters
    ----------
    words : array of uint32
        Perhaps from somebody who is not trusted.
    out : array of uint32, C-contiguous, optional
        Where to put it.

    Raises
    ------
    ValueError
        If the words are not as many as such numbers take, or more bits are set than theirs.
    """
    count = math.prod(shape)
    if words.shape != (expected := (packed_words(count, bits),)):
        raise ValueError(f"{count} numbers of {bits} bits must be packed in shape {expected}, got {words.shape}")
    used = count % _BLOCK * bits % 32
    if used and words[-1] >> used:
        raise ValueError(f"the bits behind packed numbers must be 0, got {words[-1] >> used:#x}")
    words = np.ascontiguousarray(words, np.uint32)
    values = np.empty(shape, np.uint32) if out is None else out
    if values.shape != shape or values.dtype != np.uint32 or not values.flags.c_contiguous:
        raise ValueError(f"out must be a C-contiguous array of uint32 of shape {shape}, got {values.shape}")
    if compiled:
        compiled.lib.fedmpi_unpack(pointer(words), count, bits, pointer(values))
    else:
        _unpack(words, bits, values.reshape(-1))
    return values


def _pack(values: Words, bits: int, words: Words) -> None:
    split, cut = _split(values.size, bits)
    words[:cut] = _packed_blocks(values[:split].reshape(-1, _ROWS, _LANES), bits)
    rest = values[split:]
    padded = np.zeros((-(-rest.size // _ROWS), _ROWS, 1), np.uint32)
    padded.reshape(-1)[: rest.size] = rest
    words[cut:] = _packed_blocks(padded, bits)[: words.size - cut]


def _unpack(words: Words, bits: int, values: Words) -> None:
    split, cut = _split(values.size, bits)
    values[:split] = _unpacked_blocks(words[:cut].reshape(-1, bits, _LANES), bits)
    rest = values[split:]
    padded = np.zeros((-(-rest.size // _ROWS), bits, 1), np.uint32)
    padded.reshape(-1)[: words.size - cut] = words[cut:]
    rest[:] = _unpacked_blocks(padded, bits)[: rest.size]


def _split(count: int, bits: int) -> tuple[int, int]:
    """How many numbers whole blocks hold, and in how many words."""
    whole = count - count % _BLOCK
    return whole, packed_words(whole, bits)


def _packed_blocks(values: Words, bits: int) -> Words:
    words = np.zeros((len(values), bits, values.shape[2]), np.uint32)
    for row in range(_ROWS):
        word, shift = divmod(row * bits, 32)
        words[:, word] |= values[:, row] << np.uint32(shift)
        if shift + bits > 32:
            words[:, word + 1] |= values[:, row] >> np.uint32(32 - shift)
    return words.reshape(-1)


def _unpacked_blocks(words: Words, bits: int) -> Words:
    values = np.empty((len(words), _ROWS, words.shape[2]), np.uint32)
    for row in range(_ROWS):
        word, shift = divmod(row * bits, 32)
        values[:, row] = words[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            values[:, row] |= words[:, word + 1] << np.uint32(32 - shift)
    values &= np.uint32((1 << bits) - 1)
    return values.reshape(-1)
