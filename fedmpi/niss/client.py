"""The clients of NISS: ClientUpdate and ClientShare of Algorithm 2, for all clients that live on one rank."""

import math
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from fedmpi.crypto.envelope import OVERHEAD, seal, unseal
from fedmpi.crypto.keys import KeyPair
from fedmpi.crypto.random import SecretStream, Stream
from fedmpi.errors import PeerFailed, ProtocolError
from fedmpi.federated import masked
from fedmpi.federated.messages import SERVER, be_ready, leave
from fedmpi.federated.rows import rows_here
from fedmpi.federated.serving import Host
from fedmpi.learn import (
    Inputs,
    Loss,
    Trainer,
    build_model,
    cross_entropy,
    stream,
    train_clients,
)
from fedmpi.learn.balance import balanced_weights, weighted_cross_entropy
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.learn.randomness import draws, randomness
from fedmpi.net import Channel
from fedmpi.net.orders import Leave
from fedmpi.niss.distributed import Distributed
from fedmpi.niss.noise import GRID_BITS, Seed, Vector, expand, mix, on_grid
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import (
    FIRST_HOST,
    KEY_BYTES,
    TRACKER,
    Alive,
    Neighbours,
    Round,
    Shares,
    Uploads,
)
from fedmpi.runs.job import Job
from fedmpi.securesum.scheme import Scheme, Words

SEED_BYTES = 32


@dataclass(frozen=True, eq=False)
class Clients:
    """The clients of one rank: their rows, and what they train with."""

    inputs: dict[int, Inputs]
    trainers: list[Trainer]
    """One for each thread."""
    seed: int
    weights: dict[int, torch.Tensor] = field(default_factory=dict)
    """Of the classes at each client, with --class-weight balanced."""
    draws: bool = False
    """Whether the model draws random numbers in training."""

    @classmethod
    def load(cls, job: Job[Params], host: int, hosts: int, clients: int, threads: int) -> "Clients":
        """Read the data set, and keep the rows of the clients of one host (0 ≤ host < hosts)."""
        params, data = job.params, job.load()
        dtype = getattr(torch, params.dtype)
        parts = rows_here(job, data, host, hosts, clients)
        scale, shape = divisor_of(data), input_shape(data)
        model = build_model(params.model, shape, len(data.classes), job.seed, dtype)
        balanced = job.class_weight is not None
        loss = weighted_loss(torch.ones(len(data.classes))) if balanced else cross_entropy
        trainers = [Trainer(model, params.training, loss, params.device) for _ in range(threads)]
        inputs = {
            k: Inputs.of(data.X_train[parts[k]], data.y_train[parts[k]], scale, dtype, params.device, shape=shape)
            for k in parts
        }
        weights = {k: balanced_weights(own.y, len(data.classes)) for k, own in inputs.items()} if balanced else {}
        return cls(inputs, trainers, job.seed, weights, draws(model, shape))

    def train(self, clients: Sequence[int], round_: int, w: Vector) -> list[Vector]:
        """Algorithm 2, E local rounds of each client, from w_t."""

        def one(trainer: Trainer, k: int) -> Vector:
            if k in self.weights:
                trainer.loss = weighted_loss(self.weights[k])
            with randomness(self.draws, self.seed, k, round_):
                return trainer.train(w, self.inputs[k], stream(self.seed, "batches", k, round_))

        return train_clients(one, self.trainers, clients)


def weighted_loss(weights: torch.Tensor) -> Loss:
    """Cross-entropy in which a row counts as its class does."""
    return lambda model, X, y: weighted_cross_entropy(model(X), y, weights)


def host(
    ch: Channel,
    params: Params,
    own: Clients,
    secret: Callable[[], Stream] = SecretStream,
    new_pair: Callable[[], KeyPair] = KeyPair,
) -> None:
    """All clients of one rank, round after round.

    Parameters
    ----------
    secret : callable
        A fresh secret stream.
    new_pair : callable
        Makes key pairs.
    """
    h = len(own.trainers[0].flat)
    rows = {k: len(inputs) for k, inputs in own.inputs.items()}
    be_ready(ch, rows, FIRST_HOST)
    K = params.clients or ch.size - FIRST_HOST
    scheme, m, together = params.summing(K, h), params.clients_per_round(K), params.distributed(K, h)
    while True:
        order = ch.recv_any(SERVER, (Round, Leave), shapes={"w": (h,)}, patient=True)
        if not isinstance(order, Round):
            break
        clients = asked_here(order, rows)
        with ch.phase("compute"):
            trained = own.train(clients, order.round, order.w)
            if together is None and params.clipping == "update":
                trained = [clipped(w, order.w, params.clip) for w in trained]
        there = stream(own.seed, "dropout", order.round).random(max(clients) + 1) >= params.dropout
        kept = [i for i, k in enumerate(clients) if there[k]]
        if together is not None:
            assert scheme is not None
            updates = {clients[i]: trained[i] - order.w for i in kept}
            try:
                masked.upload(ch, scheme, order.round, clients, partial(noisy_words, together, updates, secret))
            except masked.LeftOutError:
                break
            continue
        stds = {k: params.of(k).std(p, rows[k]) for k, p in zip(clients, order.weights.tolist(), strict=True)}
        if params.method == "niss":
            sharing = Sharing(ch, params, order.round, h, secret, {k: new_pair() for k in stds})
            noise = share_noise(sharing, stds, own.trainers, K)
        else:
            noise = {k: expand(fresh_seed(secret()), std, h) if std else np.zeros(h) for k, std in stds.items()}
        with ch.phase("compute"):
            values = np.empty((len(kept), h))
            for value, i in zip(values, kept, strict=True):
                value[:] = on_grid(order.weights[i] * trained[i]) + noise[clients[i]]
        if scheme is None:
            values.flags.writeable = False  # lets the channel send them without a copy
            ch.send(SERVER, Uploads(order.round, order.clients[kept], values))
        else:
            uploads = {clients[i]: value for i, value in zip(kept, values, strict=True)}
            try:
                masked.upload(ch, scheme, order.round, clients, partial(words_of, scheme, uploads, m))
            except masked.LeftOutError:
                break
    leave(ch)


def words_of(scheme: Scheme, uploads: Mapping[int, Vector], clients: int) -> dict[int, Words]:
    """Uploads as words of which the sum is exact: they are multiples of 2^-40 already."""
    return {k: scheme.encode(value, GRID_BITS, clients) for k, value in uploads.items()}


def noisy_words(together: Distributed, updates: Mapping[int, Vector], secret: Callable[[], Stream]) -> dict[int, Words]:
    """Updates as integers with noise, which is drawn once the words are asked for: they are masked next."""
    return {k: together.hidden(update, secret()) for k, update in updates.items()}


def asked_here(order: Round, rows: Mapping[int, int]) -> list[int]:
    """The clients of an order.

    Raises
    ------
    ProtocolError
        If they do not all live here, or one comes twice or has no weight.
    """
    clients: list[int] = order.clients.tolist()
    once = 0 < len(set(clients)) == len(clients)
    if not once or not set(clients) <= rows.keys() or order.weights.shape != order.clients.shape:
        raise ProtocolError(f"Round must be for clients of this rank, with their weights, got {clients}")
    return clients


def clipped(w: Vector, start: Vector, norm: float) -> Vector:
    """Parameters no farther from where they began than `norm`."""
    update = w - start
    length = float(np.linalg.norm(update))
    return w if length <= norm else start + update * (norm / length)


@dataclass(frozen=True, eq=False)
class Sharing:
    """What one rank shares its clients' noise with, in one round."""

    ch: Channel
    params: Params
    round: int
    h: int
    """Numbers in an upload."""
    secret: Callable[[], Stream]
    """A fresh secret stream."""
    pairs: dict[int, KeyPair]
    """Of each client of the round that lives here."""


def share_noise(sharing: Sharing, stds: dict[int, float], threads: Sequence[object], clients: int) -> dict[int, Vector]:
    """ClientShare of Algorithm 2 for the clients of one rank: client → what `noise.mix` makes, shape (h,).

    Parameters
    ----------
    stds : dict
        Client → σ_k.
    threads : sequence
        As many threads work on the noise.
    clients : int
        K.
    """
    ch, secret = sharing.ch, sharing.secret
    keys = np.frombuffer(b"".join(pair.public for pair in sharing.pairs.values()), np.uint8).reshape(-1, KEY_BYTES)
    variances = np.array([std**2 for std in stds.values()])
    ch.send(TRACKER, Alive(sharing.round, np.array([*stds], np.uint32), variances, keys))
    with ch.phase("wait"):
        told = ch.gather_first(1, [TRACKER], Neighbours, round=sharing.round)[TRACKER]
    publics, edges = understood(told)
    check_noise(edges, stds)
    n: defaultdict[int, list[Seed]] = defaultdict(list)
    for (sender, _), std in edges.items():
        if sender in stds:
            n[sender].append((fresh_seed(secret()), std))
    send_shares(sharing, edges, publics, n)
    r = receive_shares(sharing, edges, publics)

    # A client that has nobody to share with keeps its noise.
    own = {k: n.get(k) or [(fresh_seed(secret()), std)] for k, std in stds.items()}

    params = sharing.params
    m, received = params.clients_per_round(clients), defaultdict[int, list[float]](list)
    for (_, receiver), std in edges.items():
        received[receiver].append(std**2)

    def noise(_: object, k: int) -> Vector:
        if params.paper_noise:
            return mix(own[k], r.get(k, []), params.of(k).tau2, secret(), sharing.h)
        kept = params.of(k).kept.variance(stds[k] ** 2, len(n.get(k, [])), received.get(k, ()), m, sharing.round)
        return mix(own[k], r.get(k, []), 0.0, secret(), sharing.h, kept)

    with ch.phase("compute"):
        return dict(zip(stds, train_clients(noise, threads, [*stds]), strict=True))


Edges = dict[tuple[int, int], float]
"""(sender, receiver) of each share → its standard deviation."""


def understood(told: Neighbours) -> tuple[dict[int, bytes], Edges]:
    """The public keys of all ends, and the shares with an end on this rank, as the tracker tells them."""
    senders, receivers, clients = told.senders.tolist(), told.receivers.tolist(), told.clients.tolist()
    if told.keys.shape != (len(clients), KEY_BYTES) or not len(senders) == len(receivers) == len(told.variances):
        shapes = f"{len(clients)} clients, keys {told.keys.shape}, {len(senders)} senders, {len(receivers)} receivers"
        raise ProtocolError(f"Neighbours must hold a key of each client, and a variance of each share, got {shapes}")
    edges = dict(zip(zip(senders, receivers, strict=True), np.sqrt(told.variances).tolist(), strict=True))
    publics = {k: key.tobytes() for k, key in zip(clients, told.keys, strict=True)}
    if len(edges) != len(senders) or any(a == b or not {a, b} <= publics.keys() for a, b in edges):
        ends = list(zip(senders, receivers, strict=True))
        raise ProtocolError(f"Neighbours must hold different shares between different clients with keys, got {ends}")
    return publics, edges


def check_noise(edges: Edges, stds: dict[int, float]) -> None:
    """Whether the shares that clients are to send have all of their noise: the tracker could switch it off.

    Raises
    ------
    ProtocolError
        Which names the tracker; the clients leave with their rank.
    """
    sent = defaultdict[int, list[float]](list)
    for (sender, _), share in edges.items():
        sent[sender].append(share**2)
    for k, std in stds.items():
        parts = sent.get(k, [])
        if parts and not math.isclose(sum(parts), std**2, rel_tol=1e-9):
            raise ProtocolError(
                f"the tracker must leave client {k} its noise of variance {std**2:.6g}, got {sum(parts):.6g} "
                f"in {len(parts)} shares"
            )


def send_shares(sharing: Sharing, edges: Edges, publics: dict[int, bytes], n: dict[int, list[Seed]]) -> None:
    """Seal a negated share for every receiver, and send them: one message to each rank."""
    ch, pairs = sharing.ch, sharing.pairs
    outgoing: defaultdict[int, list[tuple[int, int, bytes]]] = defaultdict(list)
    left = {k: iter(shares) for k, shares in n.items()}
    with ch.phase("compute"):
        for sender, receiver in edges:
            if sender in pairs:
                seed, std = next(left[sender])
                contents = seed if sharing.params.shares == "seeds" else (-expand(seed, std, sharing.h)).tobytes()
                envelope = seal(pairs[sender], publics[receiver], place(sharing.round, sender, receiver), contents)
                outgoing[home(ch, receiver)].append((sender, receiver, envelope))
    for rank, shares in outgoing.items():
        senders, receivers, envelopes = zip(*shares, strict=True)
        sealed = np.frombuffer(b"".join(envelopes), np.uint8).reshape(len(shares), -1)
        ch.send(rank, Shares(sharing.round, np.array(senders, np.uint32), np.array(receivers, np.uint32), sealed))


def receive_shares(sharing: Sharing, edges: Edges, publics: dict[int, bytes]) -> dict[int, list[Seed | Vector]]:
    """Client → the shares it received: a seed and a standard deviation, or the negated numbers themselves.

    A rank that sends anything else than what the tracker announced departs; its shares are missing.
    """
    ch, pairs, seeds = sharing.ch, sharing.pairs, sharing.params.shares == "seeds"
    expected: defaultdict[int, set[tuple[int, int]]] = defaultdict(set)
    for sender, receiver in edges:
        if receiver in pairs:
            expected[home(ch, sender)].add((sender, receiver))
    size = (SEED_BYTES if seeds else 8 * sharing.h) + OVERHEAD
    with ch.phase("wait"):
        messages = ch.gather_within(
            ch.timeout_seconds / 8, expected, Shares, shapes={"sealed": (None, size)}, round=sharing.round
        )
    r: defaultdict[int, list[Seed | Vector]] = defaultdict(list)
    with ch.phase("compute"):
        for rank, message in sorted(messages.items()):
            try:
                opened = open_shares(message, expected[rank], pairs, publics)
            except ProtocolError as error:
                ch.depart(PeerFailed(rank, ch.role_of(rank), f"broke the protocol: {error}"))
                continue
            for (sender, receiver), contents in opened.items():
                if seeds:
                    r[receiver].append((contents, edges[sender, receiver]))
                else:
                    r[receiver].append(np.frombuffer(contents, "<f8"))
    return r


def open_shares(
    message: Shares, expected: set[tuple[int, int]], pairs: dict[int, KeyPair], publics: dict[int, bytes]
) -> dict[tuple[int, int], bytes]:
    """(sender, receiver) → the contents of each envelope.

    Raises
    ------
    ProtocolError
        If they are not the expected ones, each sealed by its sender for its receiver in this round.
    """
    named = list(zip(message.senders.tolist(), message.receivers.tolist(), strict=False))
    if len(named) != len(message.sealed) or set(named) != expected or len(named) != len(expected):
        raise ProtocolError(f"Shares must be the {len(expected)} that were announced, got {named}")
    opened = {
        (a, b): unseal(pairs[b], publics[a], place(message.round, a, b), sealed.tobytes())
        for (a, b), sealed in zip(named, message.sealed, strict=True)
    }
    for (a, b), contents in opened.items():
        if len(contents) != SEED_BYTES and not np.isfinite(np.frombuffer(contents, "<f8")).all():
            raise ProtocolError(f"the share of client {a} for {b} must be finite, got other values")
    return opened


def place(round_: int, sender: int, receiver: int) -> bytes:
    """The context of an envelope."""
    return b"NISS share" + struct.pack(">QII", round_, sender, receiver)


def home(ch: Channel, client: int) -> int:
    """The rank on which a client lives."""
    return FIRST_HOST + client % (ch.size - FIRST_HOST)


def fresh_seed(random: Stream) -> bytes:
    """32 secret bytes."""
    return random.words(SEED_BYTES // 4).tobytes()


def serve(ch: Channel, own: Host[Params]) -> None:
    """Host: load the rows of the clients that live here, and train them."""
    host(ch, own.job.params, Clients.load(own.job, own.number, own.hosts, own.clients, own.threads))
