"""What COPML's owners see: any T of them uniform numbers whatever the others' rows are, and openings that hide.

Every message is recorded, as --record-views does. A test names the mutation that it is there for, and applies it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from protocol.copml_threads import Case
from scipy.stats import ks_2samp

from fedmpi.audit.statistics import buckets_for, least, p_value_uniform
from fedmpi.copml import member, truncation
from fedmpi.copml.member import MaskShare, MeanShare, OpenedMeans, OpenedShare, Owner, RandomShare, RowShare, SumShare
from fedmpi.copml.params import Params
from fedmpi.copml.protocol import CodedRows, CodedShare, GradientShare, MaskedShare, WeightShare, group
from fedmpi.copml.quantized import column_sums
from fedmpi.copml.scale import residues
from fedmpi.copml.sharing import Once, Ring
from fedmpi.core import FieldArray, Residues
from fedmpi.core.lagrange import lagrange_basis
from fedmpi.core.residues import WIDE_PRIMES

ALARM, N, D = 1e-6, 7, 60
HIDDEN = (RowShare, CodedRows, RandomShare, MaskShare, GradientShare, SumShare, MeanShare)
"""What owners see of what nobody may know: uniform, each alone and the shares that colluders pool."""


@pytest.fixture(autouse=True)
def several_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are shared and encoded two of each block at a time."""
    monkeypatch.setattr(member, "rows_at_once", lambda owners, numbers: 2)


def rows_of(kind: str) -> np.ndarray:
    """Of one shape: zeros, or as large as may be."""
    m = sum(7 + i % 3 for i in range(N))
    return np.zeros((m, D)) if kind == "zeros" else np.where(np.random.default_rng(0).random((m, D)) < 0.5, -1.0, 1.0)


def trained(kind: str = "large", **params: Any) -> Case:
    case = Case.of(N, d=D, X=rows_of(kind), **{"iterations": 3, "privacy": 1, "parallelization": 2} | params)
    case.train()
    return case


def seen(case: Case, rank: int, cls: type[Any]) -> Iterator[FieldArray]:
    """What an owner received of a kind, modulo the first prime, a row for each message."""
    return (message.values[0].reshape(-1) for _, message in case.views[rank] if isinstance(message, cls))


def coded(case: Case, rank: int) -> FieldArray:
    """X̃_i of the others' rows, which an owner adds up from the shares of its group, modulo the first prime."""
    if case.params.encoding == "own":
        return np.concatenate([*seen(case, rank, CodedRows)])
    ring = Ring(Residues(WIDE_PRIMES[:1]), N, case.params.privacy or 1)
    shares: dict[int, dict[int, FieldArray]] = {}
    for source, message in case.views[rank]:
        if isinstance(message, CodedShare):
            shares.setdefault(message.step, {})[source] = message.values[:1]
    assert all({*group(rank, N, ring.threshold)} - {rank} == {*of} for of in shares.values()), "of the group, no others"
    return np.concatenate([one[0].reshape(-1) for of in shares.values() for one in of.values()])


def p_value(case: Case, colluders: tuple[int, ...]) -> float:
    """Whether the numbers that colluders see, alone and two by two, are uniform."""
    p, lots = WIDE_PRIMES[0], []
    for cls in HIDDEN:
        for rank in colluders:
            lots += [np.concatenate(one)[None] for one in [[*seen(case, rank, cls)]] if one]
    pooled = [coded(case, rank) for rank in colluders]
    lots += [one[None] for one in pooled]
    if len(colluders) == 2:
        same = min(map(len, pooled))
        lots.append(np.stack([one[:same] for one in pooled]))
        for cls in (GradientShare, RowShare):
            pairs = [[*seen(case, rank, cls)] for rank in colluders]
            sizes = min(sum(map(len, one)) for one in pairs)
            lots += [np.stack([np.concatenate(one)[:sizes] for one in pairs])] if sizes else []
    return least(
        p_value_uniform(lot, p, buckets) for lot in lots if (buckets := buckets_for(len(lot), lot.shape[1], 16)) > 1
    )


@pytest.mark.parametrize("encoding", ["joint", "own"])
@pytest.mark.parametrize("kind", ["zeros", "large"])
def test_an_owner_sees_uniform_numbers_whatever_the_others_rows(kind: str, encoding: str) -> None:
    case = trained(kind, encoding=encoding)
    assert p_value(case, (1,)) > ALARM
    assert p_value(case, (6,)) > ALARM


@pytest.mark.parametrize("mutated", [False, True])
def test_of_the_means_that_are_opened_an_owner_s_part_stays_hidden(
    mutated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sums of all rows nothing but the total is opened; mutation: owners send their sums as they are."""
    if mutated:
        monkeypatch.setattr(Owner, "total", in_the_clear(Owner.total))
    case = trained(center=True)
    shares = np.concatenate([*seen(case, 1, MeanShare)])[None]
    p = p_value_uniform(shares, WIDE_PRIMES[0], buckets_for(1, shares.shape[1], 16))
    assert (p < ALARM) == mutated
    if not mutated:
        assert p_value(case, (1,)) > ALARM
        views = [pair for view in case.views.values() for pair in view]
        opened = {source: message.values for source, message in views if isinstance(message, OpenedMeans)}
        ring = Ring(residues(), N, 1)
        np.testing.assert_array_equal(ring.residues.reals(ring.open(opened), 0), column_sums(case.X))


def in_the_clear(total: Any) -> Any:
    """Mutation of `Owner.total`: sums of columns are shared by polynomials of degree 0."""

    def mutated(me: Owner, cls: type[Any], own: np.ndarray) -> FieldArray:
        ring, share = me.ring, me.ring.share
        if cls is MeanShare:
            ring.share = lambda secret: np.stack([secret] * N)  # type: ignore[method-assign]
        try:
            return total(me, cls, own)
        finally:
            ring.share = share  # type: ignore[method-assign]

    return mutated


def test_two_owners_who_pool_what_they_see_do_so_too() -> None:
    case = trained(privacy=2, parallelization=1)
    assert p_value(case, (0, 1)) > ALARM
    assert p_value(case, (2, 5)) > ALARM


def test_points_that_overlap_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: α_i = β_i, as in the authors' scripts: K owners receive a block of the rows as it is."""
    code = Params.code

    def overlapping(self: Params, field: Any, owners: int) -> Any:
        made = code(self, field, owners)
        made.alphas = tuple(range(owners))
        made.encoding_matrix = lagrange_basis(field, made.betas, made.alphas)
        return made

    monkeypatch.setattr(Params, "code", overlapping)
    case = trained(encoding="own")
    assert p_value(case, (1,)) < ALARM


class Curious:
    """The leader remembers what it dealt for the masks of the weights, and every w̃_0; mutated, others deal zeros."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, mutated: bool):
        self.dealt: FieldArray
        self.w_tilde: dict[int, FieldArray] = {}
        random, opened_ = Owner.random, Owner.opened

        def remembering(me: Owner, count: int, holders: Any) -> FieldArray:
            deal = me.ring.deal

            def dealing(count: int) -> FieldArray:
                zeros = np.zeros((len(me.ring), me.ring.batch(count)), np.uint32)
                shares = me.ring.share(zeros) if mutated and me.ch.rank else deal(count)
                if me.ch.rank == 0:
                    self.dealt = me.ring.open(dict(enumerate(shares)))
                return shares

            monkeypatch.setattr(me.ring, "deal", dealing)
            found = random(me, count, holders)
            monkeypatch.setattr(me.ring, "deal", deal)
            return found

        def looking(me: Owner, cls: type[Any], step: int, own: FieldArray, shape: Any) -> FieldArray:
            value = opened_(me, cls, step, own, shape)
            if me.ch.rank == 0 and cls is WeightShare:
                self.w_tilde[step] = value
            return value

        monkeypatch.setattr(Owner, "random", remembering)
        monkeypatch.setattr(Owner, "opened", looking)

    def weights(self, case: Case, step: int) -> np.ndarray:
        """w̄ before it is opened, if nobody else has dealt anything but zeros; modulo the first prime."""
        ring, field, count = Ring(residues(), N, 1), residues().fields[0], case.task.columns
        dealt = np.zeros((N, *self.dealt.shape), np.uint32)
        dealt[0] = self.dealt
        mask = ring.extract(dealt, case.params.iterations * count)[0][step * count : (step + 1) * count]
        code = case.params.code(field, N)
        blocks, of_mask = np.split(code.encoding_matrix[0], [code.parallelization])
        rest = field.subtract(self.w_tilde[step][0, :, 0], field.multiply(mask, of_mask))
        factor = field.inverse(int(blocks.sum(dtype=np.uint64)))
        return field.to_signed(field.multiply(rest, field.array([factor])))


@pytest.mark.parametrize("mutated", [False, True])
def test_masks_of_one_dealer_show_it_the_weights_of_every_iteration(
    mutated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the masks of the weights come from the leader alone, as from the paper's service provider."""
    curious = Curious(monkeypatch, mutated=mutated)
    case = trained()
    for step in (1, 2):
        small = np.abs(curious.weights(case, step)) < 2**20
        assert small.all() if mutated else small.mean() < 0.5, "weights are small, and field elements are not"


def opened(case: Case) -> list[np.ndarray]:
    """What all saw in each iteration, as one owner adds it up."""
    ring, found = Ring(residues(), N, 1), []
    for step in range(case.params.iterations):
        views = [pair for view in case.views.values() for pair in view]  # each owner adds up the fastest T + 1
        shares = {s: m.values for s, m in views if isinstance(m, MaskedShare) and m.step == step}
        found.append(ring.residues.reals(ring.open(shares), 0))
    return found


@pytest.mark.parametrize("mutated", [False, True])
def test_a_mask_that_is_used_twice_shows_how_the_gradient_changes(
    mutated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: the shares of a mask are handed out again."""
    if mutated:
        monkeypatch.setattr(Once, "take", lambda self, count: self._shares[:, :count])
    case = trained()
    first, second, *_ = opened(case)
    change = np.abs(second - first)
    assert (change < 2.0 * case.task.scale().bound).all() == mutated
    assert mutated or np.median(change) > 2.0**70


@pytest.mark.parametrize(("kappa", "told"), [(40, False), (1, True)])
def test_openings_of_two_data_sets_look_the_same(kappa: int, told: bool) -> None:
    """The largest and the smallest gradient that may be; mutation: κ = 1. The colluder is one of two contributors."""
    ring, n, bits = Ring(residues(), 4, 1), 4000, 20
    bound = 2**30
    mask_bits = kappa + 31

    def view(a: int) -> np.ndarray:
        masks = [truncation.contribution(ring, n, bits, mask_bits) for _ in range(2)]
        shares = ring.share(ring.residues.from_signed(np.full(n, a)))
        low, high = ([ring.add(masks[0][i][:, k], masks[1][i][:, k]) for i in range(4)] for k in (0, 1))
        seen = ring.open({i: truncation.masked(ring, shares[i], low[i], high[i], bits, mask_bits) for i in range(4)})
        own = ring.open({i: masks[0][i].reshape(3, -1) for i in range(4)}).reshape(3, 2, -1)
        known = ring.add(own[:, 0], ring.times(2**bits, own[:, 1]))
        return ring.residues.reals(ring.subtract(seen, known), 0)

    assert (ks_2samp(view(bound - 1), view(1 - bound)).pvalue < ALARM) == told


def test_nothing_else_is_opened() -> None:
    """The sum of eigenvalues before the first iteration, and the weights after the last."""
    case = trained()
    for rank, view in case.views.items():
        steps = {message.step for _, message in view if isinstance(message, OpenedShare)}
        assert steps == {0, case.params.iterations}, rank
        names = {type(message).__name__ for _, message in view}
        expected = {"RowShare", "CodedShare", "RandomShare", "OpenedShare", "WeightShare"}
        of_holders = {"SumShare", "MaskShare", "MaskedShare", "GradientShare"} if rank < 2 else set()
        assert names == expected | of_holders | ({"Chosen"} if rank else set())


def test_views_of_one_owner_have_another_explanation() -> None:
    """Exactly: for the rows of the others any other rows fit the same coded rows, under other masks.

    The masks' part of the code is invertible for any T owners, so there is one choice of masks for each set of rows.
    """
    for T, K in ((1, 2), (2, 1)):
        code = Params(privacy=T, parallelization=K).code(residues().fields[0], N)
        field, colluders = code.field, [2, 5][:T]
        rng = np.random.default_rng(0)
        blocks, others = (field.array(rng.integers(0, 99, (K, 20))) for _ in range(2))
        masks = field.array(rng.integers(0, field.p, (T, 20)))
        view = field.matmul(code.encoding_matrix, [*blocks, *masks])[colluders]
        part = code.encoding_matrix[colluders]
        rest = field.subtract(view, field.matmul(part[:, :K], list(others)))
        # masks are values at the last β; from T values of the polynomial less the blocks' part they follow
        inverse = inverted(part[:, K:].astype(object), field.p)
        explained = field.matmul(field.array(inverse), list(rest))
        again = field.matmul(code.encoding_matrix, [*others, *explained])[colluders]
        np.testing.assert_array_equal(again, view)


def inverted(matrix: np.ndarray, p: int) -> np.ndarray:
    """Of a matrix of one or two rows, modulo p."""
    if len(matrix) == 1:
        return np.array([[pow(int(matrix[0, 0]), -1, p)]], object)
    (a, b), (c, d) = matrix
    return np.array([[d, -b], [-c, a]], object) * pow(int(a * d - b * c) % p, -1, p) % p
