"""A curious server against one client's upload: federated averaging with noise, masks, secret heads, or nothing."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.attacks import deep_leakage, secret_head
from fedmpi.attacks.features import parts_of
from fedmpi.attacks.gradients import Gradient
from fedmpi.attacks.labels import label_of
from fedmpi.attacks.linear import layer_input
from fedmpi.attacks.metrics import PSNR, SSIM, mean_squared_errors, psnr, ssim
from fedmpi.attacks.spear import batch_rows
from fedmpi.audit.clients import SERVER, Client, Federated, Step, Upload, federated, step_of, uploads
from fedmpi.audit.finding import PICTURED, Finding, as_images
from fedmpi.audit.recording import Recorded
from fedmpi.audit.statistics import ALARM, p_value_of_words
from fedmpi.errors import UsageError
from fedmpi.runs.reading import number

SUCCESS = 1e-3
"""A row counts as recovered below this mean squared error: of images with pixels in [0, 1], of tables with each column
in units of its deviation over all clients."""

LARGEST = 40
"""Rows of a client, at most, for a search for all of them to begin."""

SEARCHED = 4
"""Clients of a run that are searched for, at most; what has a closed form is tried on all."""

SEARCH = replace(deep_leakage.DEFAULT, steps=30, restarts=1)
"""Deep leakage on a small image is done after a dozen steps, or never."""

NO_CLAIM = "federated averaging alone hides no row (no claim)"

CLAIMS = {
    ("niss", "fedavg"): (NO_CLAIM, False),
    ("niss", "dp-fedavg"): ("noise of (ε, δ) hides a client's rows from the server", True),
    ("niss", "niss"): ("noise that cancels in the sum hides a client's rows from the server (Theorem 3)", True),
    ("pbpfl", "pbpfl"): ("the server can't obtain training data from what it receives", True),
    ("pbpfl", "pbpfl-masked"): ("the server learns the sum of the gradients alone (appendix C)", True),
    ("pbpfl", "fedavg-mse"): (NO_CLAIM, False),
    ("pbpfl", "fedavg-ce"): (NO_CLAIM, False),
    ("spn", "fedavg"): (NO_CLAIM, False),
    ("spn", "dp"): ("noise on the gradient thwarts reconstruction", True),
    ("spn", "ppdl"): ("sharing the largest part of the change alone protects rows [Shokri and Shmatikov 2015]", True),
    ("spn", "spn"): ("the secret head's perturbation guarantees that reconstruction fails (section 3)", True),
}

CLOSED_FORM = "first layer in closed form (Theorem 2.1)"

WHOLE_BATCH = "all rows by units that are silent together (SPEAR)"

TRIES = 5_000
"""Starts, at most, of a search for a batch."""

Guess = Callable[[Federated, Upload, Client], NDArray[np.float64]]
"""An attack: one row, in the shape of an input. It is given the client for the shape of a batch alone."""


def reconstructions(run: Recorded) -> Iterator[Finding]:
    """Rows of the clients, from their first uploads."""
    if (run.system, run.method) not in CLAIMS:
        return
    fed = federated(run)
    ours = list(uploads(run))
    if not ours:
        return
    step = step_of(run, fed.clients[ours[0].client])
    for name, guess in guesses(run, fed).items():
        yield judged(run, fed, ours if name == CLOSED_FORM else ours[:SEARCHED], step, name, guess)
    if (batches := whole_batches(run, fed, ours[:SEARCHED], step)) is not None:
        yield batches
    if step.single and with_labels(run):
        yield labels(run, fed, ours, step)


def with_labels(run: Recorded) -> bool:
    """Whether a gradient of cross-entropy is what is sent: its sign tells the label."""
    return run.system != "pbpfl" or run.method == "fedavg-ce"


def guesses(run: Recorded, fed: Federated) -> dict[str, Guess]:
    """The attacks that apply to a model: closed form where its first layer is fully connected, else a search."""
    partly = run.method == "ppdl"
    if begins_dense(fed):
        return {CLOSED_FORM: lambda fed, upload, client: _linear(fed, upload, partly)}
    if run.system != "spn":
        return {}
    rate, settings = float(run.config["learning_rate"]), replace(SEARCH, sent_only=partly)

    def search(attack: Any) -> Guess:
        def guess(fed: Federated, upload: Upload, client: Client) -> NDArray[np.float64]:
            torch.set_num_threads(1)
            fed.load(upload.w)
            gradient: Gradient = fed.gradient(upload.change / rate)
            found = attack(fed.model, gradient, (1, *client.X.shape[1:]), fed.classes, settings, seed=upload.client)
            image: NDArray[np.float64] = found.images[0]
            return image

        return guess

    known = {"deep leakage (DLG)": search(deep_leakage.deep_leakage)}
    if run.method == "spn":
        known["deep leakage that knows of a secret head"] = search(secret_head.secret_head)
    return known


def begins_dense(fed: Federated) -> bool:
    """Whether the first layer is fully connected, and trained."""
    first = next(fed.model.parameters())
    shape = next(iter(fed.clients.values())).X.shape[1:]
    return first.requires_grad and first.ndim == 2 and first.shape[1] == int(np.prod(shape))


def whole_batches(run: Recorded, fed: Federated, ours: list[Upload], step: Step) -> Finding | None:
    """All rows that a client used, by a search for units that are silent together; None where there is no such search.

    Several steps on the same rows give one product with these rows, so that all of a client's rows count.
    """
    parts = parts_of(fed.model)
    rows = max((step.used(len(fed.clients[upload.client].X)) for upload in ours), default=0)
    if not begins_dense(fed) or parts is None or len(parts[1]) < 2 or not isinstance(parts[1][1], nn.ReLU):
        return None
    if not 2 <= rows <= LARGEST:
        return None
    errors: list[float] = []
    originals, found, units = [], [], spread(fed)
    for upload in ours:
        client = fed.clients[upload.client]
        fed.load(upload.w)
        layer = [part.detach().double().numpy() for part in list(fed.model.parameters())[:2]]
        gradients = [fed.gradient(part)[:2] for part in (upload.change, *upload.more)]
        weights, biases = (np.stack([part[i].double().numpy() for part in gradients]) for i in (0, 1))
        used = step.used(len(client.X))
        try:
            seen = batch_rows(weights, biases, layer=(layer[0], layer[1]), tries=TRIES, seed=upload.client, most=used)
        except UsageError:  # nothing was sent
            seen = None
        guesses = seen.rows if seen is not None and len(seen.rows) else np.full((1, layer[0].shape[1]), 0.5)
        flat = client.X.reshape(len(client.X), -1)
        distances = (((guesses[None] - flat[:, None]) / units.reshape(-1)) ** 2).mean(axis=2)
        nearest = distances.min(axis=1)
        order = np.argsort(nearest)[:used]  # of a client's rows those of the batch
        errors += nearest[order].tolist()
        originals.append(client.X[order[0]])
        found.append(guesses[distances[order[0]].argmin()].reshape(client.X.shape[1:]))
    return _of_errors(run, step, WHOLE_BATCH, errors, originals, found)


def spread(fed: Federated) -> NDArray[np.float64]:
    """What errors are measured in: of images 1, the range of a pixel; of each column of a table its deviation."""
    X = np.concatenate([client.X for client in fed.clients.values()])
    if X.ndim > 2:
        return np.ones(X.shape[1:])
    deviations: NDArray[np.float64] = X.std(axis=0)
    return np.where(deviations > 0, deviations, 1.0)


def recognized(image: NDArray[np.float64], true: NDArray[np.float64]) -> bool:
    """Whether a person would say of an image (channels, height, width) which one it is; tables are no pictures."""
    if image.ndim != 3:
        return False
    one, other = np.clip(image, 0, 1)[None], true[None]
    return bool(psnr(one, other)[0] >= PSNR and ssim(one, other)[0] >= SSIM)


def _linear(fed: Federated, upload: Upload, partly: bool) -> NDArray[np.float64]:
    weight, bias = (part.double().numpy() for part in fed.gradient(upload.change)[:2])
    return layer_input(weight, bias, sent_only=partly)


def judged(run: Recorded, fed: Federated, ours: list[Upload], step: Step, name: str, guess: Guess) -> Finding:
    """How near an attack came to the nearest row of each client."""
    errors, originals, found, units = [], [], [], spread(fed)
    for upload in ours:
        client = fed.clients[upload.client]
        try:
            image = np.nan_to_num(guess(fed, upload, client).reshape(client.X.shape[1:]), posinf=1e9, neginf=-1e9)
        except UsageError:  # there is nothing to be divided by
            image = np.full(client.X.shape[1:], 0.5)
        distances = mean_squared_errors(np.broadcast_to(image / units, client.X.shape), client.X / units)
        errors.append(float(distances.min()))
        originals.append(client.X[distances.argmin()])
        found.append(image)
    seen = sum(
        error >= SUCCESS and recognized(one, true) for error, one, true in zip(errors, found, originals, strict=True)
    )
    return replace(_of_errors(run, step, name, errors, originals, found), recognized=seen)


def _of_errors(
    run: Recorded,
    step: Step,
    attack: str,
    errors: Sequence[float],
    originals: Sequence[NDArray[np.float64]],
    found: Sequence[NDArray[np.float64]],
) -> Finding:
    claim, protects = claim_of(run, step)
    pictures = {"the clients' rows": np.stack(originals[:PICTURED]), "found in the uploads": np.stack(found[:PICTURED])}
    return Finding(
        run.system,
        described(run),
        "server",
        str(step),
        attack,
        claim,
        protects,
        "mean squared error",
        tuple(errors),
        sum(error < SUCCESS for error in errors),
        seeds=frozenset([run.seed]),
        images={title: as_images(rows) for title, rows in pictures.items()},
    )


def labels(run: Recorded, fed: Federated, ours: list[Upload], step: Step) -> Finding:
    """The label of a client's row, by the sign of the last bias gradient."""
    right = []
    for upload in ours:
        found = label_of(fed.gradient(upload.change))
        right.append(bool((fed.clients[upload.client].y == found).any()))
    claim, protects = claim_of(run, step)
    return Finding(
        run.system,
        described(run),
        "server",
        str(step),
        "label by the sign of a gradient (iDLG)",
        claim,
        protects,
        "right",
        tuple(float(one) for one in right),
        sum(right),
        chance=1 / fed.classes,
        seeds=frozenset([run.seed]),
        target="labels",
    )


def claim_of(run: Recorded, step: Step) -> tuple[str, bool | None]:
    """What the paper says; an upload of several rows or steps is no positive control."""
    claim, protects = CLAIMS[run.system, run.method]
    return claim, protects if protects or step.single else None


def described(run: Recorded) -> str:
    """The method, with what decides on its privacy."""
    config = run.config
    kept = number(run.table("params").get("tau_squared")) or 0.0
    details = {
        ("niss", "niss"): f"niss, τ² = {kept:.3g}{', budgets' * ('budgets' in config)}",
        ("niss", "dp-fedavg"): f"dp-fedavg, ε = {config.get('epsilon', 0.0):g}",
        ("niss", "distributed-dp"): f"distributed-dp, {of_noise(config)}",
        ("pbpfl", "pbpfl"): "pbpfl" + ", γ = 0" * (not any(config.get("gamma_range", (1,)))),
        ("spn", "spn"): f"spn, α₂ = {config.get('alpha2', 0.0):g}, {config.get('model')}",
        ("spn", "dp"): f"dp, σ = {config.get('noise_std', 0.0):g}, {config.get('model')}",
        ("spn", "ppdl"): f"ppdl, θ = {config.get('share_fraction', 0.0):g}, {config.get('model')}",
        ("spn", "fedavg"): f"fedavg, {config.get('model')}",
    }
    summed = config.get("secure_sum", "none") if run.system == "niss" else "none"
    return details.get((run.system, run.method), run.method) + f", {summed}" * (summed != "none")


def of_noise(config: Mapping[str, Any]) -> str:
    """Of distributed noise: what it was chosen by."""
    if config.get("noise_std") is not None:
        return f"σ = {config['noise_std']:g}"
    return f"ε = {config.get('epsilon', 0.0):g}"


def masked_words(run: Recorded) -> Iterator[Finding]:
    """What the server of pbpfl-masked gets of one client: uniform in each round, and between two of them."""
    if run.method != "pbpfl-masked":
        return
    dtype = f"<u{int(run.config['ring_bits']) // 8}"
    views: dict[int, list[NDArray[np.unsignedinteger]]] = {}
    for seen in run.view(SERVER, "Masked"):
        for k, row in zip(seen["clients"].tolist(), seen["words"], strict=True):
            views.setdefault(k, []).append(np.ascontiguousarray(row).view(dtype))
    p_values = []
    for words in views.values():
        steps = [after - before for before, after in itertools.pairwise(words)]
        p_values.append(p_value_of_words([*words, *steps]))
    claim, protects = CLAIMS[run.system, run.method]
    yield Finding(
        run.system,
        run.method,
        "server",
        f"one client's masked terms of {len(next(iter(views.values())))} rounds",
        "uniformity of words, and between rounds (χ²)",
        claim,
        protects,
        "p-value",
        tuple(p_values),
        sum(p < ALARM for p in p_values),
        seeds=frozenset([run.seed]),
    )
