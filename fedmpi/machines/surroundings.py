"""What is around MPI on this machine: torch, GPUs, a scheduler, memory that ranks share."""

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedmpi.errors import UsageError
from fedmpi.machines.schedulers import SCHEDULERS, scheduler

SHARED_MEMORY = Path("/dev/shm")

SEGMENT_BYTES = 16 << 20
"""What Open MPI 5 sets aside there for each rank."""

_GPU_FILES = {"NVIDIA": "nvidia[0-9]*", "AMD": "kfd"}
"""What drivers put in /dev."""

Finding = tuple[str, bool, str]
"""Name, whether it is as it should be, and a line for people, with the remedy."""


def torch_here() -> Finding:
    """Whether niss, pbpfl, spn, attacks and estimators of theirs can run."""
    if importlib.util.find_spec("torch") is None:
        return "torch", False, 'missing, niss, pbpfl and spn need it: pip install "fedmpi[torch]"'
    return "torch", True, importlib.metadata.version("torch")


def gpus(devices: Path = Path("/dev")) -> Finding:
    """GPUs that the driver shows, and whether torch can use them; torch is loaded only where there are some."""
    makers = [maker for maker, pattern in _GPU_FILES.items() if any(devices.glob(pattern))]
    if not makers:
        return "GPUs", True, "none: clients of niss, pbpfl and spn compute on cores"
    if importlib.util.find_spec("torch") is None:
        return "GPUs", False, f'of {makers[0]}, unused without torch: pip install "fedmpi[torch]"'
    import torch

    if count := torch.cuda.device_count():
        names = sorted({torch.cuda.get_device_name(number) for number in range(count)})
        return "GPUs", True, f"{count} x {', '.join(names)}: --device auto spreads the ranks over them"
    remedy = "install a torch that is built for them (pytorch.org), or ask for one in the job"
    return "GPUs", False, f"of {makers[0]}, which torch {torch.__version__} can't use: {remedy}"


def scheduling() -> Finding:
    """The scheduler whose job this is, or which takes jobs here."""
    if job := scheduler():
        try:
            hosts = job.hosts(os.environ)
        except UsageError as error:
            return "scheduler", False, str(error)
        room = sum(host.slots or 0 for host in hosts)
        flag = next(flag for flag, known in SCHEDULERS.items() if known is job)
        text = f"a job of {job.name} with {len(hosts)} hosts for {room} ranks: fedmpi hostfile --{flag} > hosts"
        return "scheduler", True, text
    for known in SCHEDULERS.values():
        if shutil.which(known.command):
            return "scheduler", True, f"{known.name} ({known.command}), and this is no job of it"
    return "scheduler", True, "none: fedmpi run starts the ranks, on other hosts by ssh"


def shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """Whether there is room for what ranks of one machine share."""
    try:
        room = os.statvfs(folder)
    except OSError as error:
        return "/dev/shm", False, f"{folder} must be there for ranks of one machine, got {error.strerror}"
    free = room.f_bavail * room.f_frsize
    ranks, wanted = free // SEGMENT_BYTES, max(2, os.cpu_count() or 1)
    text = f"{free / 2**20:.0f} MiB free in {folder}, room for {ranks} ranks of Open MPI"
    if ranks >= wanted:
        return "/dev/shm", True, text
    return "/dev/shm", False, f"{text}: delete what killed jobs left, or give a container more (--shm-size=1g)"


def findings() -> Iterator[Finding]:
    """All of these."""
    yield torch_here()
    yield gpus()
    yield scheduling()
    yield shared_memory()
