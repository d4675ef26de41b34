"""The same federated averaging with Flower's simulation: ``PYTHON flower.py FOLDER PROCESSES`` prints JSON.

See `averaging` for the folder. Flower samples the clients of a round itself.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from averaging import Work
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client, server = ClientApp(), ServerApp()
times: list[float] = []
accuracies: list[float] = []


@client.train()
def train(message: Message, context: Context) -> Message:
    """E epochs of one client."""
    torch.set_num_threads(1)
    work = Work.of(str(message.content["config"]["data"]))
    X, y = work.rows(int(context.node_config["partition-id"]))
    net = work.net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    work.train(net, X, y)
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(y)})})
    return Message(content=content, reply_to=message)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Average, and note the time and the accuracy after every round."""
    work = Work.of(sys.argv[1])
    net, test = work.net(), work.test()

    def evaluate(round_: int, arrays: ArrayRecord) -> MetricRecord:
        net.load_state_dict(arrays.to_torch_state_dict())
        accuracies.append(work.accuracy(net, *test))
        times.append(time.perf_counter())
        return MetricRecord({"accuracy": accuracies[-1]})

    fraction = work.per_round / work.clients
    FedAvg(fraction_train=fraction, fraction_evaluate=0.0, min_available_nodes=work.clients).start(
        grid=grid,
        initial_arrays=ArrayRecord(net.state_dict()),
        num_rounds=len(work.chosen),
        train_config=ConfigRecord({"data": sys.argv[1]}),
        evaluate_fn=evaluate,
    )


if __name__ == "__main__":
    resources: Any = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": int(sys.argv[2])}}
    run_simulation(server, client, Work.of(sys.argv[1]).clients, backend_config=resources)
    seconds = np.diff(times)[1:]  # the first round starts the workers
    print(json.dumps({"seconds": list(seconds), "accuracy": accuracies[-1]}))
