"""What a model draws at random in training, as dropout does: torch has one generator for all of that."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from fedmpi.learn.clients import stream

_TURN = threading.RLock()
"""The generator is that of all threads."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What torch draws in the block follows from the seed, what it draws later does not; one thread at a time."""
    with _TURN, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def draws(model: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """Whether a model, on the CPU still, draws random numbers in training."""
    dtype = next(model.parameters()).dtype
    with seeded(0), torch.no_grad():
        before = torch.get_rng_state()
        model.train()(torch.zeros((2, *input_shape), dtype=dtype))
        return not torch.equal(before, torch.get_rng_state())


def randomness(drawn: bool, seed: int, *key: int | str) -> AbstractContextManager[None]:
    """What a model draws for one client in one round follows from the public seed and this key, wherever it is trained.

    Parameters
    ----------
    drawn : bool
        Whether it draws anything, see `draws`: a model that does not may be trained by several threads at once.
    """
    return seeded(int(stream(seed, "torch", *key).integers(1 << 63))) if drawn else nullcontext()
