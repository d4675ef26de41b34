"""Envelopes: short messages that only one other party can open, whoever carries them."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmpi.crypto.keys import KeyPair
from fedmpi.errors import ProtocolError

OVERHEAD = 16
"""Bytes by which an envelope is longer than its contents."""

_NONCE = bytes(12)


def seal(pair: KeyPair, receiver: bytes, context: bytes, contents: bytes) -> bytes:
    """Encrypt for the owner of the public key `receiver`: X25519, HKDF, AES-256-GCM.

    Parameters
    ----------
    pair : KeyPair
        The sender's.
    receiver : bytes
        32 bytes.
    context : bytes
        What the envelope is, from whom and to whom.
    contents : bytes

    Notes
    -----
    The key of an envelope comes from both key pairs and the context, and its nonce is zero: two envelopes between the
    same pairs must have different contexts.
    """
    key = pair.shared(receiver, info=_info(context, pair.public, receiver))
    return AESGCM(key).encrypt(_NONCE, contents, None)


def unseal(pair: KeyPair, sender: bytes, context: bytes, envelope: bytes) -> bytes:
    """The contents of an envelope that the owner of the public key `sender` made for this context.

    Raises
    ------
    ProtocolError
        If it is anything else.
    """
    key = pair.shared(sender, info=_info(context, sender, pair.public))
    try:
        return AESGCM(key).decrypt(_NONCE, envelope, None)
    except InvalidTag:
        raise ProtocolError(
            f"an envelope must be sealed by its sender for its place, got {len(envelope)} bytes"
        ) from None


def _info(context: bytes, sender: bytes, receiver: bytes) -> bytes:
    return b"".join((b"fedmpi envelope 1 X25519 HKDF-SHA256 AES-256-GCM", sender, receiver, context))
