"""From (ε, δ) to noise and back, against numerical integration, Opacus and exact composition."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from opacus.accountants import PRVAccountant
from scipy import integrate, stats

from fedmpi.errors import UsageError
from fedmpi.learn import sample
from fedmpi.niss.accounting import ACCOUNTANTS, Ledger, epsilon_of, finite, noise_of_model
from fedmpi.niss.mechanism import delta_of, epsilon_for, noise_multiplier
from fedmpi.niss.params import Params


def integrated_delta(multiplier: float, epsilon: float) -> float:
    """The definition: ∫ max(p(x) - e^ε p(x - Δ), 0) dx for Δ = 1."""
    p, q = stats.norm(0, multiplier), stats.norm(1, multiplier)
    value, _ = integrate.quad(
        lambda x: max(p.pdf(x) - np.exp(epsilon) * q.pdf(x), 0), -12 * multiplier, 0.5 - epsilon * multiplier**2,
        epsabs=1e-13, limit=500,
    )  # fmt: skip
    return value


@pytest.mark.parametrize(("multiplier", "epsilon"), [(1.0, 0.5), (2.0, 1.0), (0.6, 3.0), (4.0, 0.1)])
def test_delta_is_that_of_the_definition(multiplier: float, epsilon: float) -> None:
    assert delta_of(multiplier, epsilon) == pytest.approx(integrated_delta(multiplier, epsilon), rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 0.9, 1.0, 10.0, 500.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-4, 1e-10])
def test_the_noise_is_enough_and_no_more(epsilon: float, delta: float) -> None:
    multiplier = noise_multiplier(epsilon, delta)
    assert delta_of(multiplier, epsilon) <= delta < delta_of(multiplier * (1 - 1e-6), epsilon)


def test_the_classic_mechanism_is_enough_below_one_and_too_little_far_above() -> None:
    for epsilon in (0.1, 0.5, 0.99):
        assert noise_multiplier(epsilon, 1e-4, "classic") > noise_multiplier(epsilon, 1e-4)
    assert noise_multiplier(0.5, 1e-4, "classic") == pytest.approx(np.sqrt(2 * np.log(1.25e4)) / 0.5)
    assert delta_of(noise_multiplier(100.0, 1e-4, "classic"), 100.0) > 1e-4


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 0.1), (-1, 0.1), (1, 0), (1, 1), (float("inf"), 0.1)])
def test_what_is_no_budget_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(UsageError, match="epsilon must be positive and delta in"):
        noise_multiplier(epsilon, delta)


def test_the_accountants_are_near_what_is_exact() -> None:
    """μ-GDP: T releases with σ/Δ are one with σ/(Δ√T), whose ε is known; PRV is near it, RDP above."""
    for multiplier, times in ((4.0, 1), (4.0, 9), (1.1, 3)):
        rdp, prv = (epsilon_of(name, multiplier, times, 1e-5) for name in ACCOUNTANTS)
        exact = multiplier / np.sqrt(times)
        assert delta_of(exact, prv) <= 1e-5 <= delta_of(exact, prv - 0.02)  # the accountant's own error is 0.01
        assert prv < rdp < 1.3 * prv


def test_many_releases_at_a_small_delta_are_not_below_what_is_exact() -> None:
    """Opacus 1.6.0's PRV accountant, told of them one by one, says 3.23 and 14.42."""
    for mu, delta in ((0.5, 1e-12), (2.0, 1e-11)):
        exact = epsilon_for(1 / mu, delta)
        assert exact <= epsilon_of("prv", 1000 / mu, 10**6, delta) <= exact + 0.02


def test_small_epsilons_are_seen_and_none_is_negative() -> None:
    assert 0 < epsilon_of("rdp", 600.0, 1, 1e-5) < 0.01, "with Opacus' own orders at least 0.103"
    assert epsilon_of("rdp", 100.0, 1, 0.5) == epsilon_of("prv", 100.0, 1, 0.5) == 0


MEMBERS = [np.array([0, 1]), np.array([0, 2]), np.array([0, 1])]
"""Of three rounds."""


def test_the_views_differ_as_they_should() -> None:
    ledger = Ledger.of(2.0, [3.0, 1.0, 2.0], MEMBERS, 3, 1e-5)
    assert ledger.uploads == 3
    assert ledger.upload("rdp") == epsilon_of("rdp", 2.0, 3, 1e-5)
    assert ledger.model_multiplier == pytest.approx((1 / 9 + 1 + 1 / 4) ** -0.5), "of client 0"
    assert ledger.model("rdp") == epsilon_of("rdp", ledger.model_multiplier, 1, 1e-5)
    assert Ledger.of(2.0, [3.0, 0.0, 2.0], MEMBERS, 3, 1e-5).model("rdp") == float("inf"), "noise that cancels"
    assert finite(float("inf")) is None
    assert Ledger.of(0.0, [0.0], MEMBERS[:1], 3, 1e-5).upload("prv") == float("inf")
    nothing = Ledger.of(2.0, [], [], 3, 1e-5)
    assert nothing.upload("prv") == nothing.model("prv") == 0


def test_sums_of_products_promise_nothing_for_the_models() -> None:
    """They have the variance of the noise that is kept otherwise, and are not Gaussian."""
    params = Params("niss", clients=10, fraction=1.0, noise_std=0.5, share_count=4, collusion=0.65)
    rows, everybody = np.full(10, 60), np.arange(10)
    noise = [noise_of_model(replace(params, paper_noise=paper), rows, everybody, 10, 1000) for paper in (False, True)]
    assert noise[0] > noise[1] == 0
    ledger = Ledger.of_training(replace(params, paper_noise=True), rows, noise[1:], [everybody], 1000)
    assert ledger.model("rdp") == float("inf")
    assert ledger.upload("rdp") < float("inf"), "a client's own noise is Gaussian"


@pytest.mark.parametrize(("clients", "drawn", "rounds"), [(100, 30, 30), (1000, 10, 200)])
def test_no_amplification_by_a_sample_that_everybody_can_draw_again(clients: int, drawn: int, rounds: int) -> None:
    """The model's ε of the worst client is that of the rounds it was in; with q = m/K it would seem far smaller."""
    members = [sample(0, t, clients, drawn) for t in range(rounds)]
    ledger = Ledger.of(2.0, [2.0] * rounds, members, clients, 1e-5)
    assert ledger.model("prv") == pytest.approx(ledger.upload("prv"), abs=0.02)
    sampled = PRVAccountant()
    sampled.history = [(2.0, drawn / clients, rounds)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sampled.get_epsilon(1e-5) < ledger.model("prv") / 2


def test_where_the_prv_accountant_gives_up_the_other_bound_is_taken() -> None:
    assert epsilon_of("prv", 0.01, 5, 1e-5) == epsilon_of("rdp", 0.01, 5, 1e-5) > 500
    with pytest.raises(UsageError, match="the prv accountant must be able to compose the noise, got"):
        epsilon_of("prv", 2.0, 5, 1e-15)


# -- parameters ---------------------------------------------------------------------------------------------------


def test_sensitivity_and_noise() -> None:
    params = Params(epochs=5, batch_size=10, learning_rate=0.01, clip=3.0)
    assert params.sensitivity(1 / 30, 600) == pytest.approx(2 / 30 * 0.01 * 3 * 300)
    assert params.sensitivity(1 / 30, 601) == pytest.approx(2 / 30 * 0.01 * 3 * 305)
    assert Params(momentum=0.9).sensitivity(1 / 30, 600) == pytest.approx(10 * params.sensitivity(1 / 30, 600))
    assert Params(clipping="update").sensitivity(0.5, 600) == 3.0
    assert params.std(1 / 30, 600) == pytest.approx(0.6 * noise_multiplier(10.0, 1e-4))
    assert Params(noise_std=0.7).std(0.1, 5) == 0.7
    assert Params("fedavg").std(0.1, 5) == 0
    assert Params(clipping="update").training.clip == float("inf")


@pytest.mark.parametrize(("rho", "tau2"), [(0.0, 0.0), (0.5, 0.0), (0.6, 0.2), (0.75, 0.5), (1.0, 1.0)])
def test_theorem_3_sets_tau(rho: float, tau2: float) -> None:
    assert Params(collusion=rho).tau2 == pytest.approx(tau2)


def test_clients_of_a_round() -> None:
    assert [Params(fraction=c).clients_per_round(k) for c, k in ((0.3, 100), (0.29, 100), (0.01, 5), (1.0, 7))] == [
        30, 29, 1, 7,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"epsilon": 0.0}, "--epsilon must be positive, got 0.0"),
        ({"epsilon": -1.0}, "--epsilon must be positive"),
        ({"epsilon": float("nan")}, "--epsilon must be positive"),
        ({"delta": 0.0}, "--delta must be in (0, 1), got 0.0"),
        ({"fraction": 1.5}, "--fraction must be in (0, 1], for a round has m ≤ K clients, got 1.5"),
        ({"fraction": 0.0}, "--fraction must be in (0, 1]"),
        ({"clients": 0}, "--clients must be at least 1, got 0"),
        ({"rounds": 0}, "--rounds must be at least 1"),
        ({"share_count": 0}, "--share-count must be at least 1"),
        ({"coalitions": 0}, "--coalitions must be at least 1"),
        ({"unit_variance": 0.0}, "--unit-variance must be positive"),
        ({"clip": 0.0}, "--clip must be positive, and finite unless --method is fedavg, got 0.0"),
        ({"clip": float("inf")}, "--clip must be positive, and finite unless --method is fedavg, got inf"),
        ({"collusion": 1.1}, "--collusion must be in [0, 1], got 1.1"),
        ({"dropout": -0.1}, "--dropout must be in [0, 1]"),
        ({"tau_squared": -0.1}, "--tau-squared must be at least 0"),
        ({"tau_squared": 0.5, "collusion": 0.9}, "--tau-squared and --collusion must not be given together"),
        ({"max_epsilon": 0.0}, "--max-epsilon must be positive"),
        ({"noise_std": -1.0}, "--noise-std must be at least 0"),
        ({"momentum": 1.0}, "--momentum must be in [0, 1)"),
    ],
)
def test_parameters_that_cannot_be_are_refused(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError) as error:
        Params(**wrong)  # type: ignore[arg-type]
    assert text in str(error.value)
