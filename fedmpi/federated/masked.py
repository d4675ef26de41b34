"""A round whose uploads the server sees the sum of, and nothing else: the messages of a secure sum, for any `Scheme`.

The server carries all messages. Four steps in every round, with fresh keys: keys, sealed shares, masked words, and what
the survivors tell, so that the sum can be unmasked though clients were lost.
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError
from fedmpi.federated.messages import SERVER, ask, too_few
from fedmpi.net import Channel, Message
from fedmpi.net.meaning import DISTINCT, SEALED, judged
from fedmpi.net.message import Shape, UInt8, UInt32
from fedmpi.net.orders import Leave
from fedmpi.securesum.public_keys import PUBLIC_KEYS
from fedmpi.securesum.scheme import Scheme, Words

M = TypeVar("M", bound=Message)


class Keys(Message, tag=90):
    """Host → server, each round: fresh public keys of its clients, (clients, bytes); server → host: of all."""

    round: int
    clients: Annotated[UInt32, DISTINCT]
    keys: Annotated[UInt8, PUBLIC_KEYS]


class Envelopes(Message, tag=91):
    """Host → server, each round: what its clients sealed for each other client, in the order of `Keys`, their own place
    filled with zeros, shape (clients, all, bytes).
    """

    round: int
    clients: Annotated[UInt32, DISTINCT]
    sealed: Annotated[UInt8, SEALED]


class Post(Message, tag=92):
    """Server → host, each round: what `senders` sealed for the `clients` there, shape (clients, senders, bytes)."""

    round: int
    clients: Annotated[UInt32, DISTINCT]
    senders: Annotated[UInt32, DISTINCT]
    sealed: Annotated[UInt8, SEALED]


class Masked(Message, tag=93):
    """Host → server, each round: the words of its clients, each hidden under its own masks, shape (clients, bytes)."""

    round: int
    clients: Annotated[UInt32, DISTINCT]
    words: Annotated[UInt8, judged("fedmpi.securesum.scheme:Scheme.check_hidden")]


class Survivors(Message, tag=94):
    """Server → host, each round: whose masked words have come."""

    round: int
    clients: Annotated[UInt32, DISTINCT]


class Revealed(Message, tag=95):
    """Host → server, each round: what its surviving clients tell, shape (clients, words)."""

    round: int
    clients: Annotated[UInt32, DISTINCT]
    words: Annotated[UInt32, judged("fedmpi.securesum.scheme:Scheme.check_told")]


class LeftOutError(Exception):
    """The server went on without this host, and has sent it home."""


def upload(ch: Channel, scheme: Scheme, t: int, clients: Sequence[int], encode: Callable[[], dict[int, Words]]) -> None:
    """The clients of one host in one round.

    Parameters
    ----------
    scheme : Scheme
    t : int
        The round.
    clients : sequence of int
        All of the round that live here.
    encode : callable
        Client → its words. Clients without are lost after they have shared.

    Raises
    ------
    LeftOutError
        If the training ended meanwhile, without this host.
    """
    members = {k: scheme.member(k, t) for k in clients}
    names = np.array([*members], np.uint32)
    ch.send(SERVER, Keys(t, names, _rows([member.public for member in members.values()], scheme.public_bytes)))
    publics = _named(_of_round(_heard(ch, Keys, {"keys": (None, scheme.public_bytes)}), t))
    with ch.phase("compute"):
        sealed = np.zeros((len(members), len(publics), scheme.envelope_bytes), np.uint8)
        for row, member in zip(sealed, members.values(), strict=True):
            envelopes = member.envelopes(publics)
            for cell, v in zip(row, publics, strict=True):
                if v in envelopes:
                    cell[:] = np.frombuffer(envelopes[v], np.uint8)
    ch.send(SERVER, Envelopes(t, names, sealed))
    post = _of_round(_heard(ch, Post, {"sealed": (None, None, scheme.envelope_bytes)}), t)
    if post.clients.tolist() != [*members] or post.sealed.shape[:2] != (len(members), len(post.senders)):
        raise ProtocolError(f"Post must be for {[*members]}, got {post.clients.tolist()}")
    with ch.phase("compute"):
        for row, member in zip(post.sealed, members.values(), strict=True):
            for sender, envelope in zip(post.senders.tolist(), row, strict=True):
                if sender != member.number:
                    member.accept(sender, envelope.tobytes())
        words = {k: members[k].mask(own) for k, own in encode().items()}
    raw = _rows([own.tobytes() for own in words.values()], scheme.words * scheme.dtype.itemsize)
    ch.send(SERVER, Masked(t, np.array([*words], np.uint32), raw))
    survivors = frozenset(_of_round(_heard(ch, Survivors, {}), t).clients.tolist())
    with ch.phase("compute"):
        told = {k: members[k].tell(survivors) for k in words if k in survivors}
    rows = np.array([*told.values()], np.uint32).reshape(len(told), scheme.told(len(post.senders)))
    ch.send(SERVER, Revealed(t, np.array([*told], np.uint32), rows))


def collect(ch: Channel, scheme: Scheme, homes: Mapping[int, frozenset[int]], t: int) -> tuple[Words, set[int]]:
    """The sum of the words of the clients that survive, and who they are.

    Parameters
    ----------
    scheme : Scheme
    homes : mapping
        Host → its clients of the round.
    t : int
        The round.

    Raises
    ------
    TooFewWorkers
        If fewer clients than the threshold are left in any step: then nothing is learned.
    """

    def enough(clients: Sized) -> None:
        if len(clients) < scheme.threshold:
            raise too_few(ch, t, scheme.threshold, len(clients))

    def tell(message: Callable[[int], Message]) -> None:
        for host in homes:
            if host not in ch.departed:
                ch.send(host, message(host))

    def check_hidden(message: Masked) -> None:
        for row in message.words.view(scheme.dtype):
            scheme.check_hidden(row)

    def check_told(message: Revealed) -> None:
        for row in message.words:
            scheme.check_told(row)

    publics: dict[int, bytes] = {}
    for advertised in ask(ch, homes, Keys, t, {"keys": (None, scheme.public_bytes)}).values():
        publics |= _named(advertised)
    publics = dict(sorted(publics.items()))
    enough(publics)
    everyone = np.array([*publics], np.uint32)
    tell(lambda host: Keys(t, everyone, _rows([*publics.values()], scheme.public_bytes)))
    dealt = ask(ch, homes, Envelopes, t, {"sealed": (None, len(publics), scheme.envelope_bytes)})
    sealed = {k: row for m in dealt.values() for k, row in zip(m.clients.tolist(), m.sealed, strict=True)}
    sharers = {k: sealed[k] for k in publics if k in sealed}
    enough(sharers)
    place = {k: i for i, k in enumerate(publics)}

    def post(host: int) -> Post:
        here = [k for k in publics if k in homes[host]]
        cells = np.array([[row[place[k]] for row in sharers.values()] for k in here], np.uint8)
        sealed = cells.reshape(len(here), len(sharers), scheme.envelope_bytes)
        return Post(t, np.array(here, np.uint32), np.array([*sharers], np.uint32), sealed)

    tell(post)
    total: Words = np.zeros(scheme.words, scheme.dtype)
    survivors: set[int] = set()
    for message in ask(ch, homes, Masked, t, {"words": (None, total.nbytes)}, check_hidden).values():
        for k, row in zip(message.clients.tolist(), message.words.view(scheme.dtype), strict=True):
            if k in sharers:
                total = scheme.add(total, row)
                survivors.add(k)
    enough(survivors)
    tell(lambda host: Survivors(t, np.array(sorted(survivors), np.uint32)))
    answers = ask(ch, homes, Revealed, t, {"words": (None, scheme.told(len(sharers)))}, check_told).values()
    told = {k: row for m in answers for k, row in zip(m.clients.tolist(), m.words, strict=True) if k in survivors}
    enough(told)
    known = {k: publics[k] for k in sharers}
    return scheme.unmask(total, t, known, frozenset(survivors), told), survivors


def _heard(ch: Channel, cls: type[M], shapes: Mapping[str, Shape]) -> M:
    """The server's next step; it may take long, since the server waits for all hosts."""
    order = ch.recv_any(SERVER, (cls, Leave), shapes=shapes, patient=True)
    if isinstance(order, Leave):
        raise LeftOutError
    assert isinstance(order, cls)
    return order


def _rows(parts: list[bytes], size: int) -> NDArray[np.uint8]:
    rows = np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), size)
    rows.flags.writeable = False  # lets the channel send them without a copy
    return rows


def _named(message: Keys) -> dict[int, bytes]:
    if len(message.clients) != len(message.keys):
        raise ProtocolError(f"Keys must hold one key of each client, got {len(message.keys)} of {message.clients}")
    return {k: key.tobytes() for k, key in zip(message.clients.tolist(), message.keys, strict=True)}


def _of_round(message: M, t: int) -> M:
    told: Any = message
    if told.round != t:
        raise ProtocolError(f"{type(message).__name__} must be of round {t}, got {told.round}")
    return message
