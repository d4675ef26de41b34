"""Where the links of a job become encrypted: what a rank's own command line says of the cluster key."""

import argparse
from collections.abc import Callable
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.net.transport import Transport

Wrap = Callable[[Transport], Transport]
"""What `job` and `run_local` apply to a transport before anything is sent."""


def encryption(argv: list[str]) -> Wrap:
    """For ``job(wrap=encryption(sys.argv[1:]))``: encrypted links with --cluster-key FILE, plain ones without it.

    Every rank looks at its own command line: no rank is told by another not to encrypt.
    """
    return lambda transport: encrypted(key_file_of(argv))(transport)


def encrypted(cluster_key: Path | None) -> Wrap:
    """Links that are encrypted under the key in a file of `fedmpi keygen`, which every rank reads; None: plain ones."""

    def wrap(transport: Transport) -> Transport:
        if cluster_key is None:
            return transport
        from fedmpi.crypto.keys import read_key_file  # a rank of a job in the clear never loads these
        from fedmpi.crypto.seal import KeyAgreement
        from fedmpi.net.sealed import SealedTransport

        return SealedTransport(transport, KeyAgreement(read_key_file(cluster_key), transport.rank, transport.size))

    return wrap


def key_file_of(argv: list[str]) -> Path | None:
    """The FILE of --cluster-key FILE, None in a job in the clear.

    Raises
    ------
    UsageError
        If --encrypt stands without a key.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--encrypt", action="store_true")
    parser.add_argument("--cluster-key", "--cluster_key", type=Path)  # tyro takes both
    try:
        known, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:
        raise UsageError("--cluster-key must name a file, got nothing") from None
    if known.encrypt and known.cluster_key is None:
        raise UsageError("--encrypt must come with --cluster-key FILE, or stand before -- of fedmpi run, got neither")
    path: Path | None = known.cluster_key
    return path
