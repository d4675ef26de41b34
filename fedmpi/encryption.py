"""Where the links of a job become encrypted: what a rank's own command line says of the cluster key."""

import argparse
from collections.abc import Callable
from pathlib import Path

from fedmpi.net.transport import Transport

FLAG = "--cluster-key"


def encryption(argv: list[str]) -> Callable[[Transport], Transport]:
    """For ``job(wrap=encryption(sys.argv[1:]))``: links under the key of --cluster-key FILE, in the clear without it.

    Every rank looks at its own command line: no rank is told by another not to encrypt.
    """
    path = cluster_key_file(argv)

    def wrap(transport: Transport) -> Transport:
        if path is None:
            return transport
        from fedmpi.crypto.keys import read_key_file  # a worker of a run in the clear never loads them
        from fedmpi.crypto.seal import KeyAgreement
        from fedmpi.net.sealed import SealedTransport

        return SealedTransport(transport, KeyAgreement(read_key_file(path), transport.rank, transport.size))

    return wrap


def cluster_key_file(argv: list[str]) -> Path | None:
    """The FILE of --cluster-key FILE, None without one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(FLAG, "--cluster_key", type=Path)  # tyro takes both
    try:
        known, _ = parser.parse_known_args(argv)
    except argparse.ArgumentError:  # no FILE: the parser of all options, on rank 0, says so
        return None
    path: Path | None = known.cluster_key
    return path
