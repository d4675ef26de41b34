"""A rank on which clients live: it hears what is trained, loads the rows of its clients, and serves until the end."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import ProtocolError, UsageError
from fedmpi.federated.messages import SERVER, Setup
from fedmpi.federated.params import FederatedParams
from fedmpi.federated.statistics import Survey, answer, check_meaning
from fedmpi.net import Channel
from fedmpi.net.message import text_of
from fedmpi.net.orders import Leave
from fedmpi.net.siblings import siblings
from fedmpi.runs.job import Job
from fedmpi.runs.own_options import OwnOptions
from fedmpi.system import System, named, require

if TYPE_CHECKING:
    from fedmpi.data import Dataset

P = TypeVar("P", bound=FederatedParams)
SHAPES = {"columns": (None,), "job": (None,)}


@dataclass(frozen=True)
class Host(Generic[P]):
    """What a rank with clients knows before it loads their rows."""

    job: Job[P]
    number: int
    """0 ≤ number < hosts."""
    hosts: int
    clients: int
    """K, of all hosts."""
    threads: int
    """That this rank may train with."""


@dataclass(frozen=True)
class FederatedSystem(System):
    """A system whose last role is that of hosts, on which clients live."""

    serve: str = ""
    """Of ranks with roles of their own; a host is served by what it names in `host`."""
    check: str = "fedmpi.federated.checks:check"
    takes_own_rows: bool = True
    host: str = ""
    """(channel, `Host`) → None: what a host does with its clients."""

    def follow(self, ch: Channel, own: OwnOptions) -> None:
        """Host: take the server's order, if there is one, and play the role; code of --model is imported only where it
        stands on this rank's own command line.
        """
        first = len(self.roles) - 1
        if ch.rank < first:
            super().follow(ch, own)
            return
        ch.tolerated = range(first, ch.size)  # who else is there is the server's business
        order = ch.recv_any(SERVER, (Survey, Setup, Leave), shapes=SHAPES, patient=True)
        if not isinstance(order, Survey | Setup):
            return
        require(self.name, *self.packages)
        from fedmpi.learn import threads_per_rank
        from fedmpi.learn.devices import device_here

        text = text_of(order.job)
        job = Job.accepted(text, named(self.parameters), own.model)
        if own.rows is not None and job.schema is None:
            raise UsageError(f"--own-rows must be used with --schema on rank 0, got --own-rows {own.rows} alone")
        if hasattr(job.params, "device"):  # a system of one's own may know of none
            job = replace(job, params=replace(job.params, device=device_here(job.params.device)))
        ch.outwait(order.timeout_seconds)
        hosts = ch.size - first
        threads = threads_per_rank(ch.size, siblings())
        place = Host(job, ch.rank - first, hosts, job.params.clients or hosts, threads)
        if isinstance(order, Survey):
            place = surveyed(ch, place, text, order.columns, own)
            setup = ch.recv_any(SERVER, (Setup, Leave), shapes=SHAPES, patient=True)
            if not isinstance(setup, Setup):
                return
            if not np.array_equal(setup.job, order.job):
                raise ProtocolError(f"Setup must be of the job that was surveyed, got {text_of(setup.job)[:200]}")
        else:
            setup, place = order, replace(place, job=replace(job, loaded=published(ch, job, own)))
        assert place.job.loaded is not None
        place.job.loaded.check_same(setup.digest, ch.rank)
        named(self.host)(ch, place)
        if job.schema is not None:
            from fedmpi.federated.judging import be_judge

            be_judge(ch, place.job, hosts // 2 + 1)


def published(ch: Channel, job: Job[P], own: OwnOptions) -> "Dataset":
    """Host: the data set, prepared without looking at anybody's rows but as the file --statistics says, or as it is."""
    if job.schema is None:
        return job.load()
    from fedmpi.data.loading import prepared_as
    from fedmpi.federated.rows import own_rows

    if job.data["statistics"] is None:
        raise ProtocolError("a job on rows that lie apart must be surveyed or name --statistics, got neither")
    return prepared_as(own_rows(job, own.rows_of(ch.rank), ch.rank), job.data["statistics"])


def surveyed(ch: Channel, place: Host[P], text: str, columns: NDArray[np.uint8], own: OwnOptions) -> Host[P]:
    """Host: take part in the sums over all rows, and hold the data set as it is prepared by them."""
    from fedmpi.data.loading import prepared
    from fedmpi.federated.rows import own_rows, rows_here

    job = place.job
    raw = job.load_raw() if job.schema is None else own_rows(job, own.rows_of(ch.rank), ch.rank)
    check_meaning(columns, raw, ch.rank)
    parts = rows_here(job, raw, place.number, place.hosts, place.clients)
    rows = np.sort(np.concatenate([np.empty(0, np.int64), *parts.values()]))  # fewer clients than hosts: none here
    preparation = answer(ch, text, raw, rows, ch.size - place.hosts)
    return replace(place, job=replace(job, loaded=prepared(raw, preparation)))
