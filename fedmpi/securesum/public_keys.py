"""What ranks may send as public keys: with one of low order whoever uses it would leave, in place of its sender."""

from fedmpi.crypto.keys import of_full_order
from fedmpi.net.meaning import Rule

PUBLIC_KEYS = Rule("be X25519 public keys, none of low order", lambda keys: of_full_order(bytes(keys)))
"""Of bytes, or of an array of them: 32 each."""
