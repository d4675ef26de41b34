"""The linear attack, and what the theorems promise of it."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from fedmpi.attacks.gradients import gradient_of
from fedmpi.attacks.linear import error_bound, layer_input, solvable, stability, system
from fedmpi.errors import UsageError
from fedmpi.learn import build_model


def fully_connected(seed: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    model = build_model("mlp", (64,), 10, seed, torch.float64)
    return model, torch.from_numpy(rng.random((1, 64))), torch.tensor([seed % 10])


@pytest.mark.parametrize("seed", range(5))
def test_the_input_of_an_undefended_layer_is_found(seed: int) -> None:
    model, X, y = fully_connected(seed)
    W, b = (part.numpy() for part in gradient_of(model, X, y)[:2])
    found = layer_input(W, b)
    assert np.linalg.norm(found - X.numpy()[0]) <= 1e-6 * np.linalg.norm(X.numpy())
    noise = np.random.default_rng(seed).normal(0, np.abs(b).max(), W.shape)  # the attack can fail
    assert np.linalg.norm(layer_input(W + noise, b) - X.numpy()[0]) > 0.1 * np.linalg.norm(X.numpy())


def test_a_batch_gives_a_weighted_mean_of_its_inputs() -> None:
    model, X, y = fully_connected(0)
    one = gradient_of(model, X, y)
    both = gradient_of(model, torch.cat([X, X + 0.5]), torch.cat([y, y]))
    found = layer_input(both[0].numpy(), both[1].numpy())
    weight = (found - X.numpy()[0]) / 0.5
    assert np.linalg.norm(layer_input(one[0].numpy(), one[1].numpy()) - X.numpy()[0]) < 1e-9
    assert weight.min() > 0.2
    assert weight.max() < 0.8


def test_a_zero_bias_gradient_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must not be zero"):
        layer_input(np.ones((2, 3)), np.zeros(2))
    with pytest.raises(UsageError, match=r"shapes"):
        layer_input(np.ones((2, 3)), np.ones(3))


@st.composite
def systems(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    n = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    B = rng.normal(size=(n, n)) if draw(st.booleans()) else np.diag(rng.normal(size=n))
    x = rng.normal(size=n) * 10 ** draw(st.floats(-2, 2))
    scale = 10 ** draw(st.floats(-4, 0.5))
    E_B = rng.normal(size=(n, n)) * scale
    E_W = rng.normal(size=n) * 10 ** draw(st.floats(-4, 0.5))
    return B, x, E_B, E_W


@given(systems())
def test_bound_3_holds_wherever_condition_2_does(case: tuple[np.ndarray, ...]) -> None:
    B, x, E_B, E_W = case
    assume(np.linalg.cond(B) < 1e6)
    assume(solvable(B, E_B))
    W = B @ x
    found = np.linalg.solve(B + E_B, W + E_W)
    error = np.linalg.norm(found - x) / np.linalg.norm(x)
    assert error <= error_bound(B, W, E_B, E_W) * (1 + 1e-6) + 1e-9


def test_beyond_condition_2_there_is_no_bound_and_the_attack_may_still_succeed() -> None:
    B, x = np.diag([1.0, 1.0]), np.array([1.0, 2.0])
    E_B = np.diag([3.0, 3.0])
    with pytest.raises(UsageError, match=r"below 1"):
        error_bound(B, B @ x, E_B, E_B @ x)
    assert np.allclose(np.linalg.solve(B + E_B, B @ x + E_B @ x), x)


@given(systems())
def test_inequality_11_of_the_first_layer(case: tuple[np.ndarray, ...]) -> None:
    B, x, _, _ = case
    assume(np.linalg.cond(B) < 1e6)
    n = len(x)
    b, W = np.diag(B), B @ x
    assume(np.abs(b).min() > 1e-6)
    rng = np.random.default_rng(n)
    b_star, W_star = b + 0.01 * rng.normal(size=n), W + 0.01 * rng.normal(size=n)
    W = b * x
    x_star = W_star / b_star
    gap = np.sqrt(((W - W_star) ** 2).sum() + ((b - b_star) ** 2).sum())
    assert np.linalg.norm(x - x_star) <= stability(np.diag(b), x_star) * gap * (1 + 1e-9)


def test_the_printed_constant_of_inequality_11_is_too_small() -> None:
    b, x, x_star = 0.1, 0.3, 0.0  # W = 0.03 and 0, the same bias gradient
    printed = x_star / b + 1
    gap = abs(b * x - b * x_star)
    assert abs(x - x_star) > printed * gap
    assert abs(x - x_star) <= stability(np.array([[b]]), np.array([x_star])) * gap * (1 + 1e-12)


def test_a_choice_of_equations_is_solvable() -> None:
    model, X, y = fully_connected(3)
    W, b = (part.numpy() for part in gradient_of(model, X, y)[:2])
    rows = np.random.default_rng(0).choice(np.flatnonzero(b), 64)
    B_I, W_I = system(W, b, rows)
    assert np.allclose(np.linalg.solve(B_I, W_I), X.numpy()[0])
