"""One training of COPML, or by products of shares, every owner an MPI rank: what its protocol costs, without start-up.

``mpirun -n OWNERS python -m fedmpi.bench.ranks.copml DATASET METHOD ENCODING ITERATIONS`` is what `fedmpi bench copml`
starts.
"""

import json
import resource
import sys
from typing import Annotated, Any

from fedmpi.copml import service
from fedmpi.copml.params import Params
from fedmpi.copml.protocol import owner
from fedmpi.data import load
from fedmpi.data.partition import rows_of
from fedmpi.net import Channel, Message
from fedmpi.net.meaning import PART
from fedmpi.net.mpi import job

CLASSES = ("4", "9")


class Spent(Message, tag=17):
    """Owner → rank 0, at the end: processor seconds of all and of the iterations, bytes sent, most bytes held."""

    total: Annotated[float, PART]
    iterations: Annotated[float, PART]
    sent: Annotated[float, PART]
    memory: Annotated[float, PART]


def train(ch: Channel, dataset: str, params: Params) -> dict[str, Any]:
    """Every N-th row is an owner's. What all owners spent, and on rank 0 how good the model is."""
    data = load(dataset, classes=CLASSES)
    rows = [rows_of(rank, ch.size, len(data.y_train), data.groups) for rank in range(ch.size)]
    task, X, Y = service.prepared_rows(params, data, rows[ch.rank], [len(part) for part in rows])
    trained = owner(ch, task, X, Y)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cpu = trained.total_cpu_seconds, trained.cpu_seconds
    spent = [Spent(*cpu, float(ch.meter.bytes_sent.total()), float(memory))]
    if ch.rank:
        ch.send(0, spent[0])
        return {}
    spent += ch.gather(range(1, ch.size), Spent).values()
    right = service.decided(service.outputs(data, data.X_test, trained.W)) == data.y_test
    return {
        "total_seconds": trained.total_seconds,
        "training_seconds": trained.seconds,
        "total_cpu_seconds": sum(one.total for one in spent),
        "training_cpu_seconds": sum(one.iterations for one in spent),
        "sent_mb": sum(one.sent for one in spent) / len(spent) / 1e6,
        "peak_memory_mb": max(one.memory for one in spent) / 1e6,
        "test_accuracy": float(right.mean()),
        "products": 2 * sum(map(len, rows)) * task.columns * trained.iterations,
    }


if __name__ == "__main__":
    name, method, encoding, iterations = sys.argv[1:5]
    with job() as channel:
        options: Any = {"method": method, "encoding": encoding, "iterations": int(iterations)}
        figures = train(channel, name, Params(**options))
        if channel.rank == 0:
            print(json.dumps(figures))
