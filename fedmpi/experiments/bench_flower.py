"""The same federated averaging with Flower's simulation: ``PYTHON bench_flower.py FOLDER ROUNDS CORES`` prints JSON.

X.npy, y.npy, X_test.npy and y_test.npy are in the folder. This program imports nothing of fedmpi, for Flower may have
an environment of its own.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

CLIENTS, FRACTION, EPOCHS, BATCH, RATE = 100, 0.3, 5, 10, 0.01
HIDDEN = 200

client, server = ClientApp(), ServerApp()
times: list[float] = []
accuracies: list[float] = []


def model() -> nn.Module:
    """The MLP of the papers."""
    return nn.Sequential(nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))


@client.train()
def train(message: Message, context: Context) -> Message:
    """E epochs of one client, as Flower's examples do them."""
    torch.set_num_threads(1)
    part, path = int(context.node_config["partition-id"]), str(message.content["config"]["data"])
    X_all, y_all = (np.load(f"{path}/{name}.npy", mmap_mode="r") for name in "Xy")
    rows = slice(part * len(y_all) // CLIENTS, (part + 1) * len(y_all) // CLIENTS)
    X, y = torch.tensor(X_all[rows]).float() / 255, torch.tensor(y_all[rows])
    net = model()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(y)), BATCH):
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(net(X[batch]), y[batch]))
            optimizer.step()
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(y)})})
    return Message(content=content, reply_to=message)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Average, and note the time and the accuracy after every round."""
    X, y = (torch.from_numpy(np.load(f"{sys.argv[1]}/{name}_test.npy")) for name in "Xy")
    X = X.float() / 255
    net = model()

    def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord:
        net.load_state_dict(arrays.to_torch_state_dict())
        with torch.no_grad():
            accuracies.append(float((net(X).argmax(1) == y).float().mean()))
        times.append(time.perf_counter())
        return MetricRecord({"accuracy": accuracies[-1]})

    FedAvg(fraction_train=FRACTION, fraction_evaluate=0.0, min_available_nodes=CLIENTS).start(
        grid=grid,
        initial_arrays=ArrayRecord(net.state_dict()),
        num_rounds=int(sys.argv[2]),
        train_config=ConfigRecord({"data": sys.argv[1]}),
        evaluate_fn=evaluate,
    )


if __name__ == "__main__":
    resources: Any = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": int(sys.argv[3])}}
    run_simulation(server, client, CLIENTS, backend_config=resources)
    seconds = np.diff(times)[1:]  # the first round starts the workers
    print(json.dumps({"seconds_per_round": list(seconds), "accuracy": accuracies[-1]}))
