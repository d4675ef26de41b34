"""Anybody who has the final model: was a row trained on? By thresholds on its loss."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks.inference import loss_threshold
from fedmpi.audit.clients import Federated, federated
from fedmpi.audit.finding import Finding
from fedmpi.audit.recording import Recorded
from fedmpi.audit.uploads import described
from fedmpi.data import load
from fedmpi.learn.inputs import divisor_of
from fedmpi.runs.model import read_arrays

FALSE_POSITIVE = 0.01

FACTOR = 5
"""A rate of true positives so many times that of false ones counts as a break."""

ROWS = 100
"""Runs with fewer training rows are left out: one part in a hundred could not be told."""

CLAIMS = {
    "fedavg": ("averaging alone hides no membership (no claim)", False),
    "distributed-dp": ("noise of (ε, δ) bounds what the model tells of one row", True),
    "dp-fedavg": ("noise of (ε, δ) bounds what the model tells of one row", True),
    "niss": ("with τ = 0 the model is that of averaging, and tells as much (erratum 10)", False),
}


def findings(run: Recorded) -> Iterator[Finding]:
    """Rate of true positives at 1 % of false ones, of the final model of a run of niss."""
    fed = federated(run)
    members = sum(len(client.X) for client in fed.clients.values())
    if run.method not in CLAIMS or members < ROWS:
        return
    arrays = read_arrays(run.path)
    for name, parameter in fed.model.named_parameters():
        parameter.data = torch.from_numpy(arrays[name].copy())
    inside, outside = losses(run, fed)
    if not len(outside):  # all rows were trained on
        return
    roc = loss_threshold(inside, outside)
    rate = roc.true_positive_at(FALSE_POSITIVE)
    claim, protects = CLAIMS[run.method]
    if run.method == "niss" and run.table("params").get("tau_squared"):
        claim, protects = "noise that stays bounds what the model tells of one row", True
    yield Finding(
        run.system,
        described(run),
        "anybody",
        f"the final model, trained on {members} rows",
        "membership by loss",
        claim,
        protects,
        "true positives at 1 % false ones",
        (rate,),
        int(rate >= FACTOR * FALSE_POSITIVE),
        seeds=frozenset([run.seed]),
        target="membership",
        curves={described(run): (roc.false_positive, roc.true_positive)},
    )


def losses(run: Recorded, fed: Federated) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cross-entropy of the final model on rows it was trained on, and on those of the test part."""
    options = run.options
    data = load(options.dataset or "digits", seed=options.seed, **options.scaled_load_arguments())
    inside = np.concatenate([client.X for client in fed.clients.values()])
    labels = np.concatenate([client.y for client in fed.clients.values()])
    outside = (data.X_test / divisor_of(data)).reshape(len(data.X_test), *inside.shape[1:])

    def of(X: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
        dtype = next(fed.model.parameters()).dtype
        with torch.no_grad():
            outputs = fed.model.eval()(torch.from_numpy(X).to(dtype))
        result: NDArray[np.float64] = nn.functional.cross_entropy(
            outputs.double(), torch.from_numpy(y), reduction="none"
        ).numpy()
        return result

    return of(inside, labels), of(outside, data.y_test)
