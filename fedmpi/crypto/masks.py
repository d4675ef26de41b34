"""One-time masks in Z_{2^64} from a key that two parties share: PRF(key, round, position)."""

import hashlib
from typing import Literal, get_args

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from fedmpi.crypto.keys import derive

MaskKind = Literal["aes-ctr", "chacha20", "sha256"]
KINDS: tuple[MaskKind, ...] = get_args(MaskKind)

Words = NDArray[np.uint64]

_CHUNK = 1 << 19  # bytes per step: zeros and their encryption stay in the second-level cache
_ZEROS = memoryview(bytes(_CHUNK))


def mask_words(kind: MaskKind, key: bytes, round: int, count: int) -> Words:
    """The mask of one round, uniform to everybody without the key.

    Parameters
    ----------
    kind : str
        aes-ctr, chacha20: the keystream under HKDF-SHA256(key, round). sha256: the digests
        HMAC-SHA256(key, round ‖ block), block = 1, 2, … of 4 words each.
    key : bytes
        32 bytes, shared by two parties.
    round : int
        From 0. The same key and round give the same mask: use it once.
    count : int
        Words of 64 bits.

    Returns
    -------
    array of uint64, shape (count,)
    """
    salt = round.to_bytes(8, "big")
    if kind == "sha256":
        # PBKDF2 with one iteration is HMAC in counter mode [RFC 8018, section 5.2]: all digests in one call of OpenSSL.
        digests = hashlib.pbkdf2_hmac("sha256", key, salt, 1, 8 * count) if count else b""
        return np.frombuffer(digests, "<u8").astype(np.uint64, copy=False)
    stream_key = derive(key, info=b"fedmpi mask stream " + salt)
    algorithm = algorithms.ChaCha20(stream_key, bytes(16)) if kind == "chacha20" else algorithms.AES(stream_key)
    encryptor = Cipher(algorithm, None if kind == "chacha20" else modes.CTR(bytes(16))).encryptor()
    out = np.empty(count + 2, "<u8")  # update_into wants room for one block more
    raw = memoryview(out.data).cast("B")
    for start in range(0, 8 * count, _CHUNK):
        encryptor.update_into(_ZEROS[: min(_CHUNK, 8 * count - start)], raw[start:])
    return out[:count].astype(np.uint64, copy=False)


class MaskStream:
    """The masks of one key, each handed out once.

    Parameters
    ----------
    key : bytes
        32 bytes, shared by two parties.
    kind : str
        As for `mask_words`.
    """

    def __init__(self, key: bytes, kind: MaskKind):
        self.kind = kind
        self._key = key
        self._next = 0
        self._ready: dict[tuple[int, int], Words] = {}

    def prepare(self, rounds: range, count: int) -> None:
        """Make the masks of these rounds ahead of time, unless that of the first is ready."""
        if rounds and (rounds[0], count) in self._ready:
            return
        for round in rounds:
            if round >= self._next and (round, count) not in self._ready:
                self._ready[round, count] = mask_words(self.kind, self._key, round, count)

    def take(self, round: int, count: int) -> Words:
        """The mask of a round, shape (count,).

        Raises
        ------
        ValueError
            If this or a later round has been taken: a mask is used once.
        """
        if round < self._next:
            raise ValueError(f"the round of a mask must be at least {self._next}, got {round}: a mask is used once")
        self._next = round + 1
        ready = self._ready.pop((round, count), None)
        for entry in [entry for entry in self._ready if entry[0] <= round]:
            del self._ready[entry]
        return mask_words(self.kind, self._key, round, count) if ready is None else ready
