"""A client of PBPFL against the model: what positive scalings and one multiple of r_a leave to be seen."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.audit.clients import Federated, federated, orders
from fedmpi.audit.finding import Finding, Images
from fedmpi.audit.recording import Recorded
from fedmpi.audit.uploads import described
from fedmpi.learn import FlatModel
from fedmpi.pbpfl.gradients import Differentiator
from fedmpi.pbpfl.messages import from_bytes
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.structure import Structure, structure_of
from fedmpi.runs.checkpoint import FOLDER

CLAIM = "clients, colluding or not, can't obtain the model in training (section 4)"

PREDICTIONS = "a client can't obtain true predictions (Lemma 3, of one sample)"

OPEN = "with --gamma-range 0 0 clients see true predictions (said in SECURITY.md)"

NEAR = 0.05
"""A number counts as found within so large a relative error."""

EXACT = 1e-4
"""An output counts as the true one within so large a relative error: weights travel as float32."""

ROWS = 16
"""A client with fewer rows does not regress."""

Vector = NDArray[np.float64]


def findings(run: Recorded) -> Iterator[Finding]:
    """Directions, signs and scales of the weights, and γ, from the last model whose truth is known."""
    params = run.parameters(Params)
    if not params.perturbed:
        return
    fed = federated(run)
    structure = structure_of(fed.model, next(iter(fed.clients.values())).X.shape[1:])
    fed.model.requires_grad_()  # clients get what is frozen too
    true, seen, r_a = last_model(run, fed, params)
    yield from weights(run, structure, true, seen)
    if not params.corrected:
        yield outputs(run, fed, true, seen)
    elif min(len(client.X) for client in fed.clients.values()) >= ROWS:
        yield gamma(run, fed, structure, true, seen, r_a)


def last_model(run: Recorded, fed: Federated, params: Params) -> tuple[Vector, Vector, Vector]:
    """W, Ŵ and r_a of the last round before which the server wrote a checkpoint; else of the first, with initial W."""
    rounds = {int(order["round"]): order for order in orders(run)}
    for path in sorted((run.path / FOLDER).glob("*.npz"), reverse=True):
        t = int(path.stem)
        if t in rounds:
            return _weights(path), from_bytes(rounds[t]["w"], params), rounds[t]["r_a"]
    return FlatModel(fed.model).read(), from_bytes(rounds[0]["w"], params), rounds[0]["r_a"]


def _weights(path: Path) -> Vector:
    with np.load(path, allow_pickle=False) as file:
        w: Vector = file["w"]
    return w


def weights(run: Recorded, structure: Structure, true: Vector, seen: Vector) -> Iterator[Finding]:
    """Directions and scales of the first layer's units, and all signs."""
    first, last = structure.layers[0], structure.last
    a, b = (values[first.weight].reshape(first.shape[0], -1) for values in (true, seen))
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    alive = lengths[0] > 0
    angles = np.linalg.norm(a[alive] / lengths[0][alive, None] - b[alive] / lengths[1][alive, None], axis=1)
    saw = "the perturbed model of a round"

    def finding(attack: str, measure: str, scores: Vector, successes: int, chance: float, images: Images) -> Finding:
        return Finding(
            run.system,
            described(run),
            "client",
            saw,
            attack,
            CLAIM,
            True,
            measure,
            tuple(scores.tolist()),
            successes,
            chance,
            frozenset([run.seed]),
            images,
            target="the model",
        )

    pictures = {"W, first layer": _picture(a), "what a client sees": _picture(b), "seen, rows to one length": _unit(b)}
    pictures["W, rows to one length"] = _unit(a)
    yield finding("directions of rows", "angle", angles, int((angles < 1e-4).sum()), 0.0, pictures)
    hidden = np.ones(structure.parameters, bool)
    hidden[last.weight] = False
    if last.bias is not None:
        hidden[last.bias] = False
    wrong = np.array([float((np.sign(true[hidden]) != np.sign(seen[hidden])).mean())])
    yield finding("signs and zeros but for the last layer", "part that is wrong", wrong, int(wrong[0] == 0), 0.0, {})
    scales = np.abs(lengths[1][alive] / lengths[0][alive] - 1)
    chance = NEAR / np.log(float(run.config["scaling"])) if run.config["scaling"] > 1 else 1.0
    successes = int((scales < NEAR).sum())
    yield finding("lengths of rows, as they are", "relative error", scales, successes, min(1.0, chance), {})


def gamma(run: Recorded, fed: Federated, structure: Structure, true: Vector, seen: Vector, r_a: Vector) -> Finding:
    """γ by a regression of outputs minus labels on α r_a, over a client's own rows; from it follow all predictions."""
    own = Differentiator(fed.model.double(), structure.last.name)
    bias = structure.last.bias
    rows = structure.last.weight if bias is None else bias
    shift = (seen - true)[rows].reshape(structure.outputs, -1).mean(1)  # exact for biases, which are not scaled
    gamma = float(shift @ r_a / (r_a @ r_a))
    own.flat.load(seen)
    errors = []
    for client in fed.clients.values():
        with torch.no_grad():
            outputs, hidden = own.forward(torch.from_numpy(client.X))
            known = (own.alpha(hidden)[:, None] * torch.from_numpy(np.array(r_a))).numpy()
        targets = np.eye(structure.outputs)[client.y] if structure.outputs > 1 else client.y[:, None]
        estimate = float((known * (outputs.numpy() - targets)).sum() / (known**2).sum())
        errors.append(abs(estimate / gamma - 1))
    low, high = run.config["gamma_range"]
    return Finding(
        run.system,
        described(run),
        "client",
        "the perturbed model of a round, and its own rows with labels",
        "γ by regression over a batch, and with it true predictions",
        PREDICTIONS,
        True,
        "relative error",
        tuple(errors),
        sum(error < NEAR for error in errors),
        min(1.0, 2 * NEAR * high / (high - low)) if high > low else 1.0,
        frozenset([run.seed]),
        target="predictions",
    )


def outputs(run: Recorded, fed: Federated, true: Vector, seen: Vector) -> Finding:
    """Without noise on the outputs (--gamma-range 0 0): those of the perturbed model, on a client's own rows."""
    model, errors = FlatModel(fed.model.double()), []
    for client in fed.clients.values():
        found = []
        for w in (true, seen):
            model.load(w)
            with torch.no_grad():
                found.append(model.model(torch.from_numpy(client.X)))
        errors.append(float((found[1] - found[0]).abs().max() / found[0].abs().max()))
    return Finding(
        run.system,
        described(run),
        "client",
        "the perturbed model of a round, and its own rows",
        "true predictions: the outputs, as they are",
        OPEN,
        False,
        "relative error",
        tuple(errors),
        sum(error < EXACT for error in errors),
        seeds=frozenset([run.seed]),
        target="predictions",
    )


def _picture(values: Vector) -> Vector:
    """Magnitudes as one image, shape (1, 1, rows, columns)."""
    picture: Vector = np.abs(values)[None, None] / (np.abs(values).max() or 1.0)
    return picture


def _unit(values: Vector) -> Vector:
    return _picture(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300))
