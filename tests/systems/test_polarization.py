"""The polarization loss against equation (18), Lemma 5.5, and what the secret network is made of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmpi.crypto.random import SecretStream
from fedmpi.learn import build_model
from fedmpi.spn.polarization import Polarization, hamming_distances, polarization_loss, secret_reach, secret_uniform


@given(st.integers(1, 9), st.integers(0, 10**6), st.floats(1, 3), st.floats(-3, 2))
def test_lemma_5_5_the_loss_bounds_the_hamming_distance(bits: int, seed: int, margin: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    v = torch.from_numpy(rng.normal(size=(1, bits)) * 10**scale * rng.integers(0, 2, bits))
    t = torch.from_numpy(rng.choice([-1.0, 1.0], (1, bits)))
    assert int(hamming_distances(v, t)) <= float(polarization_loss(v, t, margin)) + 1e-9


def test_a_margin_below_one_would_break_the_lemma() -> None:
    v, t = torch.tensor([[-0.1]]), torch.tensor([[1.0]])
    assert float(polarization_loss(v, t, 0.5)) < int(hamming_distances(v, t))


def test_gradient_is_that_of_equation_18_with_the_own_class() -> None:
    torch.manual_seed(0)
    secret = Polarization(7, 3, 5, 6, 1.0, SecretStream(bytes(32))).double()
    features, y = torch.randn(4, 7, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, 2, 1])
    (found,) = torch.autograd.grad(secret(features, y), features)
    expected = torch.zeros(4, 7, dtype=torch.float64)
    for row in range(4):  # Σ over the k with m - v_k t_k > 0 of -t_k ∂v_k/∂features
        at = features[row].detach().requires_grad_()
        v = secret.layers(at)
        t = secret.targets[y[row]]
        for k in range(5):
            if 1 - v[k] * t[k] > 0:
                expected[row] += -t[k] * torch.autograd.grad(v[k], at, retain_graph=True)[0]
    assert torch.allclose(found, expected / 4)
    wrong = secret(features, (y + 1) % 3)
    assert not torch.allclose(torch.autograd.grad(wrong, features)[0], expected / 4)


def test_targets_and_layers_are_random_and_secret() -> None:
    one, other = (Polarization(20, 10, 64, 64, 1.0, SecretStream()) for _ in range(2))
    assert set(one.targets.unique().tolist()) == {-1, 1}
    assert 250 < int((one.targets > 0).sum()) < 390  # of 640
    assert 250 < int((one.targets == other.targets).sum()) < 390
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert (a != b).any()
        assert 0.2 < a.abs().max() <= 0.3  # Table 2; 64 numbers are all below 0.2 with probability (2/3)^64
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    seeded = [Polarization(20, 10, 64, 16, 1.0, SecretStream()).targets for _ in range(2)]
    torch.random.set_rng_state(state)
    assert (seeded[0] != seeded[1]).any()  # no public seed says anything of them


def test_beside_other_networks_it_begins_as_kaiming_has_it() -> None:
    secret = Polarization(
        600, 10, 64, 54, 1.0, SecretStream(), secret_reach(None, build_model("alexnet", (3, 8, 8), 10, 0))
    )
    first, last = secret.layers[0], secret.layers[2]
    assert 0.09 < first.weight.abs().max() <= 0.1
    assert 0.3 < last.weight.abs().max() <= (6 / 54) ** 0.5
    assert not any(layer.bias.any() for layer in (first, last))
    assert secret_reach(None, build_model("dlnet-tanh", (3, 8, 8), 10, 0)) == 0.3
    assert secret_reach(0.1, build_model("alexnet", (3, 8, 8), 10, 0)) == 0.1


def test_secret_uniform_is_uniform() -> None:
    from scipy import stats

    u = secret_uniform(SecretStream(bytes(32)), 100_000)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert u.min() > 0
    assert u.max() < 1


@pytest.mark.parametrize("margin", [1.0, 2.0])
def test_a_code_beyond_the_margin_costs_nothing(margin: float) -> None:
    t = torch.tensor([[1.0, -1.0]])
    assert float(polarization_loss(margin * t, t, margin)) == 0
    assert float(polarization_loss(-t, t, margin)) == pytest.approx(2 * (margin + 1))
