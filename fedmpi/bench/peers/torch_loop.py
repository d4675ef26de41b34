"""The same federated averaging as a plain torch loop: ``PYTHON torch_loop.py FOLDER PROCESSES`` prints JSON.

The processes share the clients of a round; the first process averages and evaluates. See `averaging` for the folder.
"""

import json
import multiprocessing
import sys
import time

import numpy as np
import torch
from averaging import Work

Parameters = list[np.ndarray]


def train(folder: str, start: Parameters, clients: list[int]) -> Parameters:
    """The sum of the parameters of some clients after their epochs."""
    torch.set_num_threads(1)
    work = Work.of(folder)
    net, total = work.net(), [np.zeros_like(p) for p in start]
    for client in clients:
        put(net, start)
        torch.manual_seed(client)
        work.train(net, *work.rows(client))
        for sum_, p in zip(total, net.parameters(), strict=True):
            sum_ += p.detach().numpy()
    return total


@torch.no_grad()
def put(net: torch.nn.Module, values: Parameters) -> None:
    """Set all parameters."""
    for p, value in zip(net.parameters(), values, strict=True):
        p.copy_(torch.from_numpy(value))


def main(folder: str, processes: int) -> None:
    """All rounds."""
    torch.set_num_threads(1)
    work = Work.of(folder)
    net, test = work.net(), work.test()
    w = [p.detach().numpy().copy() for p in net.parameters()]
    training, rounds, accuracy = [], [], 0.0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for chosen in work.chosen:
            begun = time.perf_counter()
            shares = [(folder, w, chosen[i::processes]) for i in range(processes)]
            w = [sum(parts) / len(chosen) for parts in zip(*pool.starmap(train, shares, chunksize=1), strict=True)]
            training.append(time.perf_counter() - begun)
            put(net, w)
            accuracy = work.accuracy(net, *test)
            rounds.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": rounds[1:], "training_seconds": training[1:], "accuracy": accuracy}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
