"""Figure 4 of SPN: gradients of the two losses, layer by layer, after a client has trained for a while."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.runs.job import Job
from fedmpi.spn.client import Clients
from fedmpi.spn.params import Params


@dataclass(frozen=True, eq=False)
class Layer:
    """The gradients of one layer's weights, or biases."""

    name: str
    polarization: NDArray[np.float64]
    """α₂ times the gradient of the polarization loss, flat."""
    cross_entropy: NDArray[np.float64]

    @property
    def cosine(self) -> float:
        """Similarity of the two directions."""
        norms = np.linalg.norm(self.polarization) * np.linalg.norm(self.cross_entropy)
        return float(self.polarization @ self.cross_entropy / norms) if norms else 0.0


def gradients(
    dataset: str, data_dir: Path | None, rows: int = 1000, epochs: int = 3, alpha2: float = 0.1
) -> list[Layer]:
    """Of the backbone of a DLNet, over the first rows of a data set.

    Parameters
    ----------
    rows : int
        That the client has.
    epochs : int
        That it trains before.
    """
    torch.set_num_threads(1)
    params = Params(model="dlnet", clients=1, epochs=epochs, alpha2=alpha2, learning_rate=0.001)
    data = {"max_rows": rows, "data_dir": str(data_dir) if data_dir else None}
    own = Clients.load(Job(params, dataset, data, 0), 0, 1, 1, 1)
    worker, private, inputs = own.workers[0], own.private[0], own.inputs[0]
    G = worker.flat.read()
    worker.flat.load(G + own.update([0], 0, G[None])[0])
    found: dict[str, list[NDArray[np.float64]]] = {}
    for one in (replace(params, alpha1=0.0), replace(params, alpha2=0.0)):
        worker.params = one
        worker.flat.gradient.zero_()
        torch.autograd.backward(worker.loss(inputs.X, inputs.y, private))
        for name, parameter in worker.backbone.named_parameters():
            assert parameter.grad is not None
            found.setdefault(name, []).append(parameter.grad.double().reshape(-1).numpy().copy())
    return [Layer(name, *pair) for name, pair in found.items()]
