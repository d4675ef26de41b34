"""Every error that fedmpi raises on purpose.

::

    FedmpiError                 exit code 4
    ├── UsageError              exit code 2   an option, a file or a data set breaks a rule
    │   └── HeadroomError                     a decoded value does not fit in (-p/2, p/2)
    ├── FilesError              exit code 5   what is written can't be: a full disk, a folder that others own
    ├── TooFewWorkers           exit code 3   fewer answers than the recovery threshold can ever come
    ├── Interrupted             exit code 143, 4 or 0: a signal asked for the end
    └── ProtocolError           exit code 4   a peer sent something that is not what was asked for
        ├── DecodingError                     more answers are wrong than can be told from the right ones
        └── PeerFailed                        a peer failed, left, or said nothing until the deadline

A message says what is wrong, the rule, and the value got, on one line:
``"<what> must <rule>, got <value>"``.
"""

from typing import Self

__all__ = [
    "DecodingError",
    "FedmpiError",
    "FilesError",
    "HeadroomError",
    "Interrupted",
    "PeerFailed",
    "ProtocolError",
    "TooFewWorkers",
    "UsageError",
]


class FedmpiError(Exception):
    """Base of all errors of this package; `exit_code` is what the process ends with."""

    exit_code = 4


class UsageError(FedmpiError, ValueError):
    """An option, a file or a data set breaks a rule."""

    exit_code = 2


class HeadroomError(UsageError):
    """A decoded value would not fit in (-p/2, p/2), so the result would be wrong."""


class FilesError(FedmpiError):
    """The operating system refuses a file, or the stream that is printed to."""

    exit_code = 5

    @classmethod
    def of(cls, error: OSError, what: object = None) -> Self:
        """The same in one line, of a file that the error does not name, or of the output."""
        name = error.filename if what is None else what
        return cls(f"{name or 'the output'} must be readable and writable, got {error.strerror or error}")


class TooFewWorkers(FedmpiError):
    """Fewer workers are left than the recovery threshold needs."""

    exit_code = 3


class Interrupted(FedmpiError):
    """SIGTERM (exit code 143, or 4 where nobody who uses the job sent it) or SIGUSR1 (0) asked for the end."""

    def __init__(self, reason: str, code: int):
        super().__init__(reason)
        self.exit_code = code


class ProtocolError(FedmpiError):
    """A peer sent something that is not what was asked for."""


class DecodingError(ProtocolError):
    """More answers are wrong than can be told from the right ones."""


class PeerFailed(ProtocolError):
    """A peer failed, left, or said nothing until the deadline.

    Parameters
    ----------
    rank : int
        The rank of the peer.
    role : str
        What the peer does, for the message ("worker", "master").
    reason : str
        What it said or did.
    code : int, optional
        The exit code the peer asks everybody to end with.
    """

    def __init__(self, rank: int, role: str, reason: str, code: int = 4):
        super().__init__(f"{role} (rank {rank}) {reason}")
        self.rank = rank
        self.role = role
        self.reason = reason
        self.exit_code = code
