"""A client's step of each method of spn, beside the same step in plain torch, in one process and thread."""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fedmpi.crypto.random import SecretStream
from fedmpi.learn import FlatModel, Inputs, build_model
from fedmpi.spn.client import Worker, optimizer_of
from fedmpi.spn.params import Params
from fedmpi.spn.polarization import Polarization

CLASSES = 10

METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"method": "fedavg"},
    "dp": {"method": "dp", "noise_std": 0.01},
    "ppdl": {"method": "ppdl"},
    "spn": {"method": "spn"},
}
"""What is timed: the defaults of each method, of dp with a noise."""


def measure(model: str, side: int, batch_size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Processor time of one step of a client on one batch, from the weights it gets to the change that it shares.

    Parameters
    ----------
    model : str
    side : int
        Of the images, pixels; they have 3 channels.
    batch_size : int
        Rows of the batch.
    repeats : int

    Returns
    -------
    dict
        Of each method the median of its milliseconds, of those of a plain torch step that took turns with it, and of
        their ratio.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: _beside_torch(model, side, batch_size, repeats, **told) for name, told in METHODS.items()}
    finally:
        torch.set_num_threads(threads)


def _beside_torch(name: str, side: int, batch_size: int, repeats: int, **told: Any) -> dict[str, float]:
    shape, params = (3, side, side), Params(model=name, batch_size=batch_size, **told)
    rng = np.random.default_rng(0)
    X, y = rng.random((batch_size, *shape)), rng.integers(0, CLASSES, batch_size)
    inputs = Inputs.of(X, y, 1.0, torch.float32, "cpu", shape=shape)
    module = build_model(name, shape, CLASSES, 0)
    worker, begun = Worker(module, params), FlatModel(copy.deepcopy(module)).read()
    private = None
    if params.method == "spn":
        sizes = worker.features(shape), CLASSES, params.bits, params.hidden, params.margin
        private = Polarization(*sizes, SecretStream())
    optimizer = optimizer_of(params, list(module.parameters()), params.learning_rate)

    def ours() -> None:
        worker.train(begun, inputs, rng, params.learning_rate, private, SecretStream())

    def plain() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(module(inputs.X), inputs.y))
        optimizer.step()

    pairs = [(_processor_time(ours), _processor_time(plain)) for _ in range(repeats + 1)][1:]  # the first is a trial
    mine, theirs, ratios = zip(*((a, b, a / b) for a, b in pairs), strict=True)
    return {
        "milliseconds": 1000 * statistics.median(mine),
        "torch_milliseconds": 1000 * statistics.median(theirs),
        "ratio": statistics.median(ratios),
    }


def _processor_time(function: Callable[[], None]) -> float:
    begun = time.process_time()
    function()
    return time.process_time() - begun
