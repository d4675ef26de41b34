"""COPML, phase by phase [So et al. 2020, section 3 and Algorithm 1]: every rank plays `owner`, and rank 0 leads too.

Letters: N owners, T colluders, K blocks of rows, X̄ (m, d) the quantized features of all, Ȳ (m, C) their targets,
w̄ (d, C) the weights; [x] an owner's share of x, of degree T; X̃_i and w̃_i what is coded for owner i. Every array has
the residues modulo q primes along its first axis. Until the rows are shared everybody is needed, and afterwards
whoever is fast: R owners to decode from, of whom rank 0, which says who is counted, is one. In the paper all hold [w̄];
here so many do that enough are left with any R owners: `Owner.roles`.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from fedmpi.copml.bgw import Products
from fedmpi.copml.member import LEADER, Keep, Numbers, OpenedShare, Owner, RowShare, Task, Trained, Watch
from fedmpi.copml.quantized import centred, of_raw_features, quantized
from fedmpi.copml.sharing import Once
from fedmpi.copml.truncation import masked, truncated
from fedmpi.core import FieldArray
from fedmpi.core.reed_solomon import errors_of, parity_checks
from fedmpi.errors import DecodingError, ProtocolError
from fedmpi.net import Channel, Message, UInt32
from fedmpi.net.meaning import judged


class CodedShare(Message, Numbers, tag=5):
    """Owner → owner j of its group, once for each slice: its share of all owners' rows in X̃_j, shape (q, rows, d)."""


class CodedRows(Message, Numbers, tag=6):
    """Owner p → owner j, once for each slice, with --encoding own: p's rows in X̃_j, shape (q, rows, d)."""


class WeightShare(Message, Numbers, tag=11):
    """Who holds [w̄] → owner j, each iteration: its share of w̃_j, shape (q, d, C)."""


class GradientShare(Message, Numbers, tag=12):
    """Owner j → who holds [w̄], each iteration: a share of f(X̃_j, w̃_j) = X̃_jᵀ s̄(X̃_j w̃_j), shape (q, d, C)."""


class Chosen(Message, tag=13):
    """Leader → owner, each iteration: whose answers all decode from, and whether this iteration is the last."""

    step: int
    owners: Annotated[UInt32, judged("fedmpi.copml.protocol:Coded.choose")]
    last: bool


class SyndromeShare(Message, Numbers, tag=14):
    """Between those who hold [w̄], with --byzantine: a share of the answers' syndromes, shape (q, 2A, d, C)."""


class MaskedShare(Message, Numbers, tag=15):
    """Between those who hold [w̄], each iteration: a share of what is opened to truncate, shape (q, dC)."""


def owner(
    ch: Channel,
    task: Task,
    X: NDArray[np.float64],
    Y: NDArray[Any],
    watch: Watch = lambda done: False,
    keep: Keep = lambda done, w: None,
) -> Trained:
    """One training.

    Parameters
    ----------
    X : array, shape (m_p, d)
        This owner's rows, the column of ones included.
    Y : array of 0 and 1, shape (m_p, C)
    watch, keep : callable, optional
        Of the leader.

    Raises
    ------
    TooFewWorkers
        If fewer than R owners are left.
    DecodingError
        If more than A of them lie.
    """
    me, start, cpu_start = Owner(ch, task), time.perf_counter(), time.thread_time()
    ch.tolerated = ()  # the rows of all are wanted
    means = me.means(X) if task.center else None
    X_bar = quantized(X if means is None else centred(X, means, task.largest), me.scale.data_bits)
    with ch.phase("encode"):
        gradients: Coded | Products = (Products if task.params.method == "bgw" else Coded)(me, X_bar)
    correlation, step_bits = me.sums(X_bar, Y)
    bits = me.scale.truncated_bits(step_bits)
    with ch.phase("offline"):
        gradients.prepare()
        masks = me.truncation_masks(bits)
    if task.params.method == "copml":
        ch.tolerated = [rank for rank in me.others if rank != LEADER]
    begun, cpu_begun, shape = time.perf_counter(), time.thread_time(), (task.columns, task.outputs)
    held = None if correlation is None or masks is None else Weights(me, correlation, masks, bits)
    done, last = task.begun, False
    while not last:
        total, last = gradients.gradient(done, None if held is None else held.w.reshape(-1, *shape), watch)
        if held is not None and total is not None:
            held.step(done, total)
        done += 1
        if last or task.opens(done):
            opened = me.open(OpenedShare, done, None if held is None else held.w, (me.count,))
            w_bar = me.ring.residues.reals(opened, 0).reshape(shape)
            keep(done, w_bar.astype(np.int64))
    W = np.ldexp(w_bar, -me.scale.weight_bits)
    now, cpu = time.perf_counter(), time.thread_time()
    seconds = now - begun, now - start
    W = of_raw_features(W, means)
    return Trained(W, done, me.scale, step_bits, *seconds, me.failures(), cpu - cpu_begun, cpu - cpu_start)


class Weights:
    """[w̄], of an owner who holds shares of it, shape (q, dC); at first 0, or what an earlier run has opened.

    Parameters
    ----------
    me : Owner
    correlation : array, shape (q, dC)
        [X̄ᵀȲ].
    masks : two of Once
        [Σ l_j] and [Σ h_j] of all truncations, by 2^bits.
    """

    def __init__(self, me: Owner, correlation: FieldArray, masks: tuple[Once, Once], bits: int):
        self.me, self.low, self.high, self.bits = me, *masks, bits
        # All know what the weights begin with: as good as a share of degree 0 for everybody.
        self.w = me.ring.residues.from_signed(me.task.weights.reshape(-1))
        self.targets = me.ring.times(2**me.scale.residual_bits, correlation)

    def step(self, step: int, total: FieldArray) -> None:
        """One step along [X̄ᵀ s̄(X̄w̄)], rounded together with the others who hold (phase 4)."""
        me, ring, mask_bits = self.me, self.me.ring, self.me.scale.mask_bits
        with me.ch.phase("decode"):
            a = ring.subtract(total.reshape(self.w.shape), self.targets)
            low, high = self.low.take(me.count), self.high.take(me.count)
            shares = masked(ring, a, low, high, self.bits, mask_bits)
        opened = me.open(MaskedShare, step, shares, (me.count,), to_all=False)
        with me.ch.phase("decode"):
            self.w = ring.subtract(self.w, truncated(ring, opened, high, self.bits, mask_bits))


class Coded:
    """Gradients from coded rows.

    Parameters
    ----------
    me : Owner
    X_bar : array of integers, shape (m_p, d)
    """

    def __init__(self, me: Owner, X_bar: NDArray[Any]):
        self.me, params = me, me.task.params
        self.codes = [params.code(field, me.N) for field in me.ring.residues.fields]
        self.K, self.R = self.codes[0].parallelization, self.codes[0].recovery_threshold
        self.matrices = [code.encoding_matrix for code in self.codes]
        # of weights, which stand in all K blocks: Σ_k ℓ_k, and those of the masks
        self.repeated = [
            np.hstack([code.field.array(m[:, : self.K].sum(axis=1, keepdims=True, dtype=np.uint64)), m[:, self.K :]])
            for code, m in zip(self.codes, self.matrices, strict=True)
        ]
        self.rows = [-(-count // self.K) for count in me.task.rows]  # of each owner in each block
        blocks = self.blocks(X_bar)
        parts = self.encode_jointly(blocks) if params.encoding == "joint" else self.encode_own(blocks)
        self.X = me.laid(parts, sum(self.rows))
        # often the same owners are the fastest
        self.decoding = lru_cache(maxsize=64)(lambda right: [code.decoding_sums(right) for code in self.codes])
        self.coefficients = [field.array(np.array(me.scale.coefficients, object)) for field in me.ring.residues.fields]

    def blocks(self, X_bar: NDArray[Any]) -> NDArray[Any]:
        """An owner's rows in K blocks, with rows of zeros behind, which change no gradient; shape (K, rows, d)."""
        rows, d = self.rows[self.me.ch.rank], X_bar.shape[1]
        padded = np.zeros((self.K * rows, d), X_bar.dtype)
        padded[: len(X_bar)] = X_bar
        return padded.reshape(self.K, rows, d)

    def encode_jointly(self, blocks: NDArray[Any]) -> Iterator[FieldArray]:
        """X̃_i of this owner, slice by slice: encoded on shares, under masks that nobody knows (phase 2).

        Owner i gets its shares from the T + 1 owners of its group, and nobody else can add them up.
        """
        me, ring, rank = self.me, self.me.ring, self.me.ch.rank
        mine = [j for j in range(me.N) if rank in group(j, me.N, me.T)]
        matrices = [matrix[mine] for matrix in self.matrices]
        senders = [i for i in group(rank, me.N, me.T) if i != rank]

        def shares(some: slice) -> FieldArray:
            return ring.share(ring.residues.from_signed(blocks[:, some]))

        for step, parts in enumerate(me.swapped(RowShare, self.rows, (self.K,), shares)):
            edges = np.cumsum([0, *(part.shape[2] for part in parts)]).tolist()
            shape = edges[-1], me.task.columns
            masks = me.random(me.T * math.prod(shape), range(me.N)).reshape(-1, me.T, *shape)
            coded = np.empty((len(mine), len(ring), *shape), np.uint32)
            for part, (start, end) in zip(parts, pairwise(edges), strict=True):
                of = [*part.swapaxes(0, 1), *masks[:, :, start:end].swapaxes(0, 1)]
                ring.combine(matrices, of, coded[:, :, start:end])
            coded.flags.writeable = False
            own = dict(zip(mine, coded, strict=True))
            for j in own.keys() - {rank}:
                me.ch.send(j, CodedShare(step, own[j]))
            yield ring.open({rank: own[rank]} | me.collect(CodedShare, step, shape, senders))

    def encode_own(self, blocks: NDArray[Any]) -> Iterator[FieldArray]:
        """The same where each owner encodes its own rows: its masks are known to it alone, who knows the rows too."""
        me, ring = self.me, self.me.ring

        def coded(some: slice) -> FieldArray:
            residues = ring.residues.from_signed(blocks[:, some])
            masks = ring.uniform((me.T, *residues.shape[2:]))
            return ring.combine(self.matrices, [*residues.swapaxes(0, 1), *masks.swapaxes(0, 1)])

        for parts in me.swapped(CodedRows, self.rows, (), coded):
            yield from parts

    def prepare(self) -> None:
        """The masks of the weights, for all iterations, before the first one."""
        me = self.me
        self.masks = Once(me.random(me.task.left * me.T * me.count, me.holders))

    def gradient(self, step: int, w: FieldArray | None, watch: Watch) -> tuple[FieldArray | None, bool]:
        """[X̄ᵀ s̄(X̄w̄)], shape (q, d, C), of who holds [w̄], and whether this iteration is the last (phases 2 to 4)."""
        me, ch, ring = self.me, self.me.ch, self.me.ring
        shape, own = (me.task.columns, me.task.outputs), None
        if w is not None:
            with ch.phase("encode"):
                masks = self.masks.take(me.T * me.count).reshape(len(ring), me.T, *shape)
                encoded = ring.combine(self.repeated, [w, *masks.swapaxes(0, 1)])
            with ch.phase("communicate"):
                me.send(WeightShare, step, encoded)
            own = encoded[ch.rank]
        w_tilde = me.opened(WeightShare, step, own, shape)
        with ch.phase("compute"):
            answer = np.stack(
                [
                    field.gradient(x, v[:, None], c)
                    for field, x, v, c in zip(ring.residues.fields, self.X, w_tilde, self.coefficients, strict=True)
                ]
            )
        with ch.phase("encode"):
            shares = ring.share(answer)
        with ch.phase("communicate"):
            me.send(GradientShare, step, shares, me.holders)
        chosen, last, answers = self.choose(step, shares[ch.rank], watch)
        if not me.holds:
            return None, last
        right = self.agreed(step, chosen, answers)
        with ch.phase("decode"):
            return ring.combine(self.decoding(tuple(right)), [answers[i] for i in right])[0], last

    def choose(self, step: int, own: FieldArray, watch: Watch) -> tuple[list[int], bool, dict[int, FieldArray]]:
        """Whose answers are decoded from: the leader says so, and all who hold shares of w̄ take those of these."""
        me, ch = self.me, self.me.ch
        shape = own.shape[1:]
        if ch.rank == LEADER:
            last = watch(step) or step + 1 >= me.task.params.iterations
            wanted = self.R - 1 + 2 * me.liars_left
            answers = {LEADER: own} | me.collect(GradientShare, step, shape, me.honest, wanted)
            chosen = sorted(answers)
            for rank in me.others:
                if rank not in ch.departed:
                    ch.send(rank, Chosen(step, np.array(chosen, np.uint32), last))
            return chosen, last, answers
        with ch.phase("wait"):
            told = ch.recv(LEADER, Chosen, shapes={"owners": (None,)})
        chosen = told.owners.tolist()
        spare = len(chosen) - self.R
        if told.step != step or chosen != sorted({*chosen} & {*range(me.N)}) or spare < 0 or spare % 2:
            raise ProtocolError(f"Chosen must name {self.R} owners or more in iteration {step}, got {chosen}")
        last = told.last or step + 1 >= me.task.params.iterations
        if not me.holds:
            return chosen, last, {}
        answers = me.collect(GradientShare, step, shape, [i for i in chosen if i != ch.rank])
        return chosen, last, answers | ({ch.rank: own} if ch.rank in chosen else {})

    def agreed(self, step: int, chosen: Sequence[int], answers: Mapping[int, FieldArray]) -> list[int]:
        """R owners whose answers are right: all lie on one polynomial of degree R - 1.

        Their syndromes are linear in the answers, so each owner has shares of them, and they are opened: zeros where
        nobody lies, and otherwise they depend on the lies alone.
        """
        errors = (len(chosen) - self.R) // 2
        if not errors:
            return list(chosen)
        me, ring = self.me, self.me.ring
        nodes = [self.codes[0].alphas[i] for i in chosen]
        checks = [parity_checks(field, nodes, self.R - 1) for field in ring.residues.fields]
        shares = ring.combine(checks, [answers[i] for i in chosen]).swapaxes(0, 1)
        syndromes = me.open(SyndromeShare, step, shares, shares.shape[1:], to_all=False)
        wrong: set[int] = set()
        with me.ch.phase("check"):
            for field, uniform, syndrome in zip(ring.residues.fields, ring.uniforms, syndromes, strict=True):
                if syndrome.any():
                    flat = syndrome.reshape(len(syndrome), -1)
                    for column in field.product(flat, uniform((flat.shape[1], 3))).T:
                        wrong |= errors_of(field, nodes, column.tolist())
            if len(wrong) > errors or (syndromes.any() and not wrong):
                raise DecodingError(f"at most {errors} of {len(chosen)} owners must lie, got more")
        me.caught([chosen[k] for k in wrong], step)
        # the same for all owners, whatever else one of them knows of a liar: else their shares do not fit together
        return [i for k, i in enumerate(chosen) if k not in wrong][: self.R]


def group(j: int, owners: int, threshold: int) -> range:
    """Who sends owner j the shares of its coded rows: groups of T + 1, of which the last may overlap the one before."""
    size = threshold + 1
    start = min(j // size * size, owners - size)
    return range(start, start + size)
