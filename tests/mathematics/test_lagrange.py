"""LagrangeCode: every set of enough answers decodes to f at every block."""

from itertools import combinations

import numpy as np
import oracles
import pytest

from fedmpi.core.field import PrimeField
from fedmpi.core.lagrange import LagrangeCode, lagrange_basis
from fedmpi.errors import UsageError

FIELD = PrimeField()
PAPER = {"parallelization": 10, "privacy": 7, "workers": 50, "degree": 3}  # R = 49
SLACK = {"parallelization": 8, "privacy": 7, "workers": 50, "degree": 3}  # R = 43


def random_elements(shape, seed=0, p=FIELD.p):
    return oracles.uniform(p, seed)(shape)


def subset(answers, workers):
    return {i: answers[i] for i in workers}


# -- the basis ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [101, 2**25 - 39, 2**31 - 1])
def test_the_basis_recombines_values_at_the_nodes_into_galois_interpolation(p):
    rng = np.random.default_rng(1)
    nodes, points = [0, 3, 4, 50, 90], [1, 2, 3, 77, 90, 100]
    values = rng.integers(0, p, len(nodes)).tolist()
    basis = lagrange_basis(PrimeField(p), nodes, points)
    assert basis.shape == (6, 5)
    assert basis.dtype == np.uint32
    recombined = oracles.product(basis, np.array(values)[:, None], p)[:, 0]
    assert recombined.tolist() == oracles.interpolate(nodes, values, points, p)


def test_the_basis_at_its_own_nodes_is_the_identity():
    nodes = [5, 0, 17, 3]
    np.testing.assert_array_equal(lagrange_basis(FIELD, nodes, nodes), np.eye(4))


def test_the_basis_refuses_equal_nodes():
    with pytest.raises(ValueError, match="distinct"):
        lagrange_basis(FIELD, [1, 2, 1], [0])


# -- the code's numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("K", "T", "degree", "threshold"),
    [(1, 1, 1, 2), (1, 1, 3, 4), (2, 1, 3, 7), (10, 7, 3, 49), (16, 1, 3, 49), (3, 2, 5, 21), (2, 2, 7, 22)],
)
def test_the_recovery_threshold_is_that_of_theorem_1_and_exactly_so_many_workers_do(K, T, degree, threshold):
    assert LagrangeCode(FIELD, K, T, threshold, degree).recovery_threshold == threshold
    with pytest.raises(UsageError):
        LagrangeCode(FIELD, K, T, threshold - 1, degree)


@pytest.mark.parametrize("settings", [PAPER, SLACK, {**PAPER, "parallelization": 1, "privacy": 1}])
def test_the_points_are_distinct_and_no_worker_stands_at_a_block_or_a_mask(settings):
    code = LagrangeCode(FIELD, **settings)
    assert len(code.betas) == code.parallelization + code.privacy
    assert len(code.alphas) == code.workers
    residues = [point % FIELD.p for point in (*code.alphas, *code.betas)]
    assert len(set(residues)) == len(residues)


def test_the_largest_code_of_a_field_uses_every_point_once():
    code = LagrangeCode(PrimeField(31), 3, 2, 26, 1)
    assert sorted((*code.alphas, *code.betas)) == list(range(31))
    with pytest.raises(UsageError, match=r"K\+T\+N must be at most p=31, got 32$"):
        LagrangeCode(PrimeField(31), 3, 2, 27, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 1, 50, 3), r"^parallelization K must be at least 1, got 0$"),
        ((-2, 1, 50, 3), r"^parallelization K must be at least 1, got -2$"),
        ((1, 0, 50, 3), r"^privacy T must be at least 1, got 0$"),
        ((1, 1, 50, 0), r"degree .* must be at least 1, got 0$"),
        ((10, 8, 50, 3), r"3·\(K\+T-1\)\+1 = 3·\(10\+8-1\)\+1 = 52, got N=50$"),
        ((2, 1, 0, 1), r"= 3, got N=0$"),
    ],
)
def test_settings_that_break_a_rule_are_refused_with_the_rule_and_the_value(settings, message):
    with pytest.raises(UsageError, match=message):
        LagrangeCode(FIELD, *settings)


# -- encoding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [101, 2**25 - 39, 2**31 - 1])
def test_shares_lie_on_the_polynomial_through_blocks_and_masks(p):
    code = LagrangeCode(PrimeField(p), 3, 2, 9, 2)
    blocks, masks = random_elements((3, 2), 1, p), random_elements((2, 2), 2, p)
    shares = code.encode(blocks, lambda shape: masks)
    for column in range(2):
        values = [*blocks[:, column].tolist(), *masks[:, column].tolist()]
        assert shares[:, column].tolist() == oracles.interpolate(code.betas, values, code.alphas, p)


def test_encoding_asks_once_for_one_mask_per_collusion_and_element():
    asked = []
    code = LagrangeCode(FIELD, 3, 2, 9, 2)

    def uniform(shape):
        asked.append(shape)
        return random_elements(shape)

    assert code.encode(random_elements((3, 4, 5)), uniform).shape == (9, 4, 5)
    assert code.encode_repeated(random_elements((4, 5)), uniform).shape == (9, 4, 5)
    assert asked == [(2, 4, 5), (2, 4, 5)]


@pytest.mark.parametrize("p", [101, 2**25 - 39])
@pytest.mark.parametrize("shape", [(6,), (4, 3), (2, 3, 2)])
def test_encode_repeated_is_encode_of_the_repeated_block_under_the_same_masks(p, shape):
    code = LagrangeCode(PrimeField(p), 5, 3, 24, 3)
    block = random_elements(shape, 3, p)
    repeated = code.encode_repeated(block, oracles.uniform(p, 4))
    np.testing.assert_array_equal(repeated, code.encode([block] * 5, oracles.uniform(p, 4)))


@pytest.mark.parametrize("p", [101, 2**25 - 39, 2**31 - 1])
@pytest.mark.parametrize(("K", "T", "workers"), [(3, 2, 9), (1, 1, 2), (2, 5, 7)])
def test_completed_shares_lie_on_one_polynomial_with_the_blocks_and_the_first_shares(p, K, T, workers):
    code = LagrangeCode(PrimeField(p), K, T, workers, 1)
    blocks, first = random_elements((K, 2), 1, p), random_elements((T, 2), 2, p)
    others = code.field.matmul(code.completion, [*blocks, *first])
    nodes = [*code.betas[:K], *code.alphas[:T]]
    for column in range(2):
        values = [*blocks[:, column].tolist(), *first[:, column].tolist()]
        assert others[:, column].tolist() == oracles.interpolate(nodes, values, code.alphas[T:], p)
    np.testing.assert_array_equal(code.decode(dict(enumerate([*first, *others]))), blocks)


def test_encode_takes_views_of_one_large_array_and_leaves_them_alone():
    code = LagrangeCode(FIELD, 3, 1, 4, 1)
    X = random_elements((9, 8))
    before = X.copy()
    shares = code.encode([X[k::3, ::2] for k in range(3)], oracles.uniform(FIELD.p, 1))
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(code.decode(dict(enumerate(shares))), [X[k::3, ::2] for k in range(3)])


def test_encode_refuses_another_number_of_blocks():
    code = LagrangeCode(FIELD, 3, 1, 4, 1)
    with pytest.raises(ValueError, match="must be K=3, got 2"):
        code.encode(random_elements((2, 5)), oracles.uniform(FIELD.p, 1))


# -- decoding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [101, 2**25 - 39, 2**31 - 1])
@pytest.mark.parametrize(
    ("K", "T", "workers", "degree"),
    [(2, 1, 7, 1), (1, 2, 6, 1), (3, 1, 7, 1), (2, 1, 6, 2), (1, 1, 6, 3), (2, 1, 8, 3)],
)
def test_every_subset_of_enough_workers_decodes_every_block(p, K, T, workers, degree):
    code = LagrangeCode(PrimeField(p), K, T, workers, degree)
    blocks = random_elements((K, 5), 5, p)
    shares = code.encode(blocks, oracles.uniform(p, 6))
    answers = np.array([[pow(v, degree, p) for v in share] for share in shares.tolist()], np.uint32)
    expected = [[pow(v, degree, p) for v in block] for block in blocks.tolist()]
    subsets = list(combinations(range(workers), code.recovery_threshold))
    assert subsets
    for workers_left in subsets:
        np.testing.assert_array_equal(code.decode(subset(answers, workers_left)), expected)
        for runs in range(1, K + 1):
            sums = [sum(run) for run in np.array_split(np.array(expected, object), runs)]
            np.testing.assert_array_equal(code.decode_sums(subset(answers, workers_left), runs), np.array(sums) % p)


@pytest.mark.parametrize("settings", [PAPER, SLACK], ids=["R=49", "R=43"])
@pytest.mark.parametrize("r", [1, 2, 3])
def test_coded_gradients_decode_to_the_gradient_of_every_block(settings, r):
    """f(X, w) = Xᵀ s(X W) has degree 2r + 1 in the shares of X and w [So et al. 2021, eq. (15)]."""
    p, (m, d) = FIELD.p, (3, 2)
    degree = 2 * r + 1
    K, T = (settings["parallelization"], settings["privacy"]) if r == 1 else (6, 3) if r == 2 else (4, 3)
    code = LagrangeCode(FIELD, K, T, 50, degree)
    X, W, c = (random_elements(shape, seed) for seed, shape in enumerate([(K, m, d), (d, r, 2), (r + 1,)]))
    X_tilde, W_tilde = code.encode(X, oracles.uniform(p, 7)), code.encode_repeated(W, oracles.uniform(p, 8))
    answers = [FIELD.gradient(x, w, c) for x, w in zip(X_tilde, W_tilde, strict=True)]
    expected = [oracles.gradient(block, W, c, p) for block in X]
    rng = np.random.default_rng(9)
    for _ in range(8):
        fastest = rng.permutation(50)[: code.recovery_threshold].tolist()
        np.testing.assert_array_equal(code.decode(subset(answers, fastest)), expected)


def test_one_answer_too_few_would_decode_to_something_else():
    code = LagrangeCode(FIELD, 2, 1, 8, 3)
    higher = LagrangeCode(FIELD, 2, 1, 10, 4)  # the same points, but its answers have degree 4
    assert higher.betas == code.betas
    blocks = random_elements((2, 5))
    shares = higher.encode(blocks, oracles.uniform(FIELD.p, 1))[:8]
    cubes = np.array([[pow(v, 3, FIELD.p) for v in share] for share in shares.tolist()], np.uint32)
    fourths = np.array([[pow(v, 4, FIELD.p) for v in share] for share in shares.tolist()], np.uint32)
    np.testing.assert_array_equal(
        code.decode(dict(enumerate(cubes))), [[pow(v, 3, FIELD.p) for v in b] for b in blocks.tolist()]
    )
    assert (code.decode(dict(enumerate(fourths))) != [[pow(v, 4, FIELD.p) for v in b] for b in blocks.tolist()]).any()


def test_answers_beyond_the_threshold_and_their_order_change_nothing():
    code = LagrangeCode(FIELD, 2, 1, 9, 3)
    blocks = random_elements((2, 5))
    shares = code.encode(blocks, oracles.uniform(FIELD.p, 1))
    assert code.decode(subset(shares, range(9))).shape == (2, 5)
    np.testing.assert_array_equal(code.decode(subset(shares, reversed(range(9)))), blocks)
    np.testing.assert_array_equal(code.decode(subset(shares, [8, 3, 1, 0, 7, 5, 2])), blocks)


def test_decode_refuses_too_few_answers_with_both_numbers():
    code = LagrangeCode(FIELD, 2, 1, 9, 3)
    shares = code.encode(random_elements((2, 5)), oracles.uniform(FIELD.p, 1))
    with pytest.raises(ValueError, match="answers must be at least 7, got 6"):
        code.decode(subset(shares, range(6)))
