"""Which rows are whose: dealt out from one file that all ranks read, or each host's own file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.errors import UsageError

if TYPE_CHECKING:
    from fedmpi.data import Dataset
    from fedmpi.runs.job import Job


def rows_here(job: "Job[Any]", data: "Dataset", host: int, hosts: int, clients: int) -> dict[int, NDArray[np.int64]]:
    """Client → its rows, for those of one host (0 ≤ host < hosts); where rows are apart, of the host's own."""
    from fedmpi.learn import client_rows, hosted

    here, params = hosted(host, hosts, clients), job.params
    among = len(here) if job.schema else clients
    parts = client_rows(params.partition, data.y_train, among, job.seed, params.dirichlet_alpha, data.groups)
    return dict(zip(here, parts, strict=True)) if job.schema else {k: parts[k] for k in here}


def own_rows(job: "Job[Any]", path: Path | None, rank: int) -> "Dataset":
    """Host: its own file, as the public schema has its columns.

    Raises
    ------
    UsageError
        If there is none, or it differs from the schema.
    """
    from fedmpi.data.schema import Schema

    if path is None:
        raise UsageError(f"--own-rows FILE must stand on the command line of every rank with rows, got none on {rank}")
    missing = job.data.get("impute") is not None
    schema = Schema.from_json(job.schema)
    return schema.rows(path, test_fraction=job.data["test_fraction"], seed=job.seed, missing=missing)
