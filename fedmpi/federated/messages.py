"""How a training of clients begins and ends: the server tells their hosts what is trained, and hears what it cost.

Also how the server asks all of them for something, and leaves those out that do not answer as they should.

A host is a rank on which clients live: client k lives on the (k mod hosts)-th host.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import PeerFailed, ProtocolError, TooFewWorkers
from fedmpi.net import Channel, Message
from fedmpi.net.costs import Report, gather_reports, report
from fedmpi.net.meaning import DISTINCT, POSITIVE, ROWS, between, judged
from fedmpi.net.message import Shape, UInt8, UInt32, UInt64, bytes_of
from fedmpi.net.orders import dismiss, refuse_broken_rules

SERVER = 0

M = TypeVar("M", bound=Message)


class Setup(Message, tag=120):
    """Server → host, once: parameters and data set as JSON, public; the digest of the data set if all have one."""

    job: Annotated[UInt8, judged("fedmpi.runs.job:Job.accepted")]
    timeout_seconds: Annotated[float, POSITIVE]
    digest: Annotated[bytes, judged("fedmpi.data.dataset:Dataset.check_same")]


class Ready(Message, tag=121):
    """Host → server, once: the numbers of rows of its clients."""

    clients: Annotated[UInt32, judged("fedmpi.federated.messages:check_rows", DISTINCT)]
    rows: Annotated[UInt64, between(1, ROWS)]


def setup(
    ch: Channel,
    job: str,
    clients: int,
    first_host: int = 1,
    digest: bytes = b"",
    dealt: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Server: tell the hosts what is to be done, and hear who holds how many rows, shape (K,).

    A host that is lost, or says nothing for so long as any wait lasts, departs: its clients have no rows here.

    Parameters
    ----------
    dealt : array of int, shape (K,), optional
        The numbers of rows, where the server knows them.

    Raises
    ------
    ProtocolError
        If a host does not hold just its own clients, or its rows break a rule.
    TooFewWorkers
        If no host is left.
    """
    ch.tolerated = hosts = range(first_host, ch.size)
    for rank in hosts:
        ch.send(rank, Setup(bytes_of(job), ch.timeout_seconds, digest))
    rows = np.zeros(clients, np.int64)
    homes = {rank: np.arange(rank - first_host, clients, len(hosts)) for rank in hosts}
    answers = ch.gather_within(ch.timeout_seconds, hosts, Ready, judge=partial(check_rows, homes, dealt))
    refuse_broken_rules(ch)
    for rank in hosts:
        if rank not in answers and rank not in ch.departed:
            ch.depart(PeerFailed(rank, ch.role_of(rank), f"sent no Ready for {ch.timeout_seconds:g} s"))
    if not answers:
        gone = "; ".join(map(str, ch.departed.values()))
        raise TooFewWorkers(f"at least 1 host must hold its rows ready, got none: {gone}")
    for rank, ready in answers.items():
        rows[homes[rank]] = ready.rows
    return rows


def check_rows(
    homes: Mapping[int, NDArray[np.int64]], dealt: NDArray[np.int64] | None, rank: int, ready: Ready
) -> None:
    """Refuse a host that does not name just its own clients, each with the rows that it has, as far as they are known.

    Raises
    ------
    ProtocolError
    """
    own = homes[rank]
    if not np.array_equal(ready.clients, own) or ready.rows.shape != own.shape:
        raise ProtocolError(f"Ready from rank {rank} must name its clients, each with rows, got {ready.clients}")
    if dealt is not None and not np.array_equal(ready.rows, dealt[own]):
        wrong = int(np.flatnonzero(ready.rows != dealt[own])[0])
        told, true = ready.rows[wrong], dealt[own[wrong]]
        raise ProtocolError(f"client {own[wrong]} of rank {rank} must have {true} rows, got {told}")


def be_ready(ch: Channel, rows: Mapping[int, int], first_host: int = 1) -> None:
    """Host: name its clients, and how many rows each has."""
    ch.send(SERVER, Ready(np.array([*rows], np.uint32), np.array([*rows.values()], np.uint64)))
    ch.tolerated = range(first_host, ch.size)


def stop(ch: Channel) -> dict[int, Report]:
    """Server: end the training, and return what the others report."""
    with ch.phase("close"):
        dismiss(ch)
        return gather_reports(ch)


def leave(ch: Channel) -> None:
    """Any other: report at the end."""
    ch.send(SERVER, report(ch))


def ask(
    ch: Channel,
    homes: Mapping[int, frozenset[int]],
    cls: type[M],
    t: int,
    shapes: Mapping[str, Shape],
    check: Callable[[M], None] = lambda message: None,
) -> dict[int, M]:
    """One message of every host that is there, in the order of their ranks; hosts that send none depart.

    So does one that names a client twice or one that is not its own, as many clients as it has no values for, or values
    for which `check` raises ProtocolError.
    """
    hosts = [host for host in homes if host not in ch.departed]

    def judge(host: int, answer: M) -> None:
        check_named(homes, shapes, host, answer)
        check(answer)

    answers: dict[int, M] = ch.gather_within(ch.timeout_seconds, hosts, cls, shapes=shapes, judge=judge, round=t)
    for host in hosts:
        if host not in answers and host not in ch.departed:
            reason = f"sent no {cls.__name__} for {ch.timeout_seconds:g} s"
            ch.depart(PeerFailed(host, ch.role_of(host), reason))
    return dict(sorted(answers.items()))


def check_named(homes: Mapping[int, frozenset[int]], fields: Iterable[str], host: int, answer: Any) -> None:
    """Refuse an answer that names a client twice or one that lives elsewhere, or has not its values for each.

    Raises
    ------
    ProtocolError
    """
    named = answer.clients.tolist()
    own = len(set(named)) == len(named) and homes[host].issuperset(named)
    if not own or any(len(getattr(answer, field)) != len(named) for field in fields):
        raise ProtocolError(f"{type(answer).__name__} must be of its own clients, got {named}")


def too_few(ch: Channel, t: int, least: int, got: int) -> TooFewWorkers:
    """The error where a round has not the clients it needs."""
    gone = "".join(f"; {failed}" for failed in ch.departed.values())
    return TooFewWorkers(f"round {t} must have at least {least} clients, got {got}{gone}")
