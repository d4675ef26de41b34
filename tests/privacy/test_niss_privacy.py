"""What colluders, the tracker and the ranks that carry shares learn about a client's noise.

Each test names the mutation that it is there for, and a test beside it applies the mutation and sees it fail.
"""

from collections.abc import Callable
from math import comb
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from protocol.niss_threads import Threads, train_on_threads, trained_host
from scipy.stats import kstest

from fedmpi.crypto.random import SecretStream
from fedmpi.niss import client, noise
from fedmpi.niss.assignment import SPENT, Kept
from fedmpi.niss.params import Params

# -- Theorem 3 ----------------------------------------------------------------------------------------------------

H, V, STD = 60_000, 40, 1.5  # σ_k


def left_against_colluders(rho: float, tau2: float, kept: float = 0.0, seed: int = 0) -> NDArray[np.float64]:
    """Of a client's noise what hides from who knows ρv of the shares it sent and ρv of those it received, over σ_k.

    They subtract the n_i that they know and the r_i, and project what remains onto the complement of the known r_i.
    """
    rng = np.random.default_rng(seed)
    own, received = ([(rng.bytes(32), STD / np.sqrt(V)) for _ in range(V)] for _ in range(2))
    known = round(rho * V)
    added = noise.mix(own, received, tau2, SecretStream(rng.bytes(32)), H, kept * STD**2)
    for share in own[:known]:
        added -= noise.expand(*share, H)
    R = np.array([-noise.expand(*share, H) for share in received[:known]]).reshape(known, H).T
    added -= R.sum(axis=1)  # s has mean 1
    Q, _ = np.linalg.qr(R)
    rest: NDArray[np.float64] = added - Q @ (Q.T @ added)
    return rest * np.sqrt(H / (H - known)) / STD


def kept_for(known: int) -> float:
    """What a client keeps of 1 if so many of V shares are known."""
    rule = Kept(0.0, 1.0, 1e-4, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "known", lambda *_: known)
        return rule.variance(1.0, V, [1 / V] * V, 100, 0)


@pytest.mark.parametrize("rho", [0.5, 0.6, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("paper", [True, False])
def test_theorem_3_leaves_the_noise_of_the_mechanism(rho: float, paper: bool) -> None:
    tau2, kept = (Params(collusion=rho).tau2, 0.0) if paper else (0.0, kept_for(round(rho * V)))
    assert left_against_colluders(rho, tau2, kept).var() == pytest.approx(1, rel=0.03)


def test_the_noise_that_is_kept_is_gaussian_in_every_coordinate() -> None:
    """Mutation: the paper's products, of which a known share says where they are small; here with few shares."""
    own = [(bytes([1]) * 32, STD)]
    for paper in (False, True):
        stream = SecretStream(bytes(32))
        added = noise.mix([], own, 1.0, stream, H) if paper else noise.mix([], own, 0.0, stream, H, STD**2)
        known = -noise.expand(*own[0], H)
        rest, quiet = added - known, np.argsort(np.abs(known))[: H // 10]
        assert rest.var() == pytest.approx(STD**2, rel=0.05)
        if paper:
            assert rest[quiet].var() < 0.02 * STD**2, "nothing hides where the share is small"
        else:
            assert rest[quiet].var() == pytest.approx(STD**2, rel=0.1)
            assert kstest(rest / STD, "norm").pvalue > 1e-6


@pytest.mark.parametrize("rho", [0.75, 1.0])
def test_a_smaller_tau_leaves_less(rho: float) -> None:
    """Mutation: τ² = 2ρ - 1.3."""
    assert left_against_colluders(rho, Params(collusion=rho).tau2 - 0.3).var() < 0.75
    assert left_against_colluders(rho, 0.0, kept_for(round(rho * V)) - 0.3).var() < 0.75


@pytest.mark.parametrize("rho", [0.75, 1.0])
def test_one_factor_for_all_coordinates_leaves_less(rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: a scalar s, as the paper's Algorithm 2 prints it: what is known can be projected away."""

    def scalar(r: NDArray[np.float64], tau2: float, stream: Any) -> NDArray[np.float64]:
        return r * (1 + np.sqrt(tau2) * noise.gaussian(stream, 1))

    monkeypatch.setattr(noise, "distort", scalar)
    assert left_against_colluders(rho, Params(collusion=rho).tau2).var() < 0.7


@pytest.mark.parametrize(("others", "shares"), [(19, 1), (19, 8), (29, 20), (5, 5)])
@pytest.mark.parametrize("rho", [0.0, 0.2, 0.5, 0.9])
def test_more_shares_are_known_than_planned_for_with_a_probability_within_delta(
    others: int, shares: int, rho: float
) -> None:
    rule = Kept(0.0, rho, 1e-3, 1)
    colluders = int(rho * others + 1e-9)
    bad = 0.0
    for t in range(200):
        known = rule.known(shares, others + 1, t)
        counts = range(known + 1, min(shares, colluders) + 1)
        bad += 2 * sum(comb(colluders, j) * comb(others - colluders, shares - j) for j in counts) / comb(others, shares)
    assert bad <= SPENT * 1e-3
    assert rule.known(shares, others + 1, 0) <= min(shares, colluders)
    if (others, shares, rho) == (19, 8, 0.2):
        assert rule.known(shares, others + 1, 0) == 3, "no more than colluders"


def test_with_one_share_no_noise_of_a_client_is_left_to_chance() -> None:
    """The single share may be known to a colluder, so all noise is kept; Theorem 3 would keep none for ρ = 0.5."""
    rule = Kept(0.0, 0.5, 1e-4, 1)
    assert rule.variance(4.0, 1, [4.0], 20, 0) == 4.0
    assert Params(collusion=0.5).tau2 == 0
    assert Kept(0.0, 0.0, 1e-4, 1).variance(4.0, 3, [4 / 3] * 3, 20, 0) == 0
    large = rule.variance(1.0, 10, [1e9] * 10, 20, 0)
    assert large == rule.variance(1.0, 10, [0.1] * 10, 20, 0), "what the tracker says of others counts for no more"


def test_an_upload_carries_the_noise_of_both_kinds() -> None:
    """Nobody colluding, an upload has variance (2 + τ²) σ_k²; mutation: without the client's own shares."""
    assert left_against_colluders(0.0, 0.0).var() == pytest.approx(2, rel=0.03)
    assert left_against_colluders(0.0, 0.5).var() == pytest.approx(2.5, rel=0.03)
    assert left_against_colluders(0.0, 0.0, 0.5).var() == pytest.approx(2.5, rel=0.03)
    received = [(bytes([k]) * 32, STD / np.sqrt(V)) for k in range(V)]
    assert noise.mix([], received, 0.0, SecretStream(), H).var() / STD**2 == pytest.approx(1, rel=0.03)


def test_all_noise_is_on_one_grid() -> None:
    """Else its last bits would tell it from the parameters, and sums would not cancel to the bit."""
    values = noise.mix([(bytes(32), 0.3)], [(b"1" * 32, 0.3)], 0.7, SecretStream(), 1000, 0.2)
    np.testing.assert_array_equal(values / noise.GRID, np.rint(values / noise.GRID))
    assert np.unique(np.rint(values / noise.GRID) % 16).size == 16


# -- what other ranks see -----------------------------------------------------------------------------------------

PARAMS = Params("niss", clients=9, fraction=1.0, rounds=2, epochs=1, noise_std=0.4, share_count=3)


def run(monkeypatch: pytest.MonkeyPatch) -> tuple[Threads, list[bytes]]:
    """A training with all that was received, and the seeds of all shares."""
    seeds: list[bytes] = []
    fresh = client.fresh_seed

    def noting(random: Any) -> bytes:
        seeds.append(fresh(random))
        return seeds[-1]

    monkeypatch.setattr(client, "fresh_seed", noting)
    threads = train_on_threads(PARAMS, 3, record_views=True, every=trained_host())
    assert len(set(seeds)) == 2 * 9 * 3, "every share has a seed of its own"
    return threads, seeds


def raw(threads: Threads, rank: int) -> bytes:
    """All bytes of all that a rank received."""
    parts = []
    for _, message in threads.views(rank):
        for name in type(message)._types:
            value = getattr(message, name)
            parts.append(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return b"|".join(parts)


def seen(threads: Threads, rank: int, seeds: list[bytes]) -> int:
    """How many seeds a rank received in the clear."""
    view = raw(threads, rank)
    return sum(seed in view for seed in seeds)


def test_no_rank_receives_a_share_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, seeds = run(monkeypatch)
    assert [seen(threads, rank, seeds) for rank in range(5)] == [0] * 5
    assert any(type(m).__name__ == "Shares" for _, m in threads.views(3))


def test_shares_that_are_not_sealed_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: envelopes of glass."""
    monkeypatch.setattr(client, "seal", lambda pair, receiver, context, contents: contents + bytes(16))
    monkeypatch.setattr(client, "unseal", lambda pair, sender, context, envelope: envelope[:-16])
    threads, seeds = run(monkeypatch)
    assert [seen(threads, rank, seeds) > 0 for rank in range(5)] == [False, False, True, True, True]


TRACKER_SEES = {
    "TrackerSetup": {
        "unit_variance",
        "share_count",
        "coalitions",
        "tau2",
        "collusion",
        "delta",
        "paper_noise",
        "timeout_seconds",
        "tau2s",
    },
    "Sampled": {"round", "clients", "hosts"},
    "Alive": {"round", "clients", "variances", "keys"},
    "Arrived": {"round", "clients"},
    "Leave": set(),
}


def tracker_sees_only_what_is_public(threads: Threads) -> bool:
    """Who takes part, σ_k², and keys that are fresh in every round: nothing that depends on data or noise."""
    keys: list[bytes] = []
    for _, message in threads.views(1):
        kind = type(message).__name__
        if TRACKER_SEES.get(kind) != set(type(message)._types):
            return False
        if kind == "Alive":
            if not np.allclose(message.variances, PARAMS.noise_std**2):  # type: ignore[operator]
                return False
            keys += [key.tobytes() for key in message.keys]
    return len(set(keys)) == len(keys) == 2 * 9


def test_the_tracker_sees_only_what_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, _ = run(monkeypatch)
    assert tracker_sees_only_what_is_public(threads)


def leak(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A host whose words to the tracker are changed."""

    def play(ch: Any) -> None:
        send = ch.send
        ch.send = lambda dest, message: send(dest, change(message) if dest == 1 else message)
        trained_host()(ch)

    return play


def test_keys_used_twice_or_variances_of_the_noise_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: one key pair for all rounds; the empirical variance of the noise in place of σ_k²."""
    monkeypatch.setattr(client, "check_noise", lambda edges, stds: None)  # which would see the second one
    one_key = np.frombuffer(client.KeyPair().public, np.uint8)

    def same(message: Any) -> Any:
        if type(message).__name__ != "Alive":
            return message
        return type(message)(
            message.round, message.clients, message.variances, np.tile(one_key, (len(message.keys), 1))
        )

    def empirical(message: Any) -> Any:
        if type(message).__name__ != "Alive":
            return message
        return type(message)(message.round, message.clients, message.variances * 1.01, message.keys)

    for change in (same, empirical):
        threads = train_on_threads(PARAMS, 3, record_views=True, every=leak(change))
        assert not tracker_sees_only_what_is_public(threads)


def test_the_server_receives_no_shares_and_no_clean_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's view: uploads with the noise of both kinds. Mutation: uploads without noise (--method fedavg)."""

    def distances(method: str) -> list[float]:
        params = Params(method, clients=9, fraction=1.0, rounds=1, epochs=1, noise_std=0.4, share_count=3)  # type: ignore[arg-type]
        threads = train_on_threads(params, 3, record_views=True)
        assert {type(m).__name__ for _, m in threads.views(0)} <= {"Ready", "Uploads", "Ledger", "Report"}
        w = threads.start.w / 9
        return [float((v - w).std()) for _, m in threads.views(0) if type(m).__name__ == "Uploads" for v in m.values]

    noisy = distances("niss")
    assert len(noisy) == 9
    assert noisy == pytest.approx([0.4 * np.sqrt(2)] * 9, rel=0.03)
    assert max(distances("fedavg")) < 0.01
