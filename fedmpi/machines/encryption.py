"""Where the links of a job become encrypted: what a rank's own command line says of the cluster key."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.net.transport import Transport

OF_ONE_RUN = re.compile(r"fedmpi-[0-9a-f]{32}\.key")
"""Names of key files that `fedmpi run` makes for one run."""

Wrap = Callable[[Transport], Transport]
"""What `job` and `run_local` apply to a transport before anything is sent."""


def encryption(argv: list[str]) -> Wrap:
    """For ``job(wrap=encryption(sys.argv[1:]))``: encrypted links with --cluster-key FILE, plain ones without it.

    Every rank looks at its own command line: no rank is told by another not to encrypt. The key is read now, and a file
    of this run alone is gone once there is a transport: no rank has one before all ranks have come so far.
    """
    try:
        path, failed = key_file_of(argv), None
        key = None if path is None else _read(path)
    except UsageError as error:  # raised where the others hear of it
        path, key, failed = None, None, error

    def wrap(transport: Transport) -> Transport:
        if failed is not None:
            raise failed
        if path is not None and OF_ONE_RUN.fullmatch(path.name):
            path.unlink(missing_ok=True)
        return _sealed(transport, key)

    return wrap


def encrypted(cluster_key: Path | None) -> Wrap:
    """Links that are encrypted under the key in a file of `fedmpi keygen`, which every rank reads; None: plain ones."""
    return lambda transport: _sealed(transport, None if cluster_key is None else _read(cluster_key))


def _read(cluster_key: Path) -> bytes:
    from fedmpi.crypto.keys import read_key_file  # a rank of a job in the clear never loads these

    return read_key_file(cluster_key)


def _sealed(transport: Transport, key: bytes | None) -> Transport:
    if key is None:
        return transport
    from fedmpi.crypto.seal import KeyAgreement
    from fedmpi.net.sealed import SealedTransport

    return SealedTransport(transport, KeyAgreement(key, transport.rank, transport.size))


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
