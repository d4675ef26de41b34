"""Authenticated encryption of the links between ranks: X25519, HKDF and AES-256-GCM under a cluster key.

AES-256-GCM and not ChaCha20-Poly1305: processors have instructions for it.
"""

import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmpi.crypto.keys import KEY_BYTES, KeyPair, derive
from fedmpi.errors import ProtocolError

_HELLO = b"fedmpi hello 1 X25519 HMAC-SHA256"
_LINK = b"fedmpi link 1 X25519 HKDF-SHA256 AES-256-GCM"
_ENDS = struct.Struct(">III")  # source, dest, ranks of the job
_PLACE = struct.Struct(">IQ")  # piece; tag and sequence: 96 bits, of each place others


class AeadLink:
    """Seals what one rank sends to another, and opens what it gets from there.

    Parameters
    ----------
    sending_key, receiving_key : bytes
        32 bytes each, used by this link only.

    Notes
    -----
    AES-GCM is broken by a nonce used twice under one key. The keys are those of one session and one direction, and
    the nonce is the place in it: tag, sequence number and piece. So each place may be sealed once. The place is the
    associated data too; who sends to whom is part of the keys.
    """

    overhead = 16
    """Bytes by which a sealed piece is longer."""

    def __init__(self, sending_key: bytes, receiving_key: bytes):
        self._sending, self._receiving = AESGCM(sending_key), AESGCM(receiving_key)

    def seal(self, tag: int, sequence: int, piece: int, plain: memoryview, out: memoryview) -> None:
        """Encrypt `plain` into `out`, for one place on the link."""
        place = _place(tag, sequence, piece)
        self._sending.encrypt_into(place, plain, place, out)

    def open(self, tag: int, sequence: int, piece: int, sealed: memoryview, out: memoryview) -> bool:
        """Decrypt `sealed` into `out`. False if it is not what the peer sealed for this place: `out` is void then."""
        place = _place(tag, sequence, piece)
        try:
            self._receiving.decrypt_into(place, sealed, place, out)
        except InvalidTag:
            return False
        return True


def _place(tag: int, sequence: int, piece: int) -> bytes:
    """96 bits, of each place others. Nobody sends 2^56 frames; struct.error where a piece does not fit."""
    return _PLACE.pack(piece, tag << 56 | sequence)


class KeyAgreement:
    """One rank's part in agreeing on the keys of its links. A rank has a link with itself too.

    Parameters
    ----------
    cluster_key : bytes
        32 bytes that all ranks hold, and nobody else.
    rank, size : int
        This rank, and the ranks of the job.

    Notes
    -----
    A hello is an ephemeral X25519 key with an HMAC under the cluster key over it and over source, destination and
    size: it can be neither forged nor sent back nor to another. That of an earlier job passes, and is useless: a
    link's keys come from the ephemeral keys of both ends and the cluster key. So who learns the cluster key later
    can't read what was recorded, and a rank can't read the links of two others.
    """

    def __init__(self, cluster_key: bytes, rank: int, size: int):
        if len(cluster_key) != KEY_BYTES:
            raise ValueError(f"a cluster key must be {KEY_BYTES} bytes, got {len(cluster_key)}")
        self._rank, self._size = rank, size
        self._pair = KeyPair()
        self._hello_key = derive(cluster_key, info=_HELLO)
        self._link_key = derive(cluster_key, info=_LINK)

    def hello(self, dest: int) -> bytes:
        """What to send to a rank in the clear, before anything else."""
        return self._pair.public + self._mac(self._rank, dest, self._pair.public)

    def accept(self, source: int, hello: bytes) -> AeadLink:
        """The link with a rank that said hello.

        Raises
        ------
        ProtocolError
            If the hello was not made for this rank by that one with the same cluster key, or its key is of low order.
        """
        public, mac = hello[:KEY_BYTES], hello[KEY_BYTES:]
        if not hmac.compare_digest(mac, self._mac(source, self._rank, public)):
            raise ProtocolError(f"rank {source} must hold the same cluster key, got a hello made without it")
        publics = {source: public, self._rank: self._pair.public}

        def key(sender: int, receiver: int) -> bytes:
            ends = _ENDS.pack(sender, receiver, self._size)
            info = b"".join((_LINK, ends, publics[sender], publics[receiver]))
            return self._pair.shared(public, info=info, salt=self._link_key)

        return AeadLink(key(self._rank, source), key(source, self._rank))

    def _mac(self, source: int, dest: int, public: bytes) -> bytes:
        return hmac.digest(self._hello_key, b"".join((_HELLO, _ENDS.pack(source, dest, self._size), public)), "sha256")
