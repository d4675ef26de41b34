"""What the master needs while it encodes: the input, twice the quantized data, and a chunk, whatever N is."""

import tracemalloc
from collections import deque
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from fedmpi.codedml import dealing
from fedmpi.codedml.dealing import CodedData, Deal, Delivery
from fedmpi.codedml.headroom import Headroom
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem
from fedmpi.codedml.protocol import row_blocks
from fedmpi.core import WIDE_PRIMES, Residues
from fedmpi.core.packing import packed_words
from fedmpi.crypto.random import fresh_seed
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
    deal = Deal([code.completion for code in codes], residues, [X_bar[block] for block in blocks], rows, fresh_seed)
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
    raw = [problem.X_bar[block] for block in blocks]
    deal = Deal([code.completion for code in codes], residues, raw, blocks[0].stop, fresh_seed)
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
