"""Sums of which only the sum is learned, though members may be lost: double masking [Bonawitz et al. 2017, section 4].

A member u hides its words under PRG(b_u), and under ±PRG(s_uv) for every other member v, of which both know s_uv. The
masks of pairs cancel in the sum. b_u and the private key behind all s_uv are shared among the members: of u they tell
b_u if its words have come, else the key, and never both. So late words stay hidden.
"""

import struct
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from fedmpi.core import DEFAULT_PRIME, PrimeField, Shamir
from fedmpi.crypto.envelope import OVERHEAD, seal, unseal
from fedmpi.crypto.keys import KEY_BYTES, KeyPair
from fedmpi.crypto.masks import mask_words
from fedmpi.crypto.random import FieldRandom, SecretStream, Stream
from fedmpi.errors import ProtocolError

Words = NDArray[np.uint32] | NDArray[np.uint64]
Shares = NDArray[np.uint32]
"""Of a secret of 32 bytes: 16 elements of F_p, 16 bits each."""

PUBLIC_BYTES = 2 * KEY_BYTES
"""Of a member: the key that its envelopes are sealed with, and the key of its masks."""

SHARE_WORDS = KEY_BYTES // 2
ENVELOPE_BYTES = 2 * 4 * SHARE_WORDS + OVERHEAD
"""Of an envelope: a share of b_u and one of the private key."""

_FIELD = PrimeField(DEFAULT_PRIME)


class MaskKey(KeyPair):
    """A key pair whose private key can be shared, and made again from the shares.

    Parameters
    ----------
    private : bytes
        32 secret bytes.
    """

    def __init__(self, private: bytes):
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()


class Member:
    """One member in one round. Make a new one for every round: a mask is used once.

    Parameters
    ----------
    number : int
        0 ≤ number < members.
    members : int
        K.
    threshold : int
        So many shares make a secret.
    round : int
    stream : Stream, optional
        Default: a fresh `SecretStream`.
    """

    def __init__(self, number: int, members: int, threshold: int, round: int, stream: Stream | None = None):
        self.number, self._round, self._threshold = number, round, threshold
        random = SecretStream() if stream is None else stream
        self._sealing = KeyPair()
        self._self_seed, private = (random.words(KEY_BYTES // 4).tobytes() for _ in range(2))
        self._masking = MaskKey(private)
        sharing = Shamir(_FIELD, members, threshold - 1)
        secret = np.concatenate([to_elements(self._self_seed), to_elements(private)])
        self._dealt = sharing.share(secret, FieldRandom(_FIELD.p, random))
        self._publics: dict[int, bytes] = {}
        self._held: dict[int, Shares] = {number: self._dealt[number]}
        self._unmasked = self._masked = False

    @property
    def public(self) -> bytes:
        """What everybody may know, `PUBLIC_BYTES`."""
        return self._sealing.public + self._masking.public

    def envelopes(self, publics: Mapping[int, bytes]) -> dict[int, bytes]:
        """Sealed shares for all others that have shown their keys."""
        self._publics = dict(publics)
        return {
            v: seal(self._sealing, public[:KEY_BYTES], self._place(self.number, v), self._dealt[v].tobytes())
            for v, public in publics.items()
            if v != self.number
        }

    def accept(self, sender: int, envelope: bytes) -> None:
        """Open what another member sealed for this one.

        Raises
        ------
        ProtocolError
            If it was sealed by somebody else, or for something else.
        """
        if sender not in self._publics or sender == self.number:
            raise ProtocolError(f"an envelope must come from another member, got member {sender}")
        contents = unseal(self._sealing, self._publics[sender][:KEY_BYTES], self._place(sender, self.number), envelope)
        held = np.frombuffer(contents, "<u4")
        if held.shape != (2 * SHARE_WORDS,) or not _FIELD.contains(held):
            raise ProtocolError(f"an envelope must hold {2 * SHARE_WORDS} field elements, got {len(contents)} bytes")
        self._held[sender] = held

    def mask(self, words: Words) -> Words:
        """The words of this member, hidden; with masks of pairs for all whose shares are here.

        Raises
        ------
        ValueError
            The second time: a mask is used once.
        ProtocolError
            If too few members have sent shares.
        """
        if self._masked:
            raise ValueError("a member must mask one vector, got a second: a mask is used once")
        self._masked = True
        if len(self._held) < self._threshold:
            raise ProtocolError(f"at least {self._threshold} members must share, got {len(self._held)}")
        hidden = words + stretch(self._self_seed, self._round, words)
        for v in self._held.keys() - {self.number}:
            shared = pair_seed(self._masking, self.number, v, self._publics[v][KEY_BYTES:])
            hidden = hidden + signed(stretch(shared, self._round, words), self.number, v)
        return hidden

    def reveal(self, survivors: frozenset[int]) -> dict[int, Shares]:
        """Member → a share: of b_u for survivors, of the private key for the lost.

        Raises
        ------
        ProtocolError
            If there are too few survivors, members among them that shared nothing, or this was asked before.
        """
        if self._unmasked:
            raise ProtocolError(f"shares of round {self._round} must be asked for once, got a second list of survivors")
        if len(survivors) < self._threshold or not survivors <= self._held.keys() or self.number not in survivors:
            raise ProtocolError(
                f"survivors must be at least {self._threshold} of {sorted(self._held)}, got {sorted(survivors)}"
            )
        self._unmasked = True
        return {u: half(held, lost=u not in survivors) for u, held in self._held.items()}

    def _place(self, sender: int, receiver: int) -> bytes:
        return b"PBPFL shares" + struct.pack(">QII", self._round, sender, receiver)


def unmask(
    total: Words,
    round: int,
    threshold: int,
    publics: Mapping[int, bytes],
    survivors: frozenset[int],
    revealed: Mapping[int, Mapping[int, Shares]],
) -> Words:
    """The sum of the survivors' words from the sum of what they sent.

    Parameters
    ----------
    total : array
        Σ of the hidden words of the survivors.
    round, threshold : int
    publics : mapping
        All members whose masks are in the sum, the lost included → their public keys.
    survivors : set of int
    revealed : mapping
        Member that tells → member of whom → share.

    Raises
    ------
    ProtocolError
        If too few tell, or the shares of a private key are not of that key.
    """
    for u in publics:
        shares = {v: told[u] for v, told in revealed.items() if u in told}
        if len(shares) < threshold:
            raise ProtocolError(f"at least {threshold} members must tell of member {u}, got {len(shares)}")
        sharing = Shamir(_FIELD, max(shares) + 1, threshold - 1)
        secret = to_secret(sharing.reconstruct(shares))
        if u in survivors:
            total = total - stretch(secret, round, total)
            continue
        key = MaskKey(secret)
        if key.public != publics[u][KEY_BYTES:]:
            raise ProtocolError(f"the shares of member {u} must make the private key of its public key, got another")
        for v in survivors:  # takes the masks away that the survivors share with the lost one
            shared = pair_seed(key, u, v, publics[v][KEY_BYTES:])
            total = total + signed(stretch(shared, round, total), u, v)
    return total


def pair_seed(own: KeyPair, u: int, v: int, public: bytes) -> bytes:
    """s_uv, the same for both ends."""
    return own.shared(public, info=b"PBPFL pair mask" + struct.pack(">II", min(u, v), max(u, v)))


def stretch(seed: bytes, round: int, like: Words) -> Words:
    """PRG: as many words of the same width, uniform to everybody without the seed."""
    count = -(-like.nbytes // 8)
    words: Words = mask_words("aes-ctr", seed, round, count).view(like.dtype)[: like.size]
    return words


def signed(mask: Words, u: int, v: int) -> Words:
    """+mask at the member with the lower number, -mask at the other."""
    return mask if u < v else np.zeros_like(mask) - mask


def half(held: Shares, *, lost: bool) -> Shares:
    """The share of b_u, or that of the private key."""
    return held[SHARE_WORDS:] if lost else held[:SHARE_WORDS]


def to_elements(secret: bytes) -> Shares:
    """32 bytes as 16 field elements."""
    return np.frombuffer(secret, "<u2").astype(np.uint32)


def to_secret(elements: Shares) -> bytes:
    """The reverse of `to_elements`."""
    if elements.shape != (SHARE_WORDS,) or (elements > 0xFFFF).any():
        raise ProtocolError(f"shares must make {SHARE_WORDS} numbers of 16 bits, got others")
    return elements.astype("<u2").tobytes()
