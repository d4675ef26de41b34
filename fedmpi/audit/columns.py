"""Means and deviations of columns that lie apart: the server alone, and with all hosts but one.

One survey on threads, for ranks of recorded runs that read the same file have none.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from fedmpi.audit.finding import Finding
from fedmpi.audit.recording import read_view
from fedmpi.audit.statistics import ALARM, p_value_of_words
from fedmpi.core import exact
from fedmpi.data import Dataset, Table
from fedmpi.data.loading import training_table
from fedmpi.data.moments import moments
from fedmpi.federated.messages import SERVER
from fedmpi.federated.statistics import Survey, answer, survey
from fedmpi.net import Channel, run_local
from fedmpi.net.message import text_of

HOSTS, ROWS, COLUMNS = 3, 60, 60

TIMEOUT_SECONDS = 60.0

CLAIM = "the server learns of the columns the sums over all hosts alone"

CONTROL = "all hosts but one learn the last one's part by subtraction (said in SECURITY.md)"

READ = 1e-6
"""A relative error of sums below which they have been read."""


def findings(seed: int) -> Iterator[Finding]:
    """Uniformity of what each host sends; and the last host's column sums, less what the server and the others know."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(ROWS, COLUMNS)), np.arange(ROWS) % 2
    data = Dataset("columns", X, y, X[:2], y[:2], ("no", "yes"), columns=tuple(f"c{k}" for k in range(COLUMNS)))
    words = surveyed(data)
    p_values = [p_value_of_words([own.reshape(-1)]) for own in words.values()]
    alone = ("uniformity of words (χ²)", "p-value", p_values, [p < ALARM for p in p_values])
    yield row(seed, "server", "a host's sums of columns (on threads)", *alone, protects=True)
    total = np.zeros_like(words[1])
    for own in words.values():
        total = exact.add(total, own)
    summed, errors = exact.from_words(total), []
    for victim in words:
        known = [parts(data, host) for host in words if host != victim]
        found = column_sums([whole - sum(others) for whole, *others in zip(summed, *known, strict=True)])
        true = column_sums(parts(data, victim))
        errors.append(float(np.linalg.norm(found - true) / np.linalg.norm(true)))
    told = ("subtraction of all other parts", "relative error", errors, [error < READ for error in errors])
    yield row(seed, f"server and {HOSTS - 1} of {HOSTS} hosts", "the sum of all (on threads)", *told, protects=False)


def surveyed(data: Dataset) -> dict[int, NDArray[np.uint64]]:
    """Host → the words that the server got from it."""

    def server(ch: Channel) -> None:
        survey(ch, "job", data, impute=None)
        ch.save_views(folder)

    def host(ch: Channel) -> None:
        answer(ch, text_of(ch.recv(SERVER, Survey).job), data, rows_of(ch.rank))

    with TemporaryDirectory(prefix="fedmpi-") as name:
        folder = Path(name)
        run_local([server, *[host] * HOSTS], timeout_seconds=TIMEOUT_SECONDS, record_views=True)
        return {seen.source: seen["words"] for seen in read_view(folder / f"rank-{SERVER}.npz", "Moments")}


def rows_of(host: int) -> NDArray[np.int64]:
    """By turns."""
    return np.arange(host - 1, ROWS, HOSTS)


def parts(data: Dataset, host: int) -> list[int]:
    """What a host knows of its own rows."""
    table = training_table(data)
    return moments(Table(table.X[rows_of(host)], table.names, table.values))


def column_sums(numbers: list[int]) -> NDArray[np.float64]:
    """Σx of each column, which `moments` has behind the number of values."""
    return np.array([float(Fraction(one, 1 << exact.FRACTION_BITS)) for one in numbers[2::3]])


def row(
    seed: int, adversary: str, saw: str, attack: str, measure: str, scores: list[float], broken: list[bool],
    *, protects: bool,
) -> Finding:  # fmt: skip
    """A row of the table: niss, pbpfl and spn have one way to sum."""
    claim = CLAIM if protects else CONTROL
    return Finding(
        "niss", "niss, pbpfl, spn: columns", adversary, saw, attack, claim, protects, measure, tuple(scores),
        sum(broken), seeds=frozenset([seed]), target="sums of columns",
    )  # fmt: skip
