"""What is seen where means and deviations of columns are summed: no part of the sum, whoever pools what they saw.

Every message is recorded. A test names the mutation it is there for, and a test beside it sees it fail.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmpi.audit.statistics import p_value_of_words
from fedmpi.core.exact import WORDS, add, from_words, to_words
from fedmpi.data import Dataset, Preparation, Table
from fedmpi.data.loading import training_table
from fedmpi.data.moments import moments, preparation_of
from fedmpi.errors import PeerFailed, ProtocolError, UsageError
from fedmpi.federated.statistics import MaskKey, MaskKeys, Moments, Prepared, Survey, answer, survey
from fedmpi.net import Channel, Message, run_local
from fedmpi.net.message import text_of
from fedmpi.runs.model import read_arrays
from fedmpi.securesum import pairwise
from fedmpi.securesum.pairwise import Member

HOSTS, ROWS, COLUMNS, ALARM = 4, 80, 60, 1e-6


def data_of(kind: str) -> Dataset:
    """Rows of one shape: of any numbers, of nothing but zeros, of times, and of prices with a category."""
    rng = np.random.default_rng(0)
    X = {
        "random": rng.normal(size=(ROWS, COLUMNS)),
        "zeros": np.zeros((ROWS, COLUMNS)),
        "times": 1.7e9 + rng.normal(size=(ROWS, COLUMNS)),
        "sizes": rng.normal(size=(ROWS, COLUMNS)) * np.logspace(-6, 12, COLUMNS),
    }[kind]
    y = np.arange(ROWS) % 2
    return Dataset(kind, X, y, X[:2], y[:2], ("no", "yes"), columns=tuple(f"c{k}" for k in range(COLUMNS)))


@dataclass
class Seen:
    """What a survey left: every rank's messages with their senders, and what came of it."""

    views: dict[int, list[tuple[int, Message]]]
    preparation: Preparation

    def words(self, host: int) -> NDArray[np.uint64]:
        """What the server got from a host."""
        (found,) = (m for source, m in self.views[0] if source == host and isinstance(m, Moments))
        return found.words


def rows_of(host: int, hosts: int) -> NDArray[np.int64]:
    return np.arange(host - 1, ROWS, hosts)


def surveyed(data: Dataset, hosts: int = HOSTS) -> Seen:
    """One survey on threads."""
    views: dict[int, list[tuple[int, Message]]] = {}

    def server(ch: Channel) -> Preparation:
        views[0] = ch._views
        return survey(ch, "job", data, impute=None)

    def host(ch: Channel) -> Preparation:
        views[ch.rank] = ch._views
        order = ch.recv(0, Survey)
        return answer(ch, text_of(order.job), data, rows_of(ch.rank, hosts))

    made = run_local([server] + [host] * hosts, timeout_seconds=20.0, record_views=True)
    assert all(one == made[0] for one in made)
    return Seen(views, made[0])


def own(data: Dataset, host: int, hosts: int = HOSTS) -> NDArray[np.uint64]:
    """The words of a host before they are masked."""
    table = training_table(data)
    return to_words(moments(Table(table.X[rows_of(host, hosts)], table.names, table.values)))


@pytest.mark.parametrize("kind", ["random", "zeros", "times", "sizes"])
def test_the_server_sees_uniform_words_from_each_host(kind: str) -> None:
    """Whatever the rows; and nothing cancels between two hosts, or between two surveys."""
    data = data_of(kind)
    data.X_train[0] += 1  # some column must differ between rows
    first, second = surveyed(data), surveyed(data)
    seen = [first.words(host) for host in range(1, HOSTS + 1)]
    again = add(first.words(1), second.words(1), -1)
    assert p_value_of_words([w.reshape(-1) for w in [*seen, add(seen[0], seen[1]), again]]) > ALARM


def unmasked(u: int, v: int, mask: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.zeros_like(mask)


def repeated(u: int, v: int, mask: NDArray[np.uint64]) -> NDArray[np.uint64]:
    drawn = np.random.default_rng([min(u, v), max(u, v)]).integers(0, 1 << 64, mask.size, np.uint64)
    return drawn.reshape(mask.shape)


def one_for_all(u: int, v: int, mask: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return repeated(0, 0, mask)


Mutation = Callable[[int, int, NDArray[np.uint64]], NDArray[np.uint64]]


def mutate(monkeypatch: pytest.MonkeyPatch, mutation: Mutation) -> None:
    drawn = pairwise.pair_mask
    monkeypatch.setattr(pairwise, "pair_mask", lambda pair, u, v, *rest: mutation(u, v, drawn(pair, u, v, *rest)))


@pytest.mark.parametrize("mutation", [unmasked, repeated, one_for_all])
def test_masks_that_hide_nothing_are_seen(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: no mask; the same masks in each survey; one mask for all pairs. The preparation is the same."""
    data = data_of("random")
    right = surveyed(data).preparation
    mutate(monkeypatch, mutation)
    first, second = surveyed(data), surveyed(data)
    assert first.preparation == right, "no test of accuracy sees it"
    seen = [first.words(1), add(first.words(1), second.words(1), -1), add(first.words(1), first.words(4))]
    assert p_value_of_words([w.reshape(-1) for w in seen]) < ALARM


@pytest.mark.parametrize("hosts", [2, 4])
def test_nobody_is_sent_a_part_of_the_sum(hosts: int) -> None:
    """Hosts see keys and the public result; the server one set of masked words from each. No mean, no sum of a host."""
    data = data_of("random")
    seen = surveyed(data, hosts)
    for rank, view in seen.views.items():
        kinds = {type(message) for _, message in view}
        assert kinds == ({MaskKey, Moments} if rank == 0 else {Survey, MaskKeys, Prepared})
        assert all(source == 0 for source, _ in view) or rank == 0
    parts = [own(data, host, hosts) for host in range(1, hosts + 1)]
    assert not any((seen.words(host) == part).any() for host in range(1, hosts + 1) for part in parts)
    means = {float(mean) for host in range(1, hosts + 1) for mean in data.X_train[rows_of(host, hosts)].mean(axis=0)}
    (text,) = {message.text.tobytes() for _, message in seen.views[1] if isinstance(message, Prepared)}
    told = json.loads(text)
    assert not means & {column["mean"] for column in told["columns"]}


def left_to_colluders(data: Dataset, colluders: tuple[int, ...]) -> NDArray[np.uint64]:
    """Of member 0, after the colluders have taken off the masks that they know, together with the server."""
    there = [Member(k) for k in range(HOSTS)]
    pairs = {k: there[k]._pair for k in colluders}
    publics = {member.number: member.public for member in there}
    hidden = there[0].mask(own(data, 1), publics, b"label")
    for k, pair in pairs.items():
        assert pair is not None
        hidden = add(hidden, pairwise.pair_mask(pair, k, 0, publics[0], b"label", hidden), -1)
    return hidden


@pytest.mark.parametrize("colluders", [(), (3,), (2, 3)])
def test_all_but_two_hosts_and_the_server_learn_nothing_of_one(colluders: tuple[int, ...]) -> None:
    assert p_value_of_words([left_to_colluders(data_of("random"), colluders).reshape(-1)]) > ALARM


def test_masks_with_colluders_alone_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: hosts 0 and 1 share no mask."""
    mutate(monkeypatch, lambda u, v, mask: mask if max(u, v) > 1 else np.zeros_like(mask))
    data = data_of("random")
    left = left_to_colluders(data, (2, 3))
    assert p_value_of_words([left.reshape(-1)]) < ALARM
    np.testing.assert_array_equal(left, own(data, 1))


def test_all_hosts_but_one_know_its_part() -> None:
    """That is what any sum says, and so is what each of two hosts learns of the other."""
    data = data_of("random")
    np.testing.assert_array_equal(left_to_colluders(data, (1, 2, 3)), own(data, 1))
    total = own(data, 1, 2)
    total = add(total, own(data, 2, 2))
    np.testing.assert_array_equal(add(total, own(data, 1, 2), -1), own(data, 2, 2))


def test_where_a_host_is_lost_nothing_is_opened() -> None:
    """Training does not begin, with one line that names it; what the others sent stays under its masks."""
    data, kept = data_of("random"), dict[int, list[tuple[int, Message]]]()

    def server(ch: Channel) -> None:
        kept[0] = ch._views
        survey(ch, "job", data, impute=None)

    def host(ch: Channel) -> None:
        if ch.rank == HOSTS:
            ch.send(0, MaskKey(Member(HOSTS - 1).public))
            ch.recv(0, MaskKeys)
            raise UsageError("the rows must be readable, got none")
        answer(ch, text_of(ch.recv(0, Survey).job), data, rows_of(ch.rank, HOSTS))

    with pytest.raises((UsageError, PeerFailed), match="the rows must be readable"):
        run_local([server] + [host] * HOSTS, timeout_seconds=20.0, record_views=True)
    words = [message.words for _, message in kept[0] if isinstance(message, Moments)]
    if words:  # which of them had come is chance
        total = words[0]
        for other in words[1:]:
            total = add(total, other)
        assert p_value_of_words([total.reshape(-1)]) > ALARM


def test_a_mask_is_used_once_and_with_the_own_key_only() -> None:
    member, words = Member(0), np.zeros((3, WORDS), np.uint64)
    with pytest.raises(ProtocolError, match="must hold that of member 0"):
        member.mask(words, {0: Member(0).public, 1: Member(1).public}, b"")
    with pytest.raises(ValueError, match="a mask is used once"):
        member.mask(words, {0: member.public}, b"")


# -- what comes of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["random", "times", "sizes"])
def test_the_preparation_is_that_of_all_rows_in_one_place_for_any_number_of_hosts(kind: str) -> None:
    """To 1e-9 with numpy's own, which rounds; from Unix times too, whose squares lose their variance as doubles."""
    data = data_of(kind)
    made = [surveyed(data, hosts).preparation for hosts in (1, 2, 5)]
    assert made[0] == made[1] == made[2]
    for column, x in zip(made[0].columns, data.X_train.T, strict=True):
        assert column.mean == pytest.approx(x.mean(), rel=1e-12, abs=1e-12 * np.abs(x).max())
        assert column.deviation == pytest.approx(x.std(), rel=1e-9)


def test_text_missing_values_and_constants() -> None:
    X = np.array([[0, 1.0, 5], [2, 3.0, 5], [2, np.nan, 5], [np.nan, 5.0, 5]])
    values = {0: ("cook", "nurse", "smith")}
    names = ("job", "age", "same")
    parts = [moments(Table(X[k : k + 2], names, values)) for k in (0, 2)]
    sums = [sum(pair) for pair in zip(*parts, strict=True)]
    assert from_words(to_words(sums)) == sums
    made = preparation_of(sums, names, values, impute="mean")
    assert made.names == ("job=cook", "job=smith", "age")
    assert (made.columns[0].fill, made.columns[1].fill, made.columns[2].dropped) == ("smith", 3.0, True)
    with pytest.raises(UsageError, match='"job" must have no missing values, got 1 in 4 rows'):
        preparation_of(sums, names, values)
    with pytest.raises(UsageError, match='"age" must be below 2'):
        moments(Table(np.array([[2.0**64]]), ("age",)))


def test_every_system_with_clients_sums_under_masks_and_is_the_same_on_any_number_of_hosts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = np.column_stack([rng.normal(1.7e9, 1, 120), rng.normal(0, 1e-6, 120), rng.integers(0, 2, 120)])
    np.savetxt(path := tmp_path / "t.csv", table, delimiter=",", header="time,size,label", comments="", fmt="%.17g")
    for system, first in (("niss", 2), ("pbpfl", 1), ("spn", 1)):
        method = ["--method", {"niss": "fedavg", "pbpfl": "fedavg-mse", "spn": "fedavg"}[system], "--model", "mlp"]
        options = [*method, "--dataset", path, "--rounds", "2", "--clients", "3", "--quiet"]
        found = []
        for hosts in (1, 3):
            folder = tmp_path / f"{system}-{hosts}"
            import_module(f"fedmpi.{system}").SYSTEM.on_threads(first + hosts, [*options, "--out", folder])
            found.append(read_arrays(folder))
            lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
            assert any(line.get("type") == "Moments" for line in lines)
        assert found[0].keys() == found[1].keys()
        assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
