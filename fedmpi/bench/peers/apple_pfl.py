"""The same federated averaging with Apple's pfl: ``torchrun --nproc-per-node P apple_pfl.py FOLDER`` prints JSON.

See `averaging` for the folder. The processes share the clients of a round; the first one evaluates.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch
from averaging import Work
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Net(torch.nn.Module):
    """The model with the methods that pfl asks for."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def loss(self, X: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        """Mean cross-entropy."""
        self.train(not eval)
        return torch.nn.functional.cross_entropy(self.net(X), y)

    def metrics(self, X: torch.Tensor, y: torch.Tensor, eval: bool = False) -> dict[str, Any]:
        """None: `Clock` evaluates."""
        return {}


class Clock(TrainingProcessCallback):
    """Notes the time and the accuracy after every round."""

    def __init__(self, work: Work, net: torch.nn.Module):
        self.work, self.net, self.test = work, net, work.test()
        self.times: list[float] = []
        self.accuracy = 0.0

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        """Evaluate in the first process."""
        if os.environ.get("RANK", "0") == "0":
            self.accuracy = self.work.accuracy(self.net, *self.test)
        self.times.append(time.perf_counter())
        return False, Metrics()


def main(folder: str) -> None:
    """All rounds."""
    torch.set_num_threads(1)
    work = Work.of(folder)
    net = work.net()
    central = torch.optim.SGD(net.parameters(), 1.0)
    model = PyTorchModel(Net(net), torch.optim.SGD, central)
    parts = {str(k): Dataset(work.rows(k), user_id=str(k)) for k in range(work.clients)}
    users = (str(k) for chosen in work.chosen for k in chosen)
    backend = SimulatedBackend(FederatedDataset(parts.__getitem__, lambda: next(users)), val_data=None)
    params = NNAlgorithmParams(
        central_num_iterations=len(work.chosen),
        evaluation_frequency=10**9,
        train_cohort_size=work.per_round,
        val_cohort_size=0,
    )
    local = NNTrainHyperParams(
        local_num_epochs=work.epochs, local_learning_rate=work.learning_rate, local_batch_size=work.batch_size
    )
    clock = Clock(work, net)
    FederatedAveraging().run(params, backend, model, local, NNEvalHyperParams(local_batch_size=1000), [clock])
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"seconds": np.diff(clock.times).tolist(), "accuracy": clock.accuracy}))


if __name__ == "__main__":
    main(sys.argv[1])
