"""Whether the ranks that were started see one another, as those of one MPI do with its own launcher."""

import os
import sys

from fedmpi.errors import UsageError

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_PLACES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
"""Where launchers tell how many ranks they have started, and which this one is, whether MPI understands them or not."""

_OPEN_MPI = "Open MPI"
_SPOKEN = "MPIR_CVAR_PMI_VERSION"
"""Tells an MPICH that was built for PMIx to speak it: then an mpirun of Open MPI may start it."""


def check_mpi(vendor: str) -> None:
    """Refuse an MPI that can't start below what started this rank, before it prints pages and aborts.

    Raises
    ------
    UsageError
    """
    started = _number("OMPI_COMM_WORLD_SIZE")
    if started > 1 and vendor != _OPEN_MPI and _SPOKEN not in os.environ:
        raise UsageError(
            f"all {started} ranks must see one another, got the mpirun of {_OPEN_MPI} and {vendor}, which mpi4py has "
            "loaded: export MPI4PY_MPIABI=openmpi, or uninstall one of the two"
        )


def check_world(size: int, library: str) -> None:
    """Refuse to be alone among ranks that do not see one another: each would train by itself.

    Raises
    ------
    UsageError
    """
    started = max(_number(name) for name in _SIZES)
    if size == 1 < started:
        if not is_first():
            sys.exit(2)  # one line is enough
        raise UsageError(
            f"all {started} ranks must see one another, got a world of one: {library}, which mpi4py has loaded, "
            "does not understand what started them; start them with its own mpirun, or srun --mpi=pmix or pmi2"
        )


def is_first() -> bool:
    """Whether this is the first of the ranks that were started."""
    return max(_number(name) for name in _PLACES) == 0


def _number(variable: str) -> int:
    value = os.environ.get(variable, "")
    return int(value) if value.isdecimal() else 0
