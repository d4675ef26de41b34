"""Federated learning on torch: models, local training, evaluation and averaging, shared by several systems.

Nothing here sends a message. A system's server and hosts call, in the order of a round:

=====================  ==========================================================================================
`build_model`          the model that all agree on, from a name or an import path and a public seed
`split`                its backbone and its head
`client_rows`          which rows a client holds; `Inputs.of` makes tensors of them
`hosted`               which clients live on which rank; `train_clients` runs those of one rank on its threads
`Trainer.train`        local SGD from one flat vector of parameters to another; a loss of your own is an argument
`sample`, `weights`    the clients of a round and their p_k
`evaluate`             loss and accuracy
=====================  ==========================================================================================

Every random choice comes from `stream`, keyed by what it is for, so that results do not depend on the number of ranks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmpi.learn.clients import (
        client_rows,
        cores,
        hosted,
        sample,
        stream,
        threads_per_rank,
        train_clients,
        weights,
    )
    from fedmpi.learn.evaluation import evaluate
    from fedmpi.learn.inputs import Inputs, scale_of
    from fedmpi.learn.local_training import LocalTraining
    from fedmpi.learn.models import CNN, MLP, build_model, split
    from fedmpi.learn.parameters import FlatModel
    from fedmpi.learn.trainer import Loss, Trainer, cross_entropy

__all__ = [
    "CNN",
    "MLP",
    "FlatModel",
    "Inputs",
    "LocalTraining",
    "Loss",
    "Trainer",
    "build_model",
    "client_rows",
    "cores",
    "cross_entropy",
    "evaluate",
    "hosted",
    "sample",
    "scale_of",
    "split",
    "stream",
    "threads_per_rank",
    "train_clients",
    "weights",
]

_PLACES = {
    "clients": ("client_rows", "cores", "hosted", "sample", "stream", "threads_per_rank", "train_clients", "weights"),
    "evaluation": ("evaluate",),
    "inputs": ("Inputs", "scale_of"),
    "local_training": ("LocalTraining",),
    "models": ("CNN", "MLP", "build_model", "split"),
    "parameters": ("FlatModel",),
    "trainer": ("Loss", "Trainer", "cross_entropy"),
}
"""File → what of it is named here. Imported when first used: a command line that is refused must not wait for torch."""


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"fedmpi.learn.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
