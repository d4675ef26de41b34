"""Anybody who has the final model: was a row trained on? By its loss, and by LiRA with a few reference models."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks.membership import Membership, lira
from fedmpi.audit.clients import Federated, Vector, federated
from fedmpi.audit.finding import Finding, told
from fedmpi.audit.recording import Recorded
from fedmpi.audit.steps import of_squares
from fedmpi.audit.uploads import described
from fedmpi.data import load
from fedmpi.learn import FlatModel, Loss, cross_entropy, stream
from fedmpi.learn.inputs import divisor_of
from fedmpi.runs.model import read_arrays

ROWS = 100
"""Runs with fewer training rows are left out: one part in a hundred could not be told."""

REFERENCES = 4
"""Models that the adversary trains."""

TRAINED, COMPARED = 1 / 3, 1 / 6
"""Parts of the test rows that the adversary has: for its models, and to compare with. Nobody trained on the rest."""

OTHER = ("the final model is given to the clients: nothing is claimed of it", None)

CLAIMS: dict[tuple[str, str], tuple[str, bool | None]] = {
    ("niss", "fedavg"): ("averaging alone hides no membership (no claim)", False),
    ("niss", "distributed-dp"): ("noise of (ε, δ) bounds what the model tells of one row", True),
    ("niss", "dp-fedavg"): ("noise of (ε, δ) bounds what the model tells of one row", True),
    ("niss", "niss"): ("with τ = 0 the model is that of averaging, and tells as much (erratum 10)", False),
}

EXCHANGED = "scores that are dealt out at random tell nothing (negative control)"


def findings(run: Recorded) -> Iterator[Finding]:
    """True positives at 1 % of false ones, of the final model of a run with classes."""
    fed = federated(run)
    members = sum(len(client.X) for client in fed.clients.values())
    if members < ROWS or fed.classes < 2 or run.method == "standalone":
        return
    claim, protects = CLAIMS.get((run.system, run.method), OTHER)
    if run.method == "niss" and run.table("params").get("tau_squared"):
        claim, protects = "noise that stays bounds what the model tells of one row", True
    arrays = read_arrays(run.path)
    start = FlatModel(fed.model).read()
    for name, parameter in fed.model.named_parameters():
        parameter.data = torch.from_numpy(arrays[name].copy())
    rows = Rows.of(run, fed)
    if not len(rows.outside[1]):  # all rows were trained on
        return
    loss: Loss = of_squares if run.system == "pbpfl" and run.method != "fedavg-ce" else cross_entropy
    blank = Finding(
        run.system,
        described(run),
        "anybody",
        f"the final model, trained on {members} rows",
        "membership by loss",
        claim,
        protects,
        "",
        (),
        0,
        seeds=frozenset([run.seed]),
        target="membership",
    )
    by_loss = Membership(*(-of_each(fed.model, loss, *own) for own in (rows.inside, rows.outside)))
    yield curved(told(blank, by_loss))
    scores = scored(run, fed, start, rows, loss)
    by_ratio = replace(blank, attack=f"membership by LiRA, {REFERENCES} reference models")
    yield curved(told(by_ratio, scores))
    if protects is False:
        mixed = scores.exchanged(stream(run.seed, "members exchanged"))
        control = replace(by_ratio, attack="membership by LiRA, members and others exchanged", claim=EXCHANGED)
        yield told(replace(control, protects=True), mixed)


def curved(row: Finding) -> Finding:
    """With its curve."""
    assert row.membership is not None
    roc = row.membership.roc
    return replace(row, curves={f"{row.method}, {row.attack}": (roc.false_positive, roc.true_positive)})


Lot = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Rows and labels."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Whose rows are whose."""

    inside: Lot
    """Of the clients."""
    outside: Lot
    """Of nobody."""
    trained: Lot
    """Of the adversary, for its models."""
    compared: Lot
    """Of the adversary, and in no model."""

    @classmethod
    def of(cls, run: Recorded, fed: Federated) -> "Rows":
        """The clients' rows, and the test part in three."""
        options = run.options
        data = load(options.dataset or "digits", seed=options.seed, **options.scaled_load_arguments())
        X = np.concatenate([client.X for client in fed.clients.values()])
        y = np.concatenate([client.y for client in fed.clients.values()])
        others = (data.X_test / divisor_of(data)).reshape(len(data.X_test), *X.shape[1:])
        order = stream(run.seed, "rows that the adversary has").permutation(len(others))
        cuts = np.cumsum([round(part * len(others)) for part in (TRAINED, COMPARED)])
        trained, compared, outside = (
            (others[part].astype(np.float64), data.y_test[part]) for part in np.split(order, cuts)
        )
        return cls((X, y), outside, trained, compared)


def scored(run: Recorded, fed: Federated, start: Vector, rows: Rows, loss: Loss) -> Membership:
    """LiRA's scores of the clients' rows, and of those of nobody; the model that is attacked is in `fed`."""
    lots = (rows.inside, rows.outside, rows.compared)
    own = [of_each(fed.model, loss, *lot) for lot in lots]
    final, flat = FlatModel(fed.model).read(), FlatModel(fed.model)
    references = []
    for number in range(REFERENCES):
        rng = stream(run.seed, "reference model", number)
        flat.load(start)
        train(run, flat.model, loss, drawn(rows, rng), rng)
        references.append([of_each(flat.model, loss, *lot) for lot in lots])
    flat.load(final)
    usual = [np.stack(one) for one in zip(*references, strict=True)]
    return Membership(*(lira(own[i], usual[i], own[2], usual[2]) for i in (0, 1)))


def drawn(rows: Rows, rng: np.random.Generator) -> Lot:
    """As many rows as the clients have, or half of what there is for reference models."""
    count = min(len(rows.inside[1]), max(1, len(rows.trained[1]) // 2))
    chosen = rng.permutation(len(rows.trained[1]))[:count]
    return rows.trained[0][chosen], rows.trained[1][chosen]


def train(run: Recorded, model: nn.Module, loss: Loss, lot: Lot, rng: np.random.Generator) -> None:
    """As the clients do, as far as one can who trains alone: their optimizer, and as many passes over the rows."""
    torch.set_num_threads(1)
    config: dict[str, Any] = run.config
    size, rounds = int(config["batch_size"]), int(run.table("params").get("rounds", config.get("rounds", 1)))
    if run.system == "pbpfl":  # a round is a batch of each client
        size *= int(run.result["params"]["clients"])
        epochs = -(-rounds * size // len(lot[1]))
    else:
        epochs = rounds * int(config["epochs"])
    parameters, rate = [p for p in model.parameters() if p.requires_grad], float(config["learning_rate"])
    momentum = float(config.get("momentum", 0.0))
    clip = float(config["clip"]) if config.get("clipping") == "gradient" else None
    adam = config.get("optimizer") == "adam"
    optimizer = torch.optim.Adam(parameters, rate) if adam else torch.optim.SGD(parameters, rate, momentum)
    X, y = torch.from_numpy(lot[0]).to(parameters[0].dtype), torch.from_numpy(lot[1])
    model.train()
    for _ in range(epochs):
        for part in np.array_split(rng.permutation(len(y)), -(-len(y) // size)):
            optimizer.zero_grad()
            value = loss(model, X[part], y[part])
            torch.autograd.backward(value)
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()


def of_each(model: nn.Module, loss: Loss, X: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """The loss of each row."""
    dtype, labels = next(model.parameters()).dtype, torch.from_numpy(y)
    with torch.no_grad():
        outputs = model.eval()(torch.from_numpy(X).to(dtype)).double()
        if loss is cross_entropy:
            values = nn.functional.cross_entropy(outputs, labels, reduction="none")
        else:
            values = 0.5 * (outputs - nn.functional.one_hot(labels, outputs.shape[1])).square().sum(1)
    found: NDArray[np.float64] = values.numpy()
    return found
