"""What the master needs as it encodes: input, twice the quantized data, and a chunk; of a file the chunk alone."""

import json
import tracemalloc
from collections import deque
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import command_on_threads

from fedmpi.codedml import dealing
from fedmpi.codedml.dealing import CodedData, Deal, Delivery
from fedmpi.codedml.headroom import Headroom
from fedmpi.codedml.metrics import Metrics
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import row_blocks
from fedmpi.core import WIDE_PRIMES, Residues
from fedmpi.core.packing import packed_words
from fedmpi.crypto.random import fresh_seed
from fedmpi.data import Dataset, FileRows, load
from fedmpi.net import Channel

MB = 1 << 20
SLACK = 2 * MB


class Network:
    """Takes frames from one rank and drops them, at once or a few sends later, as a slow network does."""

    library, rank = "none", 0

    def __init__(self, size: int, *, slow: bool):
        self.size, self.slow = size, slow
        self.under_way: deque[tuple[int, list[Any]]] = deque()
        self.bytes = 0
        self.largest_under_way = 0
        self.words: dict[int, int] = {}

    def post(self, dest: int, tag: int, header: bytes, arrays: list[Any]) -> None:
        self.bytes += sum(array.nbytes for array in arrays)
        if tag == CodedData.tag:
            self.words[dest] = self.words.get(dest, 0) + arrays[0].size
        if self.slow:
            self.under_way.append((dest, arrays))
            self.largest_under_way = max(self.largest_under_way, self._bytes_under_way())

    def _bytes_under_way(self, dest: int | None = None) -> int:
        return sum(array.nbytes for to, arrays in self.under_way for array in arrays if dest in (None, to))

    def outstanding_bytes(self, dest: int | None = None) -> int:
        return self._bytes_under_way(dest)

    def failed(self) -> tuple[int, ...]:
        return ()

    def stopped(self, rank: int) -> bool:
        return False

    def end(self, rank: int) -> None:
        pass

    def poll(self, tag: int, sources: Collection[int]) -> None:
        return None

    def discard(self) -> bool:
        return False

    def pause(self, waited_seconds: float) -> None:
        self.under_way.popleft()


def peak_while_encoding(workers: int, m: int, d: int, *, slow: bool, q: int = 1) -> tuple[int, Network]:
    """The peak of memory allocated by `Delivery`, beyond the data that it is given."""
    params, residues = Params(degree=1), Residues(WIDE_PRIMES[:q])
    codes = [params.code(workers, field) for field in residues.fields]
    code = codes[0]
    X_bar = np.ones((m, d), np.float32)
    network = Network(workers + 1, slow=slow)
    ch = Channel(network)
    blocks = row_blocks(m, code.parallelization)
    rows = blocks[0].stop
    tracemalloc.start()
    deal = Deal([code.completion for code in codes], residues, X_bar, blocks, fresh_seed)
    Delivery(ch, range(1, workers + 1), deal).begin(workers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    words = sum(q * packed_words(d * min(deal.step, rows - start), 26) for start in deal.starts)
    assert network.words == dict.fromkeys(range(1 + code.privacy, workers + 1), words), "all have got a whole share"
    return peak, network


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(("workers", "q"), [(4, 1), (12, 1), (50, 1), (12, 3)])
def test_encoding_needs_a_chunk_whatever_n_is(workers: int, q: int, slow: bool) -> None:
    """A chunk is the shares of some rows for all workers together. Two are on their way and one is being made, of
    blocks and masks that are (K + T)/N of a chunk: all of it below four chunks. The residues of several primes are put
    together once more.
    """
    m, d = 12_000, 1000  # 48 MB quantized; the shares of 4 workers are 192 MB, of 12 workers 144 MB, of 50 240 MB,
    peak, network = peak_while_encoding(workers, m, d, slow=slow, q=q)
    assert network.bytes > 0.81 * 2.9 * 4 * m * d * q * (1 - 1 / min(workers, 4))  # packed, and some get a seed
    assert peak < (4 if q == 1 else 5) * dealing.CHUNK_BYTES
    assert network.largest_under_way <= 2 * dealing.CHUNK_BYTES


def test_the_measurement_sees_shares_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound on what is under way, a slow network would hold the shares of all workers."""
    monkeypatch.setattr(Channel, "await_room", lambda self, ranks, *others: set(ranks))
    peak, network = peak_while_encoding(50, 6000, 1000, slow=True)
    assert network.largest_under_way > 70 * MB
    assert peak > 70 * MB


@pytest.mark.parametrize("options", [{"paper": True}, {}])
def test_preparing_and_encoding_stay_below_the_issues_bar(options: dict[str, Any]) -> None:
    """Input + 2 × the quantized data set + a chunk, from raw features to the last share, for 50 workers."""
    m, d, workers = 12_000, 1000, 50
    X = np.random.default_rng(0).integers(0, 256, (m, d)).astype(np.uint8)
    y = np.arange(m) % 2
    params = Params(**options)
    quantized = 4 * m * (d + 1)
    tracemalloc.start()
    problem = Problem.prepare(params, X, y, 2)
    prepared = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    residues = problem.precision.residues
    codes = [params.code(workers, field) for field in residues.fields]
    blocks = row_blocks(m, codes[0].parallelization)
    deal = Deal([code.completion for code in codes], residues, problem.X_bar, blocks, fresh_seed)
    Delivery(Channel(Network(workers + 1, slow=True)), range(1, workers + 1), deal).begin(workers)
    encoded = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    if params.degree is not None:
        headroom = Headroom(problem.X_bar, blocks, params.coefficients, residues.half)
        headroom.check(np.zeros((1, d + 1, 1), np.int64), 0)
    checked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for peak in (prepared, encoded, checked):
        assert peak < 2 * quantized + dealing.CHUNK_BYTES + SLACK


@pytest.mark.parametrize(("options", "test_part"), [({"paper": True}, False), ({"degree": 1}, True), ({}, True)])
def test_of_rows_that_stay_in_their_file_a_few_are_in_memory(
    options: dict[str, Any], test_part: bool, tmp_path: Path
) -> None:
    """The same quantized data to the bit, and half of what the rows alone would take."""
    m, d, workers = 12_000, 1000, 50
    X = np.random.default_rng(0).standard_normal((m, d)).astype(np.float32)
    X[0, 0] = 1e6  # an outlier
    parts = {"X_train": X, "y_train": np.arange(m) % 3}
    if test_part:
        parts |= {"X_test": X[:30], "y_test": np.arange(30) % 3}
    for name, part in parts.items():
        np.save(tmp_path / f"{name}.npy", part)
    params = Params(**options)

    def prepared(in_memory_bytes: int | None) -> tuple[Dataset, Problem]:
        file = str(tmp_path / "X_train.npy")
        data = load(file, classes=["0", "2"], in_memory_bytes=in_memory_bytes)
        return data, Problem.prepare(params, data.X_train, data.y_train, 2)

    tracemalloc.start()
    data, problem = prepared(1 << 20)
    codes = [params.code(workers, field) for field in problem.precision.residues.fields]
    blocks = row_blocks(len(problem.X_bar), codes[0].parallelization)
    deal = Deal([code.completion for code in codes], problem.precision.residues, problem.X_bar, blocks, fresh_seed)
    Delivery(Channel(Network(workers + 1, slow=True)), range(1, workers + 1), deal).begin(workers)
    if params.degree is not None:
        Headroom(problem.X_bar, blocks, [0, 1], problem.precision.residues.half)
    metrics = Metrics(params, problem, data).of(np.zeros((problem.weight_rows, 1)), quantized=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(data.X_train, FileRows)
    assert peak < 5 * dealing.CHUNK_BYTES, "as many as of 4 chunks of shares, and 8 MB in float64"
    in_memory, expected = prepared(None)
    assert isinstance(in_memory.X_train, np.ndarray)
    np.testing.assert_array_equal(problem.X_bar[:], expected.X_bar)
    assert problem.learning_rate == expected.learning_rate
    assert metrics == Metrics(params, expected, in_memory).of(np.zeros((expected.weight_rows, 1)), quantized=True)


@pytest.mark.parametrize("options", [["--method", "plain"], ["--paper"], []])
def test_a_run_on_rows_that_stay_in_their_file_ends_with_the_same_weights(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((300, 20)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", (3 * X[:, 0] + rng.standard_normal(300) > 0).astype(np.int64))
    found = []
    for limit in (0, 1 << 30):
        monkeypatch.setattr("fedmpi.codedml.command.IN_MEMORY_BYTES", limit)
        out = tmp_path / str(limit)
        arguments = ["--dataset", tmp_path / "X.npy", "--iterations", 5, "--seed", 4, "--quiet", "--out", out]
        command_on_threads(6, *options, *arguments)
        result = json.loads((out / "result.json").read_text())
        found.append((np.load(out / "model.npz")["coefficients"], result["metrics"]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1]["test_accuracy"] == found[1][1]["test_accuracy"] > 0.6


@pytest.mark.parametrize(("options", "test_part"), [({"center": True}, False), ({}, True)])
def test_sparse_rows_stay_sparse_and_give_the_same_quantized_data(
    options: dict[str, Any], test_part: bool, tmp_path: Path
) -> None:
    """The same to the bit, and less memory than the quantized data alone would take when dense."""
    m, d = 6000, 4000
    rng = np.random.default_rng(1)
    lines = []
    for k in range(m):
        places = sorted({1, *rng.integers(2, d + 1, 8).tolist()})
        cells = " ".join(f"{place}:{x:.4f}" for place, x in zip(places, rng.standard_normal(9), strict=False))
        lines.append(f"{k % 3} {cells}\n")
    lines[9] = "0 1:1000000 7:2\n"  # an outlier
    (tmp_path / "a.svm").write_text("".join(lines))
    (tmp_path / "b.svm").write_text("".join(lines[:60]))
    params = Params(**options)
    test_file = tmp_path / "b.svm" if test_part else None

    def prepared(in_memory_bytes: int | None) -> tuple[Dataset, Problem]:
        data = load(
            str(tmp_path / "a.svm"),
            classes=["0", "2"],
            features=d,
            test_file=test_file,
            in_memory_bytes=in_memory_bytes,
        )
        return data, Problem.prepare(params, data.X_train, data.y_train, 2)

    load(str(tmp_path / "b.svm"), features=d)  # imports
    tracemalloc.start()
    data, problem = prepared(1 << 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(data.X_train, FileRows)
    dense, expected = prepared(None)
    assert isinstance(dense.X_train, np.ndarray)
    assert peak < expected.X_bar[:].nbytes
    np.testing.assert_array_equal(problem.X_bar[:], expected.X_bar)
    np.testing.assert_array_equal(data.X_test[:], dense.X_test)
    assert problem.precision == expected.precision
    assert problem.learning_rate == expected.learning_rate


def test_a_run_on_sparse_rows_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((300, 20)) * (rng.random((300, 20)) < 0.2)
    rows = [" ".join(f"{j + 1}:{x:.4f}" for j, x in enumerate(row) if x) for row in X]
    labels = (X[:, 0] + X[:, 1] > 0.1).astype(int)
    (tmp_path / "a.svm").write_text("".join(f"{y} {row}\n" for y, row in zip(labels, rows, strict=True)))
    found = []
    for limit in (0, 1 << 30):
        monkeypatch.setattr("fedmpi.codedml.command.IN_MEMORY_BYTES", limit)
        out = tmp_path / str(limit)
        arguments = ["--dataset", tmp_path / "a.svm", "--iterations", 5, "--seed", 4, "--quiet", "--out", out]
        command_on_threads(6, *arguments)
        result = json.loads((out / "result.json").read_text())
        found.append((np.load(out / "model.npz")["coefficients"], result["metrics"]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1]["test_accuracy"] == found[1][1]["test_accuracy"] > 0.6
