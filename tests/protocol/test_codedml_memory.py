"""What the master needs while it encodes: the input, twice the quantized data, and a chunk, whatever N is."""

import tracemalloc
from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
from protocol.codedml_threads import test_masks

from fedmpi.codedml import protocol
from fedmpi.codedml.headroom import Headroom
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import CodedData, distribute, row_blocks
from fedmpi.core import WIDE_PRIMES, Residues
from fedmpi.net import Channel

test_masks.__test__ = False  # a source of masks, not a test

MB = 1 << 20
SLACK = 2 * MB


class Network:
    """Takes frames from one rank and drops them, at once or a few sends later, as a slow network does."""

    library, rank = "none", 0

    def __init__(self, size: int, *, slow: bool):
        self.size, self.slow = size, slow
        self.under_way: deque[list[Any]] = deque()
        self.bytes = 0
        self.largest_under_way = 0
        self.elements: dict[int, int] = {}

    def post(self, dest: int, tag: int, header: bytes, arrays: list[Any]) -> None:
        self.bytes += sum(array.nbytes for array in arrays)
        if tag == CodedData.tag:
            self.elements[dest] = self.elements.get(dest, 0) + arrays[0].size
        if self.slow:
            self.under_way.append(arrays)
            self.largest_under_way = max(self.largest_under_way, self._bytes_under_way())

    def _bytes_under_way(self) -> int:
        return sum(array.nbytes for arrays in self.under_way for array in arrays)

    def outstanding_bytes(self, dest: int | None = None) -> int:
        return self._bytes_under_way()

    def failed(self) -> tuple[int, ...]:
        return ()

    def poll(self, tag: int, sources: Collection[int]) -> None:
        return None

    def discard(self) -> bool:
        return False

    def pause(self, waited_seconds: float) -> None:
        self.under_way.popleft()


def peak_while_encoding(workers: int, m: int, d: int, *, slow: bool, q: int = 1) -> tuple[int, Network]:
    """The peak of memory allocated by `distribute`, beyond the data that it is given."""
    params, residues = Params(degree=1), Residues(WIDE_PRIMES[:q])
    codes = [params.code(workers, field) for field in residues.fields]
    code = codes[0]
    X_bar = np.ones((m, d), np.float32)
    network = Network(workers + 1, slow=slow)
    ch = Channel(network)
    uniforms = [test_masks(p, 1) for p in residues.primes]
    tracemalloc.start()
    distribute(ch, codes, residues, X_bar, row_blocks(m, code.parallelization), uniforms)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    rows = -(-m // code.parallelization)
    assert network.elements == dict.fromkeys(range(1, workers + 1), q * rows * d), "everybody has got a whole share"
    return peak, network


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(("workers", "q"), [(4, 1), (12, 1), (50, 1), (12, 3)])
def test_encoding_needs_a_chunk_whatever_n_is(workers: int, q: int, slow: bool) -> None:
    """A chunk is the shares of some rows for all workers together. Two are on their way and one is being made, of
    blocks and masks that are (K + T)/N of a chunk: all of it below four chunks. The residues of several primes are put
    together once more.
    """
    m, d = 12_000, 1000  # 48 MB quantized; the shares of 4 workers are 192 MB, of 12 workers 144 MB, of 50 240 MB
    peak, network = peak_while_encoding(workers, m, d, slow=slow, q=q)
    assert network.bytes > 2.9 * 4 * m * d * q
    assert peak < (4 if q == 1 else 5) * protocol.CHUNK_BYTES
    assert network.largest_under_way <= 2 * protocol.CHUNK_BYTES


def test_the_measurement_sees_shares_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound on what is under way, a slow network would hold the shares of all workers."""
    monkeypatch.setattr(Channel, "flush", lambda self, limit_bytes=0: None)
    peak, network = peak_while_encoding(50, 6000, 1000, slow=True)
    assert network.largest_under_way > 100 * MB
    assert peak > 100 * MB


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
    uniforms = [test_masks(p, 1) for p in residues.primes]
    distribute(Channel(Network(workers + 1, slow=True)), codes, residues, problem.X_bar, blocks, uniforms)
    encoded = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    if params.degree is not None:
        headroom = Headroom(problem.X_bar, blocks, params.coefficients, residues.half)
        headroom.check(np.zeros((1, d + 1, 1), np.int64), 0)
    checked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for peak in (prepared, encoded, checked):
        assert peak < 2 * quantized + protocol.CHUNK_BYTES + SLACK
