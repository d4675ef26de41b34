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

from fedmpi.core import DEFAULT_PRIME, PrimeField, Shamir, fixed_point
from fedmpi.crypto.envelope import OVERHEAD
from fedmpi.crypto.keys import KEY_BYTES, KeyPair
from fedmpi.crypto.masks import mask_words
from fedmpi.crypto.random import FieldRandom, SecretStream, Stream
from fedmpi.errors import ProtocolError
from fedmpi.securesum import scheme

Words = NDArray[np.uint32] | NDArray[np.uint64]
Shares = NDArray[np.uint32]
"""Of a secret of 32 bytes: 16 elements of F_p, 16 bits each."""

PUBLIC_BYTES = 2 * KEY_BYTES
"""Of a member: the key that its envelopes are sealed with, and the key of its masks."""

SHARE_WORDS = KEY_BYTES // 2
ENVELOPE_BYTES = 2 * 4 * SHARE_WORDS + OVERHEAD
"""Of an envelope: a share of b_u and one of the private key."""

_FIELD = PrimeField(DEFAULT_PRIME)


class DoubleMasking(scheme.Scheme):
    """Double masking for vectors of one length.

    Parameters
    ----------
    members : int
        K; members are numbered from 0.
    threshold : int
        So many must be left, and as many together can unmask one.
    length : int
        Numbers in a vector.
    dtype : str
        Of the words: <u8, or <u4.
    """

    name = "double"
    public_bytes, envelope_bytes = PUBLIC_BYTES, ENVELOPE_BYTES

    def __init__(self, members: int, threshold: int, length: int, dtype: str = "<u8"):
        self.members, self.threshold, self.colluding = members, threshold, threshold - 1
        self.words, self.dtype = length, np.dtype(dtype)

    def member(self, number: int, round: int) -> "Member":
        """A fresh member."""
        return Member(number, self.members, self.threshold, round)

    def told(self, sharers: int) -> int:
        """A share of each that has shared."""
        return sharers * SHARE_WORDS

    def check_hidden(self, row: scheme.Words) -> None:
        """Any words can be."""

    def check_told(self, row: NDArray[np.uint32]) -> None:
        """They are shares."""
        if not _FIELD.contains(row):
            raise ProtocolError(f"shares must be elements of F_{_FIELD.p}, got others")

    def add(self, total: scheme.Words, row: scheme.Words) -> scheme.Words:
        """Modulo 2^64, or 2^32."""
        return np.add(total, row)

    def unmask(
        self,
        total: scheme.Words,
        round: int,
        publics: Mapping[int, bytes],
        survivors: frozenset[int],
        told: Mapping[int, NDArray[np.uint32]],
    ) -> scheme.Words:
        """See `unmask`."""
        owners = sorted(publics)
        revealed = {k: dict(zip(owners, row.reshape(len(owners), SHARE_WORDS), strict=True)) for k, row in told.items()}
        return unmask(total, round, self.threshold, publics, survivors, revealed)

    def encode(self, values: NDArray[np.float64], bits: int, summands: int) -> scheme.Words:
        """Fixed point in Z_{2^64}."""
        return fixed_point.encode(values, bits, summands)

    def decode(self, words: scheme.Words, bits: int) -> NDArray[np.float64]:
        """The reals of a sum of encoded vectors."""
        return fixed_point.decode(words, bits)


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


class Member(scheme.Member):
    """One member in one round.

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

    label = b"PBPFL shares"

    def __init__(self, number: int, members: int, threshold: int, round: int, stream: Stream | None = None):
        random = SecretStream() if stream is None else stream
        self._self_seed, private = (random.words(KEY_BYTES // 4).tobytes() for _ in range(2))
        self._masking = MaskKey(private)
        secret = np.concatenate([to_elements(self._self_seed), to_elements(private)])
        dealt = Shamir(_FIELD, members, threshold - 1).share(secret, FieldRandom(_FIELD.p, random))
        super().__init__(number, round, threshold, dealt)

    @property
    def public(self) -> bytes:
        """What everybody may know, `PUBLIC_BYTES`."""
        return super().public + self._masking.public

    def read(self, contents: bytes) -> Shares:
        """A share of b_u and one of the private key."""
        held = np.frombuffer(contents, "<u4")
        if held.shape != (2 * SHARE_WORDS,) or not _FIELD.contains(held):
            raise ProtocolError(f"an envelope must hold {2 * SHARE_WORDS} field elements, got {len(contents)} bytes")
        return held

    def mask(self, words: Words) -> Words:
        """The words of this member, hidden; with masks of pairs for all whose shares are here."""
        self._mask_once()
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
        self._tell_once(survivors)
        return {u: half(held, lost=u not in survivors) for u, held in self._held.items()}

    def tell(self, survivors: frozenset[int]) -> NDArray[np.uint32]:
        """What `reveal` says, in the order of the members."""
        return np.concatenate([share for _, share in sorted(self.reveal(survivors).items())])


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
