"""pbpfl-masked [Feng et al. 2020, appendix C]: the server learns the sum of the clients' terms, and nothing else.

The paper's Σ N_k λ_k = 0 with double masking [Bonawitz et al. 2017], so that lost clients do no harm. The server
carries all messages. Four steps in every round, with fresh keys: keys, sealed shares, masked terms, shares of the
survivors' and the lost clients' secrets.
"""

from collections.abc import Callable, Mapping, Sized
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.federated.messages import SERVER
from fedmpi.net import Channel, Message
from fedmpi.net.message import UInt8, UInt32
from fedmpi.pbpfl.client import Clients, Shifted
from fedmpi.pbpfl.messages import Federation, Round, ask, too_few
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.perturbation import Vector, unshift
from fedmpi.pbpfl.ring import to_reals, to_words
from fedmpi.securesum.double_masking import ENVELOPE_BYTES, PUBLIC_BYTES, SHARE_WORDS, Member, Shares, Words, unmask

M = TypeVar("M", bound=Message)


class Keys(Message, tag=8):
    """Host → server, each round: fresh public keys of its clients, shape (clients, 64); server → host: of all."""

    round: int
    clients: UInt32
    keys: UInt8


class Envelopes(Message, tag=9):
    """Host → server, each round: what its clients sealed for each other client, in the order of `Keys`, their own place
    filled with zeros, shape (clients, all, bytes).
    """

    round: int
    clients: UInt32
    sealed: UInt8


class Post(Message, tag=10):
    """Server → host, each round: what `senders` sealed for the `clients` there, shape (clients, senders, bytes)."""

    round: int
    clients: UInt32
    senders: UInt32
    sealed: UInt8


class Masked(Message, tag=11):
    """Host → server, each round: N_k/N times the terms of its clients, in fixed point, masked, (clients, bytes)."""

    round: int
    clients: UInt32
    words: UInt8


class Survivors(Message, tag=12):
    """Server → host, each round: whose masked terms have come."""

    round: int
    clients: UInt32


class Revealed(Message, tag=13):
    """Host → server, each round: shares its surviving clients hold, one of each of `owners`, (clients, owners, 16)."""

    round: int
    clients: UInt32
    owners: UInt32
    shares: UInt32


def upload_masked(ch: Channel, params: Params, own: Clients, order: Round, terms: Mapping[int, Shifted]) -> None:
    """The clients of one host: clients that have no terms are lost after they have shared."""
    t, threshold = order.round, params.least_clients(own.total)
    members = {k: Member(k, own.total, threshold, t) for k in own.clients}
    names = np.array([*members], np.uint32)
    ch.send(SERVER, Keys(t, names, _rows([member.public for member in members.values()], PUBLIC_BYTES)))
    publics = _named(_of_round(ch.recv(SERVER, Keys, shapes={"keys": (None, PUBLIC_BYTES)}), t))
    with ch.phase("compute"):
        sealed = np.zeros((len(members), len(publics), ENVELOPE_BYTES), np.uint8)
        for row, member in zip(sealed, members.values(), strict=True):
            envelopes = member.envelopes(publics)
            for cell, v in zip(row, publics, strict=True):
                cell[:] = np.frombuffer(envelopes.get(v, bytes(ENVELOPE_BYTES)), np.uint8)
    ch.send(SERVER, Envelopes(t, names, sealed))
    post = _of_round(ch.recv(SERVER, Post, shapes={"sealed": (None, None, ENVELOPE_BYTES)}), t)
    if post.clients.tolist() != [*members] or post.sealed.shape[:2] != (len(members), len(post.senders)):
        raise ProtocolError(f"Post must be for {[*members]}, got {post.clients.tolist()}")
    with ch.phase("compute"):
        for row, member in zip(post.sealed, members.values(), strict=True):
            for sender, envelope in zip(post.senders.tolist(), row, strict=True):
                if sender != member.number:
                    member.accept(sender, envelope.tobytes())
        words = []
        for k, (values, shift) in terms.items():
            weighted = unshift(values, shift, order.r_a) * (len(own.clients[k].rows) / order.rows)
            words.append(members[k].mask(to_words(weighted.reshape(-1), params, own.total)))
    size = params.terms * len(own.differentiators[0].flat) * params.ring_bits // 8
    ch.send(SERVER, Masked(t, np.array([*terms], np.uint32), _rows([w.tobytes() for w in words], size)))
    survivors = _of_round(ch.recv(SERVER, Survivors), t).clients.tolist()
    left = [k for k in terms if k in survivors]
    told = [members[k].reveal(frozenset(survivors)) for k in left]
    owners = sorted(told[0]) if told else []
    shares = np.array([[one[u] for u in owners] for one in told], np.uint32).reshape(
        len(left), len(owners), SHARE_WORDS
    )
    ch.send(SERVER, Revealed(t, np.array(left, np.uint32), np.array(owners, np.uint32), shares))


def collect_masked(ch: Channel, params: Params, fed: Federation, order: Round, h: int) -> tuple[Vector, set[int]]:
    """Σ N_k terms_k / Σ N_k over the survivors, shape (3, h), and who they are.

    Raises
    ------
    TooFewWorkers
        If fewer clients than the threshold are left in any step: then nothing is learned.
    """
    t, threshold = order.round, params.least_clients(len(fed.rows))

    def enough(clients: Sized) -> None:
        if len(clients) < threshold:
            raise too_few(ch, t, threshold, len(clients))

    publics: dict[int, bytes] = {}
    for advertised in ask(ch, fed, Keys, t, {"keys": (None, PUBLIC_BYTES)}).values():
        publics |= _named(advertised)
    publics = dict(sorted(publics.items()))
    enough(publics)
    everyone = np.array([*publics], np.uint32)
    _tell(ch, fed, lambda host: Keys(t, everyone, _rows([*publics.values()], PUBLIC_BYTES)))
    dealt = ask(ch, fed, Envelopes, t, {"sealed": (None, len(publics), ENVELOPE_BYTES)})
    sealed = {k: row for m in dealt.values() for k, row in zip(m.clients.tolist(), m.sealed, strict=True)}
    sharers = {k: sealed[k] for k in publics if k in sealed}
    enough(sharers)
    place = {k: i for i, k in enumerate(publics)}

    def post(host: int) -> Post:
        here = [k for k in publics if k in fed.homes[host]]
        cells = np.array([[row[place[k]] for row in sharers.values()] for k in here], np.uint8)
        sealed = cells.reshape(len(here), len(sharers), ENVELOPE_BYTES)
        return Post(t, np.array(here, np.uint32), np.array([*sharers], np.uint32), sealed)

    _tell(ch, fed, post)
    total, survivors = _sum(ch, params, fed, t, h, sharers)
    enough(survivors)
    _tell(ch, fed, lambda host: Survivors(t, np.array(sorted(survivors), np.uint32)))
    owners = np.array(sorted(sharers), np.uint32)
    revealed: dict[int, dict[int, Shares]] = {}
    for told in ask(ch, fed, Revealed, t, {"shares": (None, None, SHARE_WORDS)}).values():
        if len(told.clients) and np.array_equal(told.owners, owners) and told.shares.shape[1] == len(owners):
            for k, row in zip(told.clients.tolist(), told.shares, strict=True):
                revealed[k] = dict(zip(owners.tolist(), row, strict=True))
    enough(revealed)
    known = {k: publics[k] for k in sharers}
    words = unmask(total, t, threshold, known, frozenset(survivors), revealed)
    weight = fed.rows[[*survivors]].sum() / fed.rows.sum()
    return to_reals(words, params).reshape(params.terms, h) / weight, survivors


def _sum(
    ch: Channel, params: Params, fed: Federation, t: int, h: int, sharers: Mapping[int, object]
) -> tuple[Words, set[int]]:
    """Σ of the masked words that came, and whose they are."""
    dtype = f"<u{params.ring_bits // 8}"
    total: Words = np.zeros(params.terms * h, dtype)
    survivors: set[int] = set()
    for message in ask(ch, fed, Masked, t, {"words": (None, total.nbytes)}).values():
        for k, row in zip(message.clients.tolist(), message.words, strict=True):
            if k in sharers:
                total = total + np.ascontiguousarray(row).view(dtype)
                survivors.add(k)
    return total, survivors


def _tell(ch: Channel, fed: Federation, message: Callable[[int], Message]) -> None:
    for host in fed.homes:
        if host not in ch.departed:
            ch.send(host, message(host))


def _rows(parts: list[bytes], size: int) -> NDArray[np.uint8]:
    rows = np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), size)
    rows.flags.writeable = False  # lets the channel send them without a copy
    return rows


def _named(message: Keys) -> dict[int, bytes]:
    if len(message.clients) != len(message.keys) or len(set(message.clients.tolist())) != len(message.clients):
        raise ProtocolError(f"Keys must hold one key of each client, got {len(message.keys)} of {message.clients}")
    return {k: key.tobytes() for k, key in zip(message.clients.tolist(), message.keys, strict=True)}


def _of_round(message: M, t: int) -> M:
    told: Any = message
    if told.round != t:
        raise ProtocolError(f"{type(message).__name__} must be of round {t}, got {told.round}")
    return message
