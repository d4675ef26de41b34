"""PPADMM beside ADMM in the clear: what the parties compute in one thread and without messages, and under mpirun."""

import hmac
import sys
import time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fedmpi.bench.timing import fastest, last_json
from fedmpi.core.fixed_point import decode, decode_wide, encode, encode_wide
from fedmpi.crypto.masks import KINDS, MaskKind, mask_words
from fedmpi.machines.launcher import mpirun_command
from fedmpi.ppadmm.admm import Consensus, Scaling, Shard, Vector
from fedmpi.ppadmm.params import FIRST_ITERATION, Params
from fedmpi.ppadmm.rounds import words_of


def measure(participants: int, rows: int, columns: int) -> dict[str, Any]:
    """Masks, and iterations of PPADMM against those of ADMM: their work alone, and under mpirun."""
    program = [sys.executable, "-m", "fedmpi.bench.ranks.ppadmm", str(rows), str(columns)]
    work = {f"{name}, work": ratios for name, ratios in iteration(participants, rows, columns).items()}
    return {"masks": masks(), **work, **last_json(mpirun_command(participants + 2, program)[0])}


def masks() -> dict[str, float]:
    """Million words of masks a second on one core, and those of one digest after another through Python."""
    counts = {"aes-ctr": 1 << 22, "chacha20": 1 << 22, "sha256": 1 << 18}
    blocks = [block.to_bytes(4, "big") for block in range(1 << 12)]
    *seconds, calls = fastest(
        *(lambda kind=kind: mask_words(kind, bytes(32), 0, counts[kind]) for kind in KINDS),
        lambda: [hmac.digest(bytes(32), block, "sha256") for block in blocks],
        clock=time.thread_time,
    )
    rates: dict[str, float] = {kind: counts[kind] / used / 1e6 for kind, used in zip(KINDS, seconds, strict=True)}
    return {**rates, "sha256 by single calls": 4 * len(blocks) / calls / 1e6}


def iteration(participants: int, rows: int, columns: int) -> dict[str, dict[str, float]]:
    """One iteration of all parties, one after another: in the clear, and under each kind of mask."""
    rng, params = np.random.default_rng(0), Params(rho="500")
    shards = []
    with threadpool_limits(1):
        for _ in range(participants):
            shards.append(Shard(rng.standard_normal((rows, columns)), rng.standard_normal(rows)))
            shards[-1].begin(500.0, np.ones(columns + 1))
        consensus = Consensus(params, Scaling.none(columns).weights(params), 500.0, np.zeros(columns), 500.0)
        methods: list[MaskKind | None] = [None, *KINDS]
        seconds = fastest(
            *(lambda kind=kind: iterate(shards, consensus, kind) for kind in methods), clock=time.thread_time
        )
    base = seconds[0]
    names = ["admm", *KINDS]
    return {name: {"cpu_ms": 1e3 * used, "cpu_ratio": used / base} for name, used in zip(names, seconds, strict=True)}


def iterate(shards: list[Shard], consensus: Consensus, kind: MaskKind | None) -> None:
    """One iteration; without a kind in the clear."""
    N, columns, keys = len(shards), shards[0].columns, [bytes([i]) * 32 for i in range(len(shards))]
    vectors = [shard.update(consensus.z) for shard in shards]
    if kind is None:
        total, norms = np.sum([v for v, _ in vectors], axis=0), np.sum([n for _, n in vectors], axis=0)
    else:
        total, norms = under_masks(vectors, kind, keys, columns)
    consensus.update(total, norms, N, 0)
    for shard in shards:
        shard.dual_step(consensus.z)


def under_masks(
    vectors: list[tuple[Vector, Vector]], kind: MaskKind, keys: list[bytes], columns: int
) -> tuple[Vector, Vector]:
    """The sums, as participants, S2 and S1 make them."""
    N = len(vectors)
    opened = np.zeros(words_of(FIRST_ITERATION, columns), np.uint64)
    for key, (vector, norms) in zip(keys, vectors, strict=True):  # participants, and S1
        words = np.concatenate([encode(vector, 40, N), encode_wide(norms, N)])
        words += mask_words(kind, key, 0, len(words))
        opened += words
    mask_sum = np.zeros_like(opened)
    for key in keys:  # S2
        mask_sum += mask_words(kind, key, 0, len(mask_sum))
    opened -= mask_sum
    return decode(opened[:columns], 40), decode_wide(opened[columns:])
