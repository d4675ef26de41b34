"""DSSGD: the noise is Laplace of the right scale, what is shared is clipped and chosen at random, and it learns."""

from dataclasses import replace

import numpy as np
import oracles
import pytest
from protocol.ppadmm_threads import HANG_SECONDS, problem
from scipy import stats

from fedmpi.crypto.random import SecretStream
from fedmpi.net import Channel, run_local
from fedmpi.ppadmm import SYSTEM
from fedmpi.ppadmm.auxiliary import auxiliary_server
from fedmpi.ppadmm.dssgd import SharedGradient, laplace, parameter_server, sgd_participant, share
from fedmpi.ppadmm.params import Params
from fedmpi.ppadmm.protocol import Training

PARTS = problem(4, 50, 10)
PARAMS = Params(
    method="dssgd", iterations=60, epsilon=1e6, share_fraction=0.5, learning_rate=0.2, coordinate_clip=100.0
)


def secret(seed: int) -> SecretStream:
    return SecretStream(bytes([seed]) * 32)


def train(params: Params, change: dict[int, SharedGradient] | None = None) -> tuple[Training, dict[int, Channel]]:
    channels: dict[int, Channel] = {}

    def lead(ch: Channel) -> Training:
        channels[ch.rank] = ch
        ch.tolerated = range(2, ch.size)
        return parameter_server(ch, params)

    def second(ch: Channel) -> None:
        auxiliary_server(ch, params, b"")

    def member(ch: Channel) -> None:
        if change and ch.rank in change:
            send = ch.send

            def lying(dest: int, message: object) -> None:
                send(dest, change[ch.rank] if isinstance(message, SharedGradient) else message)  # type: ignore[arg-type]

            ch.send = lying  # type: ignore[method-assign]
        sgd_participant(ch, params, *PARTS[ch.rank - 2], secret(ch.rank))

    roles = [lead, second, *[member] * len(PARTS)]
    results = run_local(roles, timeout_seconds=HANG_SECONDS, role_of=SYSTEM.role_of, record_views=True)
    return results[0], channels


def test_the_noise_is_laplace() -> None:
    noise = laplace(secret(1), 3.0, 50_000)
    assert stats.kstest(noise, stats.laplace(scale=3.0).cdf).pvalue > oracles.ALARM
    assert stats.kstest(noise, stats.laplace(scale=3.3).cdf).pvalue < oracles.ALARM, "the test has power"


@pytest.mark.parametrize("epsilon", [0.1, 10.0])
def test_values_are_private_by_the_scale_that_epsilon_asks_for(epsilon: float) -> None:
    """Each of c values can change by 2γ: scale 2cγ/ε, then clipped again."""
    params = replace(PARAMS, epsilon=epsilon, coordinate_clip=1.0, share_fraction=0.2)
    gradient, stream = np.full(20, 50.0), secret(2)
    values = np.concatenate([share(gradient, params, stream)[1] for _ in range(2000)])
    assert np.abs(values).max() <= 1.0
    law = stats.laplace(loc=1.0, scale=2 * 4 * 1.0 / epsilon)  # about the clipped gradient, c = 4
    for bound in (-0.9, 0.0, 0.9):
        expected = law.cdf(bound)
        deviation = np.sqrt(expected * (1 - expected) / len(values))
        assert (values < bound).mean() == pytest.approx(expected, abs=6 * deviation)


def test_the_shared_coordinates_are_random_and_right() -> None:
    gradient, stream = np.arange(20.0), secret(3)
    counts = np.zeros(20)
    for _ in range(1000):
        coordinates, values = share(gradient, replace(PARAMS, epsilon=1e12), stream)
        assert len(set(coordinates.tolist())) == len(coordinates) == 10
        np.testing.assert_allclose(values, gradient[coordinates], atol=1e-6)
        counts[coordinates] += 1
    assert stats.chisquare(counts).pvalue > oracles.ALARM


def test_with_little_noise_it_learns_and_with_much_it_does_not() -> None:
    X, y = (np.concatenate(arrays) for arrays in zip(*PARTS, strict=True))

    def error(params: Params) -> float:
        training, _ = train(params)
        return float(np.sqrt(np.mean((X @ training.coefficients + training.intercept - y) ** 2)))

    quiet, loud = error(replace(PARAMS, iterations=300)), error(replace(PARAMS, epsilon=0.1))
    assert quiet < 1.3
    assert loud > 20 * quiet


@pytest.mark.parametrize(
    ("last", "value", "text"),
    [
        (11, 0.0, "coordinates from rank 3 must differ and be below 11"),
        (4, 0.0, "list without anything twice"),
        (5, np.nan, "values from rank 3 must be clipped to 100"),
        (5, 1e300, "values from rank 3 must be clipped to 100"),
    ],
    ids=["out of range", "twice the same", "NaN", "not clipped"],
)
def test_who_shares_what_can_not_be_is_left_out_and_named(last: int, value: float, text: str) -> None:
    wrong = SharedGradient(0, np.array([0, 1, 2, 3, 4, last], np.uint32), np.full(6, value))
    training, channels = train(replace(PARAMS, iterations=3), {3: wrong})
    assert [gone["rank"] for gone in training.failures] == [3]
    assert text in training.failures[0]["reason"]
    assert text in str(channels[0].departed[3])
    assert np.isfinite(training.coefficients).all()


def test_s1_gets_nothing_but_a_share() -> None:
    _, channels = train(PARAMS)
    kinds = {type(message).__name__ for _, message in channels[0]._views}
    assert kinds == {"Joined", "SharedGradient", "Report"}
    assert all(len(m.values) == 6 for _, m in channels[0]._views if isinstance(m, SharedGradient))
