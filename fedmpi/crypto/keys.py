"""Keys: ephemeral X25519 key pairs, and the cluster key that all ranks of a job hold."""

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmpi.errors import ProtocolError, UsageError

KEY_BYTES = 32
"""Of a public key, and of a cluster key."""


PRIME = 2**255 - 19
"""Of Curve25519."""

LOW_ORDER = frozenset(
    {
        0,
        1,
        PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
"""Points with which every private key gives the secret 0 [Bernstein 2006, "Curve25519", appendix B]."""


def of_full_order(publics: bytes) -> bool:
    """Whether these are X25519 public keys, 32 bytes each, and with none of them everybody knows the secret."""
    keys = (publics[start : start + KEY_BYTES] for start in range(0, len(publics), KEY_BYTES))
    # X25519 ignores the highest bit, and takes what is beyond the prime modulo it [RFC 7748, section 5].
    points = [int.from_bytes(key, "little") % 2**255 % PRIME for key in keys]
    return len(publics) % KEY_BYTES == 0 and not LOW_ORDER.intersection(points)


class KeyPair:
    """An ephemeral X25519 key pair [RFC 7748]. The private key never leaves this object.

    Attributes
    ----------
    public : bytes
        32 bytes, for the peer.
    """

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes, *, info: bytes, salt: bytes = b"", length: int = KEY_BYTES) -> bytes:
        """What the owners of both pairs alone can compute: X25519, then HKDF-SHA256 over salt and info [RFC 5869].

        Parameters
        ----------
        peer_public : bytes
            32 bytes, as the peer sent them; who the peer is has to be checked by other means.
        info : bytes
            What the secret is for. Secrets of different use must have different info.
        salt : bytes, optional
            A key that both hold already, or public randomness.
        length : int, optional
            Bytes of the secret.

        Raises
        ------
        ProtocolError
            If the peer's key is none, or one with which everybody knows the secret.
        """
        if len(peer_public) != KEY_BYTES:
            raise ProtocolError(f"an X25519 public key must be {KEY_BYTES} bytes, got {len(peer_public)}")
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:  # the shared point is zero [RFC 7748, section 6.1]
            raise ProtocolError(f"an X25519 public key must not be of low order, got {peer_public.hex()}") from None
        return derive(secret, info=info, salt=salt, length=length)


def derive(secret: bytes, *, info: bytes, salt: bytes = b"", length: int = KEY_BYTES) -> bytes:
    """A key from a secret: HKDF-SHA256 over salt and info [RFC 5869]; different info, independent keys."""
    return HKDF(SHA256(), length, salt, info).derive(secret)


def create_key_file(path: Path, key: bytes | None = None) -> None:
    """Write a cluster key, by default a fresh one, in hexadecimal to a new file that only its owner may read.

    Raises
    ------
    UsageError
        If the file exists, or can't be written.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"the cluster key file must be a new file, got {path}: {error.strerror}") from None
    try:
        with os.fdopen(file, "w") as stream:
            stream.write((key or os.urandom(KEY_BYTES)).hex() + "\n")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UsageError(f"the cluster key file must be writable, got {path}: {error.strerror}") from None


def read_key_file(path: Path) -> bytes:
    """The cluster key, 32 bytes.

    Raises
    ------
    UsageError
        If there is no such file, it holds anything else, or others than its owner may read or change it.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            text = stream.read(2 * KEY_BYTES + 2) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise UsageError(f"the cluster key file must be readable, got {path}: {error.strerror}") from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise UsageError(
            f"the cluster key file must be its owner's alone (chmod 600), got {path}: mode {mode & 0o777:o}"
        )
    digits = text.removesuffix(b"\n")
    if len(digits) != 2 * KEY_BYTES or digits.strip(b"0123456789abcdefABCDEF"):
        raise UsageError(f"the cluster key file must hold {2 * KEY_BYTES} hexadecimal digits, got {path}")
    return bytes.fromhex(digits.decode())
