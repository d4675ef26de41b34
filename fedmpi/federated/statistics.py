"""What is done to the columns of a table, from sums over all clients' rows that nobody sees the parts of.

Once, before any training::

    server → host    Survey     what is to be summed
    host   → server  MaskKey    a fresh public key
    server → host    MaskKeys   those of all hosts
    host   → server  Moments    counts, sums and sums of squares of its clients' rows, under masks of pairs of hosts
    server → host    Prepared   what comes of their sum; public

The masks of all pairs cancel in the sum, which is exact: the preparation does not depend on the number of hosts. If a
host is lost before all have sent theirs, training does not begin, and nothing is opened.
"""

import hashlib
import json
from collections.abc import Callable, Collection
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray

from fedmpi.core.exact import WORDS, add, from_words, to_words
from fedmpi.errors import ProtocolError, TooFewWorkers, UsageError
from fedmpi.federated.messages import SERVER
from fedmpi.net import Channel, Message
from fedmpi.net.meaning import DISTINCT, POSITIVE, UNIFORM, judged
from fedmpi.net.message import UInt8, UInt32, UInt64, bytes_of, text_of
from fedmpi.net.orders import refuse_broken_rules
from fedmpi.securesum.pairwise import KEY_BYTES, Member
from fedmpi.securesum.public_keys import PUBLIC_KEYS

if TYPE_CHECKING:  # the tracker of niss loads no data
    from fedmpi.data import Dataset, Preparation, Table


class Survey(Message, tag=110):
    """Server → host, once: parameters and data set, and what the columns and classes are, both as JSON; public."""

    job: Annotated[UInt8, judged("fedmpi.runs.job:Job.accepted")]
    columns: Annotated[UInt8, judged("fedmpi.federated.statistics:check_meaning")]
    timeout_seconds: Annotated[float, POSITIVE]


class MaskKey(Message, tag=111):
    """Host → server, once: a fresh X25519 public key, 32 bytes."""

    public: Annotated[bytes, PUBLIC_KEYS]


class MaskKeys(Message, tag=112):
    """Server → host, once: the ranks of the hosts that take part, and their keys, shape (hosts, 32)."""

    ranks: Annotated[UInt32, DISTINCT]
    keys: Annotated[UInt8, PUBLIC_KEYS]


class Moments(Message, tag=113):
    """Host → server, once: its sums as `fedmpi.data.moments` orders them, masked, shape (numbers, 8)."""

    words: Annotated[UInt64, UNIFORM]


class Prepared(Message, tag=114):
    """Server → host, once: the preparation as JSON; public."""

    text: Annotated[UInt8, judged("fedmpi.data:Preparation.from_json")]


def survey(
    ch: Channel, job: str, raw: "Dataset", *, impute: str | None, first_host: int = 1, own: "Table | None" = None
) -> "Preparation":
    """Server: what is to be done to the columns, from the sum of what the hosts send.

    Parameters
    ----------
    job : str
        As `Setup` has it.
    raw : Dataset
        Of which the names and kinds of columns and classes count.
    impute : str, optional
        None or "mean".
    own : Table, optional
        Rows of the server's own, where it has some.
    """
    from fedmpi.data.loading import training_table
    from fedmpi.data.moments import moments, numbers, preparation_of

    hosts = range(first_host, ch.size)
    columns = bytes_of(meaning(raw))
    for rank in hosts:
        ch.send(rank, Survey(bytes_of(job), columns, ch.timeout_seconds))
    table = training_table(raw)
    total = add_up(ch, hosts, numbers(len(table.names), table.values))
    if own is not None:
        total = [theirs + ours for theirs, ours in zip(total, moments(own), strict=True)]
    preparation = preparation_of(
        total,
        table.names,
        table.values,
        impute=impute,
        drop_constants=not raw.shape,
        classes=raw.classes,
    )
    text = bytes_of(preparation.to_json())
    for rank in hosts:
        ch.send(rank, Prepared(text))
    return preparation


def add_up(ch: Channel, hosts: Collection[int], count: int) -> list[int]:
    """Server: the sums of what these hosts `contribute`, so many integers."""
    try:
        return _sum(ch, hosts, count)
    except TooFewWorkers:
        refuse_broken_rules(ch)
        raise


def _sum(ch: Channel, hosts: Collection[int], count: int) -> list[int]:
    keys = ch.gather(hosts, MaskKey)
    if any(len(message.public) != KEY_BYTES for message in keys.values()):
        raise ProtocolError(f"the keys of hosts must be {KEY_BYTES} bytes each, got others")
    joined = np.frombuffer(b"".join(keys[rank].public for rank in hosts), np.uint8).reshape(-1, KEY_BYTES)
    for rank in hosts:
        ch.send(rank, MaskKeys(np.array([*hosts], np.uint32), joined))
    total = np.zeros((count, WORDS), np.uint64)
    for message in ch.gather(hosts, Moments, shapes={"words": (count, WORDS)}).values():
        total = add(total, message.words)
    return from_words(total)


def contribute(ch: Channel, numbers: Callable[[], list[int]], label: bytes, fewest: int) -> None:
    """Host: send integers under masks of pairs.

    Parameters
    ----------
    numbers : callable
        Gives them.
    label : bytes
        What all hosts must agree on: with another one masks do not cancel.
    fewest : int
        So many hosts must be in the sum.
    """
    member = Member(ch.rank)
    ch.send(SERVER, MaskKey(member.public))
    with ch.phase("compute"):
        own = to_words(numbers())
    told = ch.recv(SERVER, MaskKeys, shapes={"keys": (None, KEY_BYTES)})
    publics = dict(zip(told.ranks.tolist(), (key.tobytes() for key in told.keys), strict=False))
    if not len(set(publics.values())) == len(told.ranks) == len(told.keys) >= fewest:
        raise ProtocolError(f"the keys of at least {fewest} hosts must come, all different, got {len(told.keys)}")
    ch.send(SERVER, Moments(member.mask(own, publics, label)))


def meaning(raw: "Dataset") -> str:
    """The names of the columns and the values of text among them, and the classes, as JSON."""
    from fedmpi.data.loading import training_table

    table = training_table(raw)
    columns = [[name, list(table.values.get(k, ()))] for k, name in enumerate(table.names)]
    return json.dumps({"columns": columns, "classes": list(raw.classes)})


def check_meaning(told: NDArray[np.uint8], raw: "Dataset", rank: int) -> None:
    """Host: refuse to sum up other columns than the server means.

    Raises
    ------
    UsageError
        Which names the first column that differs.
    ProtocolError
        If what the server says is no meaning at all.
    """
    ours = json.loads(meaning(raw))
    try:
        theirs = json.loads(text_of(told))
        columns, classes = theirs["columns"], theirs["classes"]
        names = [str(name) for name, _ in columns]
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"columns of Survey must be JSON of columns and classes, got {error!r:.200}") from None
    for k, (their, our) in enumerate(zip_longest(columns, ours["columns"])):
        if their != our:
            name = our[0] if their is None else names[k]
            raise UsageError(f'column "{name}" must be the same on all ranks, got {our or "none"} on rank {rank}')
    if classes != ours["classes"]:
        raise UsageError(f"classes must be the same on all ranks, got {', '.join(ours['classes'])} on rank {rank}")


def answer(ch: Channel, job: str, raw: "Dataset", rows: NDArray[np.int64], first_host: int = 1) -> "Preparation":
    """Host: tell the sums over its clients' rows under masks, and hear what is to be done to the columns.

    Parameters
    ----------
    job : str
        As `Survey` told it: with another one masks do not cancel.
    rows : array of int
        Those of the clients that live here.
    """
    from fedmpi.data import Preparation, Table
    from fedmpi.data.loading import training_table
    from fedmpi.data.moments import moments

    table = training_table(raw)
    mine = Table(table.X[rows], table.names, table.values)
    contribute(ch, lambda: moments(mine), hashlib.sha256(job.encode()).digest(), ch.size - first_host)
    try:
        preparation = Preparation.from_json(text_of(ch.recv(SERVER, Prepared, shapes={"text": (None,)}).text))
    except UsageError as error:
        raise ProtocolError(f"Prepared must hold a preparation, got another: {error}") from None
    if {column.name for column in preparation.columns} != set(table.names):
        raise ProtocolError(f"Prepared must be of the columns {', '.join(table.names[:5])}, got others")
    return preparation
