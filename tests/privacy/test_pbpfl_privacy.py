"""What clients and server of PBPFL learn, and what they do not.

Hidden: the scale of every unit, and the last layer up to a multiple of r_a; of a masked upload everything but the sum.
Not hidden, and shown here: directions of rows, zeros, γ to a client with a batch, magnitudes over many rounds.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from protocol.pbpfl_threads import train

from fedmpi.audit.statistics import ALARM, p_value_of_words
from fedmpi.core import DEFAULT_PRIME, PrimeField, Shamir
from fedmpi.errors import ProtocolError
from fedmpi.learn import FlatModel, build_model
from fedmpi.pbpfl.gradients import Differentiator, squared_error
from fedmpi.pbpfl.perturbation import Noise, draw, multipliers, perturb
from fedmpi.pbpfl.structure import UNSCALED, Structure, structure_of
from fedmpi.securesum import double_masking
from fedmpi.securesum.double_masking import Member, unmask

IMAGE = (3, 8, 8)


@dataclass(frozen=True)
class Defaults:
    scaling: float = 10.0
    gamma_range: tuple[float, float] = (0.5, 2.0)


def perturbed(name: str, shape: tuple[int, ...], outputs: int, seed: int = 0) -> tuple[Structure, np.ndarray, Noise]:
    model = build_model(name, shape, outputs, seed, torch.float64)
    structure = structure_of(model, shape)
    return structure, FlatModel(model).read(), draw(structure, Defaults(), np.random.default_rng(seed).random)


def seen_by_client(own: Differentiator, X: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The noisy outputs and α of some rows."""
    outputs, hidden = own.forward(X)
    return outputs.detach().numpy(), own.alpha(hidden).detach().numpy()


# -- what clients do not learn --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape"), [("mlp-5", (20,)), ("cnn", IMAGE), ("resnet20", IMAGE)])
def test_every_rescaled_model_is_explained_by_some_mask(name: str, shape: tuple[int, ...]) -> None:
    """For any positive scaling of the units and any γ' there is a W' that has the same Ŵ and r_a."""
    structure, w, noise = perturbed(name, shape, 4)
    seen = perturb(structure, w, noise)
    rng = np.random.default_rng(1)
    for _ in range(5):
        r = 10 ** rng.uniform(-1, 1, structure.units)
        r[UNSCALED] = 1
        other = Noise(r, noise.r_a, rng.uniform(0.5, 2))
        last = structure.last
        no_addition = perturb(structure, np.zeros(structure.parameters), other)
        w_other = (seen - no_addition) / multipliers(structure, r)
        np.testing.assert_allclose(perturb(structure, w_other, other), seen, rtol=1e-9, atol=1e-12)
        assert np.abs(np.log(np.abs(w_other[w != 0] / w[w != 0]))).mean() > 0.3
        hidden = np.ones(structure.parameters, bool)
        hidden[last.weight] = hidden[last.bias] = False
        np.testing.assert_array_equal(np.sign(w_other[hidden]), np.sign(w[hidden]))  # and zeros are where they were


def test_other_models_of_the_same_signs_are_not() -> None:
    """The same sign pattern and zero set are not enough: one weight tripled changes a direction, which no mask can."""
    structure, w, noise = perturbed("mlp-3", (20,), 4)
    seen = perturb(structure, w, noise).copy()
    first = structure.layers[0]
    changed = w.copy()
    changed[first.weight.start + np.abs(w[first.weight][: first.shape[1]]).argmax()] *= 3

    def cosines(candidate: np.ndarray) -> np.ndarray:
        a, b = (v[first.weight].reshape(first.shape) for v in (seen, candidate))
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    assert cosines(w).min() > 1 - 1e-12
    assert cosines(changed)[0] < 1 - 1e-3


def test_one_sample_leaves_the_order_of_two_outputs_open_for_a_gamma_of_any_size() -> None:
    """Lemma 3: either of two outputs may be the larger one."""
    model = build_model("mlp-3", (20,), 4, 0, torch.float64)
    structure = structure_of(model, (20,))
    noise = draw(structure, Defaults(), np.random.default_rng(0).random)
    own = Differentiator(model, structure.last.name)
    own.flat.load(perturb(structure, own.flat.read(), noise))
    X = torch.randn(1, 20, dtype=torch.float64)
    outputs, alpha = seen_by_client(own, X)
    outputs, alpha = outputs[0], alpha[0]
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            slope = alpha * (noise.r_a[i] - noise.r_a[j])
            crossing = (outputs[i] - outputs[j]) / slope
            for gamma in crossing - np.sign(slope) * np.array([1e-6, 1, 100]):
                y = outputs - gamma * alpha * noise.r_a
                assert y[i] > y[j]
                np.testing.assert_allclose(y + gamma * alpha * noise.r_a, outputs)


def test_colluding_clients_see_what_one_sees(tmp_path: Path) -> None:
    """And every round another perturbation."""
    left = train(tmp_path / "run", "--clients", "2", "--rounds", "4", record=True)
    one, two = (left.views(rank, "Round") for rank in (1, 2))
    assert [(m.round, m.w.tobytes(), m.r_a.tobytes()) for m in one] == [
        (m.round, m.w.tobytes(), m.r_a.tobytes()) for m in two
    ]
    assert len({m.r_a.tobytes() for m in one}) == 4
    ratios = one[1].w.view("<f8") / one[0].w.view("<f8")
    assert np.std(np.log(np.abs(ratios))) > 0.5


# -- what clients do learn: these are limits of the scheme, not goals --------------------------------------------------


def test_rows_keep_their_direction_and_zeros_stay() -> None:
    structure, w, noise = perturbed("cnn", IMAGE, 4)
    first = structure.layers[0]
    w[first.weight.start + 7] = 0
    seen = perturb(structure, w, noise)
    a, b = (v[first.weight].reshape(first.shape[0], -1) for v in (w, seen))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-12)
    last = structure.last
    hidden = np.ones(structure.parameters, bool)
    hidden[last.weight] = hidden[last.bias] = False
    np.testing.assert_array_equal(np.flatnonzero(seen[hidden] == 0), np.flatnonzero(w[hidden] == 0))
    assert (w[hidden] == 0).any()


@pytest.mark.parametrize(("name", "shape"), [("mlp-7", (20,)), ("resnet20", IMAGE)])
def test_a_client_sees_which_units_its_rows_activate(name: str, shape: tuple[int, ...]) -> None:
    """The zeros behind every ReLU are those of the clear model."""
    model = build_model(name, shape, 4, 0, torch.float64)
    structure, X, flat = structure_of(model, shape), torch.rand(6, *shape, dtype=torch.float64), FlatModel(model)
    zeros: list[np.ndarray] = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.ReLU):
            layer.register_forward_hook(lambda layer, inputs, output: zeros.append(output.detach().numpy() == 0))
    model(X)
    clear = zeros.copy()
    zeros.clear()
    flat.load(perturb(structure, flat.read(), draw(structure, Defaults(), np.random.default_rng(0).random)))
    model(X)
    assert len(zeros) == len(clear)
    for seen, true in zip(zeros, clear, strict=True):
        np.testing.assert_array_equal(seen, true)
        assert 0 < true.mean() < 1


def test_outputs_are_known_but_for_their_part_along_the_noise() -> None:
    """From one sample already: n_L - 1 of n_L dimensions."""
    model = build_model("mlp-3", (20,), 5, 0, torch.float64)
    structure = structure_of(model, (20,))
    noise = draw(structure, Defaults(), np.random.default_rng(0).random)
    X = torch.randn(1, 20, dtype=torch.float64)
    true = model(X).detach().numpy()[0]
    own = Differentiator(model, structure.last.name)
    own.flat.load(perturb(structure, own.flat.read(), noise))
    seen = own.forward(X)[0].detach().numpy()[0]
    direction = noise.r_a / np.linalg.norm(noise.r_a)
    np.testing.assert_allclose(seen - (seen @ direction) * direction, true - (true @ direction) * direction, atol=1e-12)
    assert np.abs(seen - true).max() > 1e-3


@pytest.fixture(scope="module")
def trained() -> tuple[np.ndarray, Structure, torch.Tensor, torch.Tensor]:
    """The weights of a network that has learned something, and a batch of rows."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X, targets = torch.tensor(X / 16), torch.tensor(np.eye(10)[y])
    model = build_model("mlp-3", (64,), 10, 0, torch.float64)
    structure = structure_of(model, (64,))
    own = Differentiator(model, structure.last.name)
    for step in range(150):
        rows = slice(step * 32 % 1600, step * 32 % 1600 + 32)
        own.flat.values -= 0.5 * own.gradient(squared_error(own.forward(X[rows])[0], targets[rows]))
    return own.flat.read(), structure, X[:64], targets[:64]


Trained = tuple[np.ndarray, Structure, torch.Tensor, torch.Tensor]


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_gives_gamma_away(seed: int, trained: Trained) -> None:
    """A client knows α_n, r_a and labels: regression finds γ, and with it the true predictions, for every sample."""
    w, structure, X, targets = trained
    noise = draw(structure, Defaults(), np.random.default_rng(seed).random)
    own = Differentiator(build_model("mlp-3", (64,), 10, 0, torch.float64), structure.last.name)
    own.flat.load(w)
    true, _ = seen_by_client(own, X)
    own.flat.load(perturb(structure, w, noise))
    outputs, alpha = seen_by_client(own, X)
    assert (outputs.argmax(1) == true.argmax(1)).mean() < 0.6  # what it sees tells little
    known = alpha[:, None] * noise.r_a
    estimate = float((known * (outputs - targets.numpy())).sum() / (known**2).sum())
    assert estimate == pytest.approx(noise.gamma, rel=0.02)
    predictions = outputs - estimate * known
    assert (predictions.argmax(1) == true.argmax(1)).mean() > 0.95
    assert np.abs(predictions - true).max() < 0.05 * np.abs(outputs - true).max()


def test_the_interval_of_gamma_gives_the_order_of_some_outputs_away(trained: Trained) -> None:
    """Lemma 3 needs a γ of any size: with a public interval one sample tells some orders, with a point all."""
    w, structure, X, _ = trained
    own = Differentiator(build_model("mlp-3", (64,), 10, 0, torch.float64), structure.last.name)
    own.flat.load(w)
    true = np.sign(differences(seen_by_client(own, X)[0]))

    def decided(low: float, high: float) -> float:
        told = []
        for seed in range(5):
            noise = draw(structure, Defaults(gamma_range=(low, high)), np.random.default_rng(seed).random)
            own.flat.load(perturb(structure, w, noise))
            outputs, alpha = seen_by_client(own, X)
            ends = [np.sign(differences(outputs - gamma * alpha[:, None] * noise.r_a)) for gamma in (low, high)]
            same = ends[0] == ends[1]
            np.testing.assert_array_equal(ends[0][same], true[same])
            told.append(same.mean())
        return float(np.mean(told))

    assert 0.01 < decided(0.5, 2.0) < 0.15
    assert decided(0.01, 100.0) < decided(0.5, 2.0)
    assert decided(1.0, 1.0) == 1


def differences(outputs: np.ndarray) -> np.ndarray:
    """Of every two outputs of a sample, shape (n, pairs)."""
    i, j = np.triu_indices(outputs.shape[1], 1)
    return np.asarray(outputs[:, i] - outputs[:, j])


def test_the_weights_alone_give_gamma_away(trained: Trained) -> None:
    """R^a is much larger than the last weights: the mean of their rows is nearly γ r_a. No data is needed."""
    w, structure, _, _ = trained
    for seed in range(10):
        noise = draw(structure, Defaults(), np.random.default_rng(seed).random)
        rows = perturb(structure, w, noise)[structure.last.weight].reshape(10, -1).mean(1)
        assert float(rows @ noise.r_a / (noise.r_a @ noise.r_a)) == pytest.approx(noise.gamma, rel=0.3)


def test_many_rounds_give_magnitudes_away() -> None:
    """Fresh noise every round averages out: log r has mean 0, so the mean of log|Ŵ| tends to log|W| where W stays."""
    structure, w, _ = perturbed("mlp-3", (20,), 4)
    random = np.random.default_rng(0).random
    first = structure.layers[0].weight

    def error(rounds: int) -> float:
        seen = [perturb(structure, w, draw(structure, Defaults(), random))[first] for _ in range(rounds)]
        return float(np.abs(np.mean(np.log(np.abs(seen)), axis=0) - np.log(np.abs(w[first]))).mean())

    assert error(1) > 0.8  # one round: a factor of 3 either way
    assert error(1000) < 0.05  # five percent


# -- what the server learns of one client in pbpfl -------------------------------------------------------------------


def test_without_noise_on_the_outputs_the_server_gets_what_it_gets_in_federated_averaging(tmp_path: Path) -> None:
    """The gradient, which it scales itself, and no second number of any unit; and makes the same weights of it."""
    options = ["--clients", "2", "--rounds", "2"]
    plain = train(tmp_path / "plain", "--method", "fedavg-mse", *options, record=True)
    private = train(tmp_path / "private", "--gamma-range", "0", "0", *options, record=True)
    first = structure_of(build_model("mlp-3", (64,), 10, 0), (64,)).layers[0]
    theirs, ours = (
        {(m.round, k): row.tobytes() for m in run.views(0, "Terms") for k, row in zip(m.clients, m.values, strict=True)}
        for run in (plain, private)
    )
    assert not any(seen.shifts.any() for seen in private.views(0, "Terms"))
    assert ours.keys() == theirs.keys()
    for key, upload in ours.items():
        assert len(upload) == len(theirs[key])
        a, b = (np.frombuffer(v)[first.weight].reshape(first.shape) for v in (upload, theirs[key]))
        sizes = np.linalg.norm(a, axis=1) / np.maximum(np.linalg.norm(b, axis=1), 1e-300)
        np.testing.assert_allclose(a, sizes[:, None] * b, rtol=1e-6, atol=1e-12)
    assert all(len(order.r_a) == 0 for order in private.views(1, "Round"))
    np.testing.assert_allclose(private.w, plain.w, rtol=1e-9, atol=1e-12)


# -- what the server learns of one client in pbpfl-masked ------------------------------------------------------------


def masked_views(folder: Path, *options: str) -> list[bytes]:
    """Of each round, what the server got from client 0."""
    left = train(folder, "--method", "pbpfl-masked", "--clients", "3", "--rounds", "2", *options, hosts=3, record=True)
    messages = [m for m in left.views(0, "Masked") if m.clients.tolist() == [0]]
    assert [m.round for m in messages] == [0, 1]
    return [m.words.tobytes() for m in messages]


@pytest.mark.parametrize("ring", ["32", "64"])
def test_the_server_sees_uniform_words(ring: str, tmp_path: Path) -> None:
    """Each of the three terms, the differences between them and between rounds: no mask is used twice."""
    views = masked_views(tmp_path / "run", "--ring-bits", ring)
    first, second = (np.frombuffer(view, f"<u{int(ring) // 8}").reshape(3, -1) for view in views)
    differences = first[1] - first[0], first[2] - first[0], *(second - first)
    assert p_value_of_words([*first, *second, *differences]) > ALARM


@pytest.mark.parametrize("mutation", ["no mask", "the same mask again"])
def test_masks_that_are_none_are_noticed(mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stretch = double_masking.stretch
    if mutation == "no mask":
        monkeypatch.setattr(double_masking, "stretch", lambda seed, round, like: np.zeros_like(like))
    else:
        monkeypatch.setattr(double_masking, "stretch", lambda seed, round, like: stretch(bytes(32), 0, like))
    first, second = (np.frombuffer(view, "<u8") for view in masked_views(tmp_path / "run"))
    assert p_value_of_words([first, second - first]) < ALARM


def members(K: int, threshold: int) -> tuple[list[Member], dict[int, bytes]]:
    """Members that have exchanged their envelopes."""
    there = [Member(k, K, threshold, 0) for k in range(K)]
    publics = {m.number: m.public for m in there}
    post = {m.number: m.envelopes(publics) for m in there}
    for sender, envelopes in post.items():
        for receiver, envelope in envelopes.items():
            there[receiver].accept(sender, envelope)
    return there, publics


def words_of(k: int) -> np.ndarray:
    return np.arange(5000, dtype=np.uint64) + np.uint64(k)


@pytest.mark.parametrize("own_masks", [True, False])
def test_a_late_upload_stays_hidden(own_masks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has made the private key of a client that it took for lost; then its upload comes after all.

    Without the second mask it would read it.
    """
    there, publics = members(4, 3)
    stretch, seeds = double_masking.stretch, {m._self_seed for m in there}

    def pairs_only(seed: bytes, round: int, like: np.ndarray) -> np.ndarray:
        return np.zeros_like(like) if seed in seeds else stretch(seed, round, like)

    if not own_masks:
        monkeypatch.setattr(double_masking, "stretch", pairs_only)
    hidden = [m.mask(words_of(m.number)) for m in there]
    survivors = frozenset([0, 1, 3])
    told = {k: there[k].reveal(survivors) for k in survivors}
    total = unmask(hidden[0] + hidden[1] + hidden[3], 0, 3, publics, survivors, told)
    np.testing.assert_array_equal(total, words_of(0) + words_of(1) + words_of(3))
    shares = {k: told[k][2] for k in told}
    secret = double_masking.to_secret(Shamir(PrimeField(DEFAULT_PRIME), 4, 2).reconstruct(shares))
    key, rest = double_masking.MaskKey(secret), hidden[2]
    for v in survivors:
        seed = double_masking.pair_seed(key, 2, v, publics[v][32:])
        rest = rest - double_masking.signed(double_masking.stretch(seed, 0, rest), 2, v)
    if own_masks:
        assert p_value_of_words([rest]) > ALARM
    else:
        np.testing.assert_array_equal(rest, words_of(2))


def test_nobody_tells_both_secrets_of_a_member() -> None:
    """Shares are told once, of one secret of each; a list of survivors that is too short gets none."""
    there, _ = members(4, 3)
    with pytest.raises(ProtocolError, match=r"survivors must be at least 3 of \[0, 1, 2, 3\], got \[0, 1\]"):
        there[0].reveal(frozenset([0, 1]))
    with pytest.raises(ProtocolError, match="survivors must be at least 3"):
        there[0].reveal(frozenset([1, 2, 3]))
    told = there[0].reveal(frozenset([0, 1, 2]))
    assert {u: len(share) for u, share in told.items()} == dict.fromkeys(range(4), 16)
    with pytest.raises(ProtocolError, match="must be asked once"):
        there[0].reveal(frozenset([0, 1, 3]))
    with pytest.raises(ValueError, match="a mask is used once"):
        [there[1].mask(words_of(1)) for _ in range(2)]


def test_a_server_with_two_lists_of_survivors_gets_too_few_shares_of_each() -> None:
    """The threshold is more than half of the members: of nobody it learns both secrets."""
    there, publics = members(5, 3)
    hidden = [m.mask(words_of(m.number)) for m in there]
    one, two = frozenset([0, 1, 2, 3]), frozenset([0, 1, 3, 4])  # member 2 is a survivor for 0 and 1, lost for 3 and 4
    told = {k: there[k].reveal(one if k < 2 else two) for k in (0, 1, 3)}
    with pytest.raises(ProtocolError):
        unmask(sum(hidden[1:4], hidden[0]), 0, 3, publics, one, told)


def test_envelopes_and_shares_are_checked() -> None:
    there, publics = members(3, 2)
    envelopes = Member(0, 3, 2, 0).envelopes(publics)
    with pytest.raises(ProtocolError, match="sealed by its sender for its place"):
        there[1].accept(2, envelopes[1])
    with pytest.raises(ProtocolError, match="must come from another member, got member 7"):
        there[1].accept(7, envelopes[1])
    survivors = frozenset([0, 1])
    hidden = [m.mask(words_of(m.number)) for m in there]
    told = {k: there[k].reveal(survivors) for k in survivors}
    with pytest.raises(ProtocolError, match="at least 2 members must tell of member 0, got 1"):
        unmask(hidden[0] + hidden[1], 0, 2, publics, survivors, {0: told[0]})
    wrong = {k: {u: (share + (u == 2)).astype(np.uint32) for u, share in shares.items()} for k, shares in told.items()}
    with pytest.raises(ProtocolError, match=r"member 2 must make the private key|shares must make 16 numbers"):
        unmask(hidden[0] + hidden[1], 0, 2, publics, survivors, wrong)
    alone = Member(0, 3, 2, 0)
    with pytest.raises(ProtocolError, match="at least 2 members must share, got 1"):
        alone.mask(words_of(0))


def test_a_perturbation_without_scaling_shows_the_weights() -> None:
    """The mutation that the first test kills: r = 1."""
    structure, w, noise = perturbed("mlp-3", (20,), 4)
    shown = perturb(structure, w, replace(noise, r=np.ones(structure.units)))
    first = structure.layers[0].weight
    np.testing.assert_array_equal(shown[first], w[first])
    assert np.abs(perturb(structure, w, noise)[first] - w[first]).max() > 0.1
