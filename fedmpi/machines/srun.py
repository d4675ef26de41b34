"""Ranks that srun starts: in a job of Slurm whose nodes have an MPI library, and no mpirun."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.machines.schedulers import SCHEDULERS, slurm_hosts

NAME = "srun"

_SECONDS = 60

_LIBRARY = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().splitlines()[0])
"""

_KINDS = {"Open MPI": "Open MPI", "HYDRA": "MPICH", "MPICH": "MPICH", "Intel": "Intel MPI"}
"""Words of an mpirun or of a library → its MPI."""

_WIRES = {"Open MPI": "pmix", "MPICH": "pmi2", "Intel MPI": "pmi2"}
"""What each understands of what srun can say to its ranks."""


def in_job() -> bool:
    """Whether this is a job of Slurm, in which srun starts ranks."""
    return SCHEDULERS["slurm"].job in os.environ


def kind_of(text: str) -> str | None:
    """The MPI that an mpirun or a library says it is of."""
    return next((kind for word, kind in _KINDS.items() if word in text), None)


def loaded_mpi() -> str | None:
    """The MPI that mpi4py loads on this machine; None where it finds none, as on a login node."""
    try:
        command = [sys.executable, "-c", _LIBRARY]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else kind_of(done.stdout)


def srun_options(ranks: int, places: Sequence[str], folder: Path | None, interface: str | None) -> list[str]:
    """The options of srun that put each rank on its host, and that tell the MPI what mpirun would be told.

    Parameters
    ----------
    ranks : int
    places : sequence of str
        The host of each rank; empty: as Slurm spreads them over the nodes of the job.
    folder : Path or None
        The job's, for the hosts.
    interface : str or None
        The network between the hosts.

    Raises
    ------
    UsageError
        If a host is not of the job.
    """
    kind = loaded_mpi()
    if interface is not None and "/" in interface and kind != "Open MPI":
        raise UsageError(f"--interface must be a name such as eth0: only Open MPI knows networks, got {interface}")
    named = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    if interface is not None:
        named |= {"OMPI_MCA_btl_tcp_if_include": interface, "FI_TCP_IFACE": interface}
    options = ["-n", str(ranks)]
    if kind is not None and "SLURM_MPI_TYPE" not in os.environ:
        options.append(f"--mpi={_WIRES[kind]}")
    if places:
        options += ["-N", str(len(set(places))), f"--nodelist={_written(places, folder)}", "--distribution=arbitrary"]
    # Within other steps of the job too, and as many as asked for. All variables, also where sbatch passed none.
    exported = ",".join(f"{name}={value}" for name, value in named.items())
    return [*options, "--overlap", "--overcommit", f"--export=ALL,{exported}"]


def _written(places: Sequence[str], folder: Path | None) -> Path:
    """The file of the ranks' hosts, as srun reads it."""
    nodes = [host.name for host in slurm_hosts(os.environ)]
    if strange := sorted(set(places) - set(nodes)):
        raise UsageError(f"every host must be a node of the job ({', '.join(nodes)}), got {strange[0]}")
    if folder is None:
        raise ValueError("hosts are written to the job's folder, got none")
    path = folder / "hosts"
    path.write_text("".join(f"{name}\n" for name in places))
    return path
