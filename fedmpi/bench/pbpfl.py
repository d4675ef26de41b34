"""What a client and the server of PBPFL compute in a round, against federated averaging [Feng et al. 2020, Table 3]."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fedmpi.crypto.reals import UnitRandom
from fedmpi.learn import FlatModel, build_model
from fedmpi.pbpfl.gradients import Differentiator, squared_error
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.perturbation import draw, perturb, recover, unshift
from fedmpi.pbpfl.structure import structure_of

CLASSES = 7


def measure(model: str, side: int, batch_size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time of a round in one thread: the median of several, of FedAvg and PBPFL in turns.

    Parameters
    ----------
    model : str
    side : int
        Of the images, pixels.
    batch_size : int
        Rows of a batch.
    repeats : int

    Returns
    -------
    dict
        fedavg, pbpfl → PP parameter perturbation, LFP and LBP the client's forward and backward propagation, MU model
        update; client is LFP + LBP. ratio → pbpfl over fedavg.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(model, side, batch_size, repeats)
    finally:
        torch.set_num_threads(threads)


def _measure(name: str, side: int, batch_size: int, repeats: int) -> dict[str, dict[str, float]]:
    shape, params, uniform = (3, side, side), Params(), UnitRandom()
    module = build_model(name, shape, CLASSES, 0)
    structure = structure_of(module, shape)
    own, w = Differentiator(module, structure.last.name), FlatModel(build_model(name, shape, CLASSES, 0)).read()
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.random((batch_size, *shape)), dtype=torch.float32)
    targets = torch.eye(CLASSES)[torch.tensor(rng.integers(0, CLASSES, batch_size))]
    seconds: dict[str, list[float]] = {}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        seconds.setdefault(what, []).append(1000 * (time.process_time() - begun))

    for _ in range(repeats + 1):  # the first is not counted
        own.flat.load(w)
        with timed("fedavg LFP"):
            outputs, _ = own.forward(X)
        with timed("fedavg LBP"):
            gradient = own.gradient(squared_error(outputs, targets))
        with timed("fedavg MU"):
            w - params.learning_rate * gradient.double().numpy()
        noise = draw(structure, params, uniform)
        with timed("pbpfl PP"):
            w_hat = perturb(structure, w, noise)
        own.flat.load(w_hat)
        with timed("pbpfl LFP"):
            outputs, hidden = own.forward(X)
        with timed("pbpfl LBP"):
            terms, shift = own.terms(outputs, hidden, targets, torch.tensor(noise.r_a, dtype=torch.float32))
        with timed("pbpfl MU"):
            recovered = recover(structure, unshift(terms.double().numpy(), shift, noise.r_a), noise)
            w - params.learning_rate * recovered
    medians = {what: statistics.median(values[1:]) for what, values in seconds.items()}
    table = {
        method: {part: medians.get(f"{method} {part}", 0.0) for part in ("PP", "LFP", "LBP", "MU")}
        for method in ("fedavg", "pbpfl")
    }
    for parts in table.values():
        parts["client"] = parts["LFP"] + parts["LBP"]
        parts["server"] = parts["PP"] + parts["MU"]
    table["ratio"] = {
        part: table["pbpfl"][part] / table["fedavg"][part] for part in ("LFP", "LBP", "MU", "client", "server")
    }
    return table
