"""What a client's own steps tell the server: networks of the papers, Adam, trained models, labels of batches, sums.

In one process: the client's code computes what it would send, and no message carries it. That is quick, and the noise
of niss and the masks of secure sums are not in it; where the row is of a sum, the sum is all that the server gets.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmpi.attacks.inverting import Settings, invert
from fedmpi.attacks.labels import label_of, labels_of
from fedmpi.audit import uploads
from fedmpi.audit.clients import Client, Federated, Step, Upload, Vector, federated
from fedmpi.audit.finding import PICTURED, Finding, as_images
from fedmpi.audit.recording import Recorded
from fedmpi.crypto.reals import UnitRandom
from fedmpi.learn import FlatModel, Loss, cross_entropy
from fedmpi.niss.client import Clients as NissClients
from fedmpi.niss.params import Params as NissParams
from fedmpi.pbpfl.client import Clients as PbpflClients
from fedmpi.pbpfl.gradients import squared_error
from fedmpi.pbpfl.messages import Round, to_bytes
from fedmpi.pbpfl.params import Params as PbpflParams
from fedmpi.pbpfl.perturbation import Noise, draw, perturb, recover, unshift
from fedmpi.pbpfl.structure import structure_of
from fedmpi.runs.job import Job
from fedmpi.spn.client import Clients as SpnClients
from fedmpi.spn.params import Params as SpnParams

ROWS = 24
"""Of digits: fewer do not have all classes."""

LABELLED = 3
"""Clients whose labels are asked for, at least: they cost nothing."""

INVERTING = "inverting gradients"

SILHOUETTE = "which pixels are dark, from the weights that a step of Adam leaves as they are"

LABEL = "label by the sign of a gradient (iDLG)"

LABELS = "all labels by the bias gradient"

IN_PROCESS = " (in one process)"

SECRET_HEAD = {"method": "spn", "alpha2": 0.5, "optimizer": "sgd", "learning_rate": 0.1}

PLAIN = {"method": "fedavg", "optimizer": "sgd", "learning_rate": 0.1}

AVERAGING = {"method": "fedavg", "epochs": 1, "learning_rate": 0.1}


@dataclass(frozen=True)
class Case:
    """Clients that compute, and what the server does with it."""

    system: str
    name: str
    """For the table."""
    options: dict[str, Any]
    attacks: tuple[str, ...]
    attacked: int = 4
    """Clients whose rows are searched for."""
    rows: int = 1
    """Of each client, all in one batch."""
    rounds: int = 1
    """The last of which is attacked."""
    summed: int = 0
    """So many uploads are summed; 0: the server has them one by one."""
    settings: Settings = field(default_factory=Settings)
    """Of inverting gradients."""
    protects: bool | None = True

    @property
    def saw(self) -> str:
        """For the table."""
        adam = " of Adam" * (self.options.get("optimizer") == "adam")
        step = f"1 step{adam} on {self.rows} row{'s' * (self.rows > 1)}"
        if self.summed:
            return f"the sum of {self.summed} uploads, {step} each{IN_PROCESS}"
        upload = "one upload" if self.rounds == 1 else f"one upload of round {self.rounds}"
        return f"{upload}, {step}{IN_PROCESS}"


SHORT, MATCHED = Settings(steps=400), Settings(steps=500, smoothness=1e-3)
"""By features; and without a layer that tells them."""


def cases() -> Iterator[Case]:
    """Every network of the papers but those that recorded runs have; then Adam, trained models, batches and sums."""
    images, pbpfl = (INVERTING, LABEL), {"method": "pbpfl"}
    yield Case("niss", "fedavg, cnn", AVERAGING | {"model": "cnn"}, images, settings=SHORT, protects=False)
    for network, count in (("cnn", 4), ("alexnet", 2)):
        plain, secret = PLAIN | {"model": network}, SECRET_HEAD | {"model": network}
        yield Case("spn", f"fedavg, {network}", plain, images, count, settings=SHORT, protects=False)
        yield Case("spn", f"spn, α₂ = 0.5, {network}", secret, images, count, settings=SHORT)
    deep = PLAIN | {"model": "vgg16"}
    yield Case("spn", "fedavg, vgg16", deep, images, 1, settings=replace(SHORT, steps=600), protects=None)
    yield Case("pbpfl", "pbpfl, cnn", pbpfl | {"model": "cnn"}, images, settings=SHORT)
    yield Case("pbpfl", "pbpfl, resnet20", pbpfl | {"model": "resnet20"}, images, 2, settings=MATCHED)
    adam = {"model": "mlp", "optimizer": "adam", "learning_rate": 0.003}
    yield Case("spn", "fedavg, mlp", PLAIN | adam, (SILHOUETTE, LABEL), 12, protects=False)
    yield Case("spn", "spn, α₂ = 0.5, mlp", SECRET_HEAD | adam, (SILHOUETTE, LABEL), 12)
    dense, mlp = (uploads.CLOSED_FORM, LABEL), {"model": "mlp"}
    yield Case("niss", "fedavg", AVERAGING | mlp, dense, 12, rounds=5, protects=False)
    yield Case("spn", "spn, α₂ = 0.5, mlp", SECRET_HEAD | mlp, dense, 12, rounds=5)
    yield Case("pbpfl", "pbpfl", pbpfl | mlp, dense, 12, rounds=5)
    batch: dict[str, Any] = {"rows": 8, "attacked": 3}
    yield Case("niss", "fedavg", AVERAGING | mlp, (LABELS,), protects=None, **batch)
    yield Case("spn", "spn, α₂ = 0.5, mlp", SECRET_HEAD | mlp, (LABELS,), **batch)
    together: dict[str, Any] = {"rows": 2, "summed": 4, "protects": None}
    yield Case("niss", "fedavg, any secure sum", AVERAGING | mlp, (uploads.WHOLE_BATCH,), **together)
    yield Case("pbpfl", "pbpfl-masked", {"method": "pbpfl-masked"} | mlp, (uploads.WHOLE_BATCH,), **together)


def findings(seed: int) -> Iterator[Finding]:
    """All cases."""
    for case in cases():
        yield from found(case, seed)


def found(case: Case, seed: int) -> Iterator[Finding]:
    """The rows of one case."""
    torch.set_num_threads(1)
    work = Work(case, seed)
    ours = work.computed()
    if case.summed:
        ours = [work.total(ours)]
    for attack in case.attacks:
        one = ATTACKS[attack](work, ours)
        if one is not None:
            claim = uploads.CLAIMS[case.system, work.run.method][0]
            yield replace(one, method=case.name, saw=case.saw, attack=attack, claim=claim, protects=case.protects)


class Work:
    """The clients of a case, and the judge's view of them."""

    def __init__(self, case: Case, seed: int):
        self.case, clients = case, ROWS // case.rows
        own = {"clients": clients, "batch_size": case.rows, "rounds": case.rounds} | case.options
        if case.system == "niss":
            own["fraction"] = 1.0
        kinds: dict[str, type[Any]] = {"niss": NissParams, "spn": SpnParams, "pbpfl": PbpflParams}
        self.params = kinds[case.system](**own)
        config = {name: value for name, value in asdict(self.params).items() if value is not None}
        config |= {"dataset": "digits", "max_rows": ROWS, "seed": seed}
        result = {"system": case.system, "method": self.params.method, "ranks": 2, "seed": seed}
        self.run = Recorded(Path(), case.name, config=config, result=result | {"params": {"clients": clients}})
        self.fed = federated(self.run)
        self.step = Step(1, case.rows)
        self.job = Job(self.params, "digits", {"max_rows": ROWS}, seed)
        self.one, self.rate = {"niss": self._of_niss, "spn": self._of_spn, "pbpfl": self._of_pbpfl}[case.system]()

    @property
    def loss(self) -> Loss:
        """That of the clients."""
        return of_squares if self.case.system == "pbpfl" else cross_entropy

    def computed(self) -> list[Upload]:
        """The uploads of the last round, of the clients that are attacked."""
        w, clients = FlatModel(self.fed.model).read().astype(np.float64), [*self.fed.clients]
        for t in range(self.case.rounds - 1):
            changes = [self.one(k, t, w).change for k in clients]
            w = w - self.rate * np.mean(changes, axis=0)
        count = self.case.summed or max(self.case.attacked, LABELLED)
        return [self.one(k, self.case.rounds - 1, w) for k in clients[:count]]

    def total(self, ours: Sequence[Upload]) -> Upload:
        """The mean of some uploads, as though they were one client's, whose rows are those of all of them."""
        rows = [self.fed.clients[upload.client] for upload in ours]
        together = Client(np.concatenate([one.X for one in rows]), np.concatenate([one.y for one in rows]))
        self.fed, self.step = replace(self.fed, clients={0: together}), Step(1, len(together.X))
        more = tuple(np.mean(parts, axis=0) for parts in zip(*(upload.more for upload in ours), strict=True))
        return Upload(0, ours[0].w, np.mean([upload.change for upload in ours], axis=0), more)

    def _of_niss(self) -> tuple[Callable[[int, int, Vector], Upload], float]:
        own = NissClients.load(self.job, 0, 1, len(self.fed.clients), 1)
        return lambda k, t, w: Upload(k, w, w - own.train([k], t, w)[0]), 1.0

    def _of_spn(self) -> tuple[Callable[[int, int, Vector], Upload], float]:
        own = SpnClients.load(self.job, 0, 1, len(self.fed.clients), 1)
        return lambda k, t, w: Upload(k, w, -own.update([k], t, w[None])[0]), 1.0

    def _of_pbpfl(self) -> tuple[Callable[[int, int, Vector], Upload], float]:
        """The recovered gradient; of sums the terms themselves, at the perturbed weights."""
        params, K = self.params, len(self.fed.clients)
        structure = structure_of(self.fed.model, next(iter(self.fed.clients.values())).X.shape[1:])
        own = PbpflClients.load(self.job, structure.last.name, 0, 1, K, 1)
        uniform, drawn = UnitRandom(), dict[int, Noise]()

        def one(k: int, t: int, w: Vector) -> Upload:
            if t not in drawn:  # one noise for all clients of a round
                drawn[t] = draw(structure, params, uniform)
            noise = drawn[t]
            w_hat = perturb(structure, w, noise)
            order = Round(t, ROWS, to_bytes(w_hat, params), noise.r_a)
            ((terms, shift),) = own.terms(order, [k])
            terms = unshift(terms, shift, noise.r_a)
            if self.case.summed:
                return Upload(k, w_hat, terms[0], tuple(terms[1:]))
            return Upload(k, w, recover(structure, terms, noise))

        return one, float(params.learning_rate)


def of_squares(model: torch.nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """PBPFL's loss of rows with labels."""
    outputs = model(X)
    return squared_error(outputs, torch.nn.functional.one_hot(y, outputs.shape[1]).to(outputs.dtype))


# -- attacks ----------------------------------------------------------------------------------------------------------


def inverted(work: Work, ours: list[Upload]) -> Finding:
    """Images behind convolutions."""

    def guess(fed: Federated, upload: Upload, client: Client) -> NDArray[np.float64]:
        fed.load(upload.w)
        gradient, shape = fed.gradient(upload.change), (1, *client.X.shape[1:])
        like = [part.to(p.dtype) for part, p in zip(gradient, fed.model.parameters(), strict=True)]
        labels = torch.tensor([label_of(gradient)])
        done = invert(
            fed.model, tuple(like), shape, fed.classes, labels, work.case.settings, upload.client, loss=work.loss
        )
        image: NDArray[np.float64] = done.images[0]
        return image

    return uploads.judged(work.run, work.fed, ours[: work.case.attacked], work.step, INVERTING, guess)


def closed_form(work: Work, ours: list[Upload]) -> Finding:
    """The input of a first fully connected layer."""
    guess = uploads.guesses(work.run, work.fed)[uploads.CLOSED_FORM]
    return uploads.judged(work.run, work.fed, ours, work.step, uploads.CLOSED_FORM, guess)


def silhouettes(work: Work, ours: list[Upload]) -> Finding:
    """Adam's first step is η g/(|g| + 10⁻⁸): of a gradient it leaves the sign, and where it is 0."""
    true, found = list[NDArray[np.float64]](), list[NDArray[np.float64]]()
    for upload in ours:
        row = work.fed.clients[upload.client].X[0]
        moved = work.fed.gradient(upload.change)[0].numpy() != 0
        true.append((row > 0).astype(np.float64))
        found.append(moved.any(axis=0).astype(np.float64).reshape(row.shape))
    wrong = [float(np.mean(one != other)) for one, other in zip(true, found, strict=True)]
    one = row_of(work, SILHOUETTE, "part of the pixels that is wrong", wrong, [part == 0 for part in wrong])
    rows = np.stack([work.fed.clients[upload.client].X[0] for upload in ours[:PICTURED]])
    pictures = {"the clients' rows": rows, "found in the uploads": np.stack(found[:PICTURED])}
    return replace(one, target="silhouettes", images={title: as_images(part) for title, part in pictures.items()})


def label(work: Work, ours: list[Upload]) -> Finding:
    """Of one row; of PBPFL's squares the output of its class is too small, too."""
    return uploads.labels(work.run, work.fed, ours, work.step)


def batch_labels(work: Work, ours: list[Upload]) -> Finding:
    """How often each label comes, of a batch; guessing finds all of them seldom."""
    right, rows, rate = list[float](), work.case.rows, float(work.params.learning_rate)
    for upload in ours:
        client = work.fed.clients[upload.client]
        work.fed.load(upload.w)
        found = labels_of(work.fed.model, work.fed.gradient(upload.change / rate), (rows, *client.X.shape[1:]))
        counts = [np.bincount(y, minlength=work.fed.classes) for y in (found.numpy(), client.y)]
        right.append(float(np.minimum(*counts).sum() / rows))
    one = row_of(work, LABELS, "part that is right", right, [part == 1 for part in right])
    return replace(one, target="labels", chance=math.factorial(rows) / work.fed.classes**rows)


def whole(work: Work, ours: list[Upload]) -> Finding | None:
    """All rows of a batch, or of a sum."""
    return uploads.whole_batches(work.run, work.fed, ours, work.step)


ATTACKS: dict[str, Callable[[Work, list[Upload]], Finding | None]] = {
    INVERTING: inverted,
    uploads.CLOSED_FORM: closed_form,
    SILHOUETTE: silhouettes,
    LABEL: label,
    LABELS: batch_labels,
    uploads.WHOLE_BATCH: whole,
}


def row_of(work: Work, attack: str, measure: str, scores: Sequence[float], broken: Sequence[bool]) -> Finding:
    """A row of the table; the case fills in the rest."""
    case = work.case
    return Finding(
        case.system, case.name, "server", case.saw, attack, "", case.protects, measure, tuple(scores), sum(broken),
        seeds=frozenset([work.run.seed]),
    )  # fmt: skip
