"""Which GPU a rank takes, and that it is there."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from fedmpi.errors import UsageError

AUTO = "auto"
"""Of --device: the GPU of the rank's place on its machine."""

_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""Where Open MPI, Hydra (MPICH, Intel MPI) and srun tell a rank its number among those of its machine."""


def device_here(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """The device of this rank: of ``auto`` the GPU whose number is the rank's place on its machine, modulo the GPUs.

    A scheduler that binds a GPU to each task shows a rank its own alone, which is number 0 then.

    Raises
    ------
    UsageError
        If torch can't use it.
    """
    if device == AUTO:
        if not (count := torch.cuda.device_count()):
            raise UsageError("--device auto must be used where torch sees a GPU, got none: take --device cpu")
        place = next((environment[name] for name in _LOCAL_RANKS if name in environment), "0")
        device = f"cuda:{(int(place) if place.isdecimal() else 0) % count}"
    with named(device):
        torch.empty(0, device=device)
    return device


@contextmanager
def named(device: str) -> Iterator[None]:
    """Say of what torch refuses in this block that it is about --device."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--device must be one that torch can use, got {device}: {reason}") from None
