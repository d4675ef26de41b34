"""Products of shared secrets, every party an MPI rank, beside those of MPyC."""

import importlib.util
import sys
from typing import Any

from fedmpi.bench.timing import last_json
from fedmpi.machines.launcher import mpirun_command

MPYC_PRODUCTS = 16_384
"""MPyC is slow enough to be timed on fewer products."""


def measure(protocol: str, parties: int, products: int) -> dict[str, Any]:
    """Products per second of a degree reduction; beside those of MPyC, where it is installed."""
    program = [sys.executable, "-m", "fedmpi.bench.ranks.mpc", protocol, str(products)]
    figures = last_json(mpirun_command(parties, program)[0])
    if importlib.util.find_spec("mpyc") is not None:
        few = str(min(products, MPYC_PRODUCTS))
        # Without --no-prss MPyC's set-up grows with C(n, T).
        options = [f"-M{parties}", "--no-log", *(["--no-prss"] if parties > 7 else [])]
        theirs = last_json([sys.executable, "-m", "fedmpi.bench.peers.mpyc_products", few, *options])
        rate = theirs["products_per_second"]
        figures |= {"mpyc_products_per_second": rate, "speedup": figures["products_per_second"] / rate}
    return figures
