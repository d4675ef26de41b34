"""Noise that all clients make together: no ε is printed below the true one, whoever is lost or colludes."""

from collections.abc import Callable
from dataclasses import replace
from math import exp

import numpy as np
import pytest
from protocol.niss_threads import train_on_threads

from fedmpi.audit.bounds import Game
from fedmpi.core.discrete_gaussian import discrete_gaussian
from fedmpi.crypto.random import SecretStream
from fedmpi.errors import HeadroomError, UsageError
from fedmpi.niss import distributed
from fedmpi.niss.accounting import Ledger, epsilon_of
from fedmpi.niss.distributed import LEVELS, Distributed, rounded, squared
from fedmpi.niss.mechanism import concentrated_multiplier
from fedmpi.niss.params import Params

PARAMS = Params(
    "distributed-dp", clients=10, fraction=1.0, rounds=3, epochs=1, learning_rate=0.1, dtype="float64",
    model="logistic", clipping="update", clip=1.0, secure_sum="lightsecagg", threshold=7, colluding=3, epsilon=2.0,
)  # fmt: skip


def planned(h: int, **changes: object) -> Distributed:
    found = replace(PARAMS, **changes).distributed(10, h)  # type: ignore[arg-type]
    assert found is not None
    return found


# -- the accountant against the definition ------------------------------------------------------------------------


def true_epsilon(std: int, honest: int, shift: int, delta: float) -> float:
    """Of one coordinate: the least ε with Σ max(p(y) - e^ε p(y - shift), 0) ≤ δ, for a sum of discrete Gaussians."""
    values = np.arange(-14 * std, 14 * std + 1)
    one = np.exp(-(values**2) / (2.0 * std**2))
    p = one / one.sum()
    total = np.array([1.0])
    for _ in range(honest):
        total = np.convolve(total, p)
    padded = np.concatenate([total, np.zeros(shift)])
    moved = np.concatenate([np.zeros(shift), total])
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        spent = max(np.maximum(a - exp(middle) * b, 0).sum() for a, b in ((padded, moved), (moved, padded)))
        low, high = (low, middle) if spent <= delta else (middle, high)
    return high


@pytest.mark.parametrize(("epsilon", "honest"), [(1.0, 1), (1.0, 4), (8.0, 2)])
def test_no_printed_epsilon_is_below_that_of_the_definition(
    epsilon: float, honest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a coarse grid, where rounding and discreteness cost most. Mutation: the noise of colluders counts as well."""
    monkeypatch.setattr(distributed, "LEVELS", 8)
    plan = planned(1, epsilon=epsilon, colluding=7 - honest, delta=1e-3)
    true = true_epsilon(plan.std, honest, int(plan.sensitivity), plan.delta)
    printed = epsilon_of("rdp", plan.promised, 1, plan.delta)
    assert true <= printed <= epsilon * (1 + 1e-6)
    assert printed < 1.35 * true + 0.1, "and not far above"
    assert epsilon_of("rdp", plan.multiplier(10), 1, plan.delta) < true


def test_noise_so_narrow_that_its_sum_is_no_discrete_gaussian_costs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "LEVELS", 1)
    plan = planned(100, noise_std=0.05)
    assert plan.std == 1
    gaussian = plan.std * 4**0.5 / plan.sensitivity
    assert plan.multiplier(4) < 0.9995 * gaussian
    assert planned(100).multiplier(4) == pytest.approx(planned(100).std * 2 / planned(100).sensitivity, rel=1e-9)


@pytest.mark.parametrize("delta", [1e-2, 1e-5])
def test_the_noise_is_what_epsilon_needs(delta: float) -> None:
    for epsilon in (0.1, 1.0, 30.0):
        z = concentrated_multiplier(epsilon, delta)
        assert epsilon_of("rdp", z, 1, delta) <= epsilon < epsilon_of("rdp", z * (1 - 1e-6), 1, delta)


def test_a_run_counts_the_fewest_survivors_without_the_colluders() -> None:
    """Server's view: U - T; the published models: all that survived, and were asked."""
    threads = train_on_threads(replace(PARAMS, dropout=0.2))
    h, survivors = len(threads.state.w), [outcome.arrived for outcome in threads.outcomes]
    assert min(survivors) < 10
    plan = planned(h)
    assert threads.state.noise == tuple(plan.multiplier(n) for n in survivors)
    everybody = [np.arange(10, dtype=np.uint32)] * 3
    ledger = Ledger.of_training(PARAMS, np.full(10, 24), threads.state.noise, everybody, h)
    assert (ledger.multiplier, ledger.uploads) == (plan.multiplier(4), 3)
    assert ledger.upload("rdp") == pytest.approx(epsilon_of("rdp", plan.multiplier(4), 3, 1e-4))
    assert ledger.model("rdp") < ledger.upload("rdp")
    spread = threads.outcomes[0].noise_std
    assert spread == pytest.approx(plan.std * plan.unit / survivors[0] ** 0.5)


# -- rounding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [1, 2, 1000])
def test_a_rounded_update_is_within_the_bound_and_right_in_the_mean(h: int) -> None:
    """Where it matters: the norm is ζ, and every coordinate lies between two numbers of the grid."""
    bound = planned(h).bound
    x = np.full(h, LEVELS / h**0.5)
    down = np.floor(x) + 0.5 if h > 1 else x - 0.5
    x = down * min(1.0, LEVELS / float(np.linalg.norm(down)))
    many = np.array([rounded(x, bound, SecretStream()) for _ in range(400)])
    assert all(squared(row) <= bound for row in many)
    assert abs((many - x).mean()) < 5 * 0.5 / many.size**0.5
    assert np.unique(many[:, 0]).size == 2


def test_a_bound_that_chance_does_not_meet_is_kept_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the integers are not looked at, so that floating point decides."""
    x = np.full(40, 2.5)  # not one of them is rounded up with probability 2^-40
    assert squared(rounded(x, 4 * 40, SecretStream())) <= 160
    assert squared(rounded(x, 4, SecretStream())) <= 4
    monkeypatch.setattr(distributed, "squared", lambda whole: 0)
    assert squared(rounded(x, 4, SecretStream())) > 160


# -- what the sum shows -------------------------------------------------------------------------------------------

Mutation = Callable[[pytest.MonkeyPatch], None]


def left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "discrete_gaussian", lambda stream, size, std: np.zeros(size, np.int64))


def as_if_nobody_colluded_or_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    std = Distributed.std.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Distributed, "std", property(lambda plan: int(std(plan) * (1 / 10) ** 0.5)))


def of_one_coordinate_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        distributed,
        "discrete_gaussian",
        lambda stream, size, std: np.full(size, discrete_gaussian(stream, 1, std)[0]),
    )


def from_a_public_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        distributed,
        "discrete_gaussian",
        lambda stream, size, std: np.random.default_rng(0).normal(0, std, size).astype(np.int64),
    )


def shown(h: int = 64_000) -> Game:
    """U clients survive with nothing to say, T of them tell their noise, and so does whoever can draw it again.

    The adversary takes away what it can, and is left with U - T parts. Every coordinate is one attempt.
    """
    plan = planned(h, colluding=6)
    draws = [plan.scheme.decode(plan.hidden(np.zeros(h), SecretStream()), 0) for _ in range(plan.scheme.threshold)]
    known = distributed.discrete_gaussian(SecretStream(), h, plan.std)
    again = distributed.discrete_gaussian(SecretStream(), h, plan.std)
    if np.array_equal(known, again):  # no secret is in it
        draws = [draw - known for draw in draws]
    left = sum(draws[plan.colluding :], np.zeros(h))
    left -= np.median(left)  # what all coordinates have alike is taken away
    return Game(left, left + plan.sensitivity, PARAMS.epsilon, PARAMS.delta)


@pytest.mark.parametrize(
    ("mutation", "holds"),
    [
        (None, True),
        (left_out, False),
        (as_if_nobody_colluded_or_was_lost, False),
        (of_one_coordinate_for_all, False),
        (from_a_public_seed, False),
    ],
)
def test_who_knows_all_but_the_noise_of_the_honest_survivors(
    mutation: Mutation | None, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mutation is not None:
        mutation(monkeypatch)
    games = [shown() for _ in range(2)]  # of one alone the bound is below 0.5 by chance one time in 10 000
    assert max(game.bound for game in games) > 0.5, "the attack is one"
    assert all((game.bound <= game.epsilon) is holds for game in games)


# -- no wrap-around -----------------------------------------------------------------------------------------------


def test_sums_that_could_wrap_around_are_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "TAIL", 2**26)
    with pytest.raises(
        HeadroomError,
        match=r"--secure-sum lightsecagg must hold the sum of 10 updates without a wrap-around, got noise of σ = ",
    ):
        planned(10, noise_std=1.0)
    assert planned(10, noise_std=1.0, secure_sum="double").std == 10 * LEVELS
    monkeypatch.undo()
    plan = planned(10, noise_std=1.0)
    words = plan.scheme.encode(np.array([plan.largest, -plan.largest] * 5, float), 0, 10)
    total = words
    for _ in range(9):
        total = plan.scheme.add(total, words)
    np.testing.assert_array_equal(plan.scheme.decode(total, 0), np.array([plan.largest, -plan.largest] * 5) * 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(HeadroomError, match="an update must be finite to be clipped"):
        planned(2).hidden(np.array([1.0, value]), SecretStream())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"secure_sum": "none", "threshold": None, "colluding": None}, "must have a --secure-sum"),
        ({"clipping": "gradient"}, "must have --clipping update, got gradient"),
        ({"accountant": "prv"}, "and with --accountant rdp: its noise is discrete, got analytic and prv"),
        ({"mechanism": "classic"}, "must be without --mechanism"),
        ({"budgets": "epsilon\n1"}, "must have the same noise for all clients"),
        ({"colluding": 7, "secure_sum": "double"}, "--colluding must leave honest clients among --threshold 7, got 7"),
        ({"noise_std": 300.0}, "noise must be at most 2047 ζ, got 3000 ζ"),
        ({"epsilon": 1e-4, "delta": 1e-9}, "--epsilon must be larger for --delta 1e-09, got 0.0001"),
    ],
)
def test_what_no_noise_can_be_planned_for_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(10, **changes)
