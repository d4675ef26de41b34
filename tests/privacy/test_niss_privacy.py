"""What colluders, the tracker and the ranks that carry shares learn about a client's noise.

Each test names the mutation that it is there for, and a test beside it applies the mutation and sees it fail.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from protocol.niss_threads import Threads, train_on_threads, trained_host

from fedmpi.crypto.random import SecretStream
from fedmpi.niss import client, noise
from fedmpi.niss.params import Params

# -- Theorem 3 ----------------------------------------------------------------------------------------------------

H, V, STD = 60_000, 40, 1.5  # σ_k


def left_against_colluders(rho: float, tau2: float, seed: int = 0) -> float:
    """Variance of a client's noise, over σ_k², for who knows ρv of the shares it sent and ρv of those it received.

    They subtract the n_i that they know and the r_i, and project what remains onto the complement of the known r_i.
    """
    rng = np.random.default_rng(seed)
    own, received = ([(rng.bytes(32), STD / np.sqrt(V)) for _ in range(V)] for _ in range(2))
    known = round(rho * V)
    added = noise.mix(own, received, tau2, SecretStream(rng.bytes(32)), H)
    for share in own[:known]:
        added -= noise.expand(*share, H)
    R = np.array([-noise.expand(*share, H) for share in received[:known]]).reshape(known, H).T
    added -= R.sum(axis=1)  # s has mean 1
    Q, _ = np.linalg.qr(R)
    rest = added - Q @ (Q.T @ added)
    return float(rest @ rest / (H - known)) / STD**2


@pytest.mark.parametrize("rho", [0.5, 0.6, 0.75, 0.9, 1.0])
def test_theorem_3_leaves_the_noise_of_the_mechanism(rho: float) -> None:
    tau2 = Params(collusion=rho).tau2
    assert left_against_colluders(rho, tau2) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("rho", [0.75, 1.0])
def test_a_smaller_tau_leaves_less(rho: float) -> None:
    """Mutation: τ² = 2ρ - 1.3."""
    assert left_against_colluders(rho, Params(collusion=rho).tau2 - 0.3) < 0.75


@pytest.mark.parametrize("rho", [0.75, 1.0])
def test_one_factor_for_all_coordinates_leaves_less(rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: a scalar s, as the paper's Algorithm 2 prints it: what is known can be projected away."""

    def scalar(r: NDArray[np.float64], tau2: float, stream: Any) -> NDArray[np.float64]:
        return r * (1 + np.sqrt(tau2) * noise.gaussian(stream, 1))

    monkeypatch.setattr(noise, "distort", scalar)
    assert left_against_colluders(rho, Params(collusion=rho).tau2) < 0.7


def test_an_upload_carries_the_noise_of_both_kinds() -> None:
    """Nobody colluding, an upload has variance (2 + τ²) σ_k²; mutation: without the client's own shares."""
    assert left_against_colluders(0.0, 0.0) == pytest.approx(2, rel=0.03)
    assert left_against_colluders(0.0, 0.5) == pytest.approx(2.5, rel=0.03)
    received = [(bytes([k]) * 32, STD / np.sqrt(V)) for k in range(V)]
    assert noise.mix([], received, 0.0, SecretStream(), H).var() / STD**2 == pytest.approx(1, rel=0.03)


def test_all_noise_is_on_one_grid() -> None:
    """Else its last bits would tell it from the parameters, and sums would not cancel to the bit."""
    values = noise.mix([(bytes(32), 0.3)], [(b"1" * 32, 0.3)], 0.7, SecretStream(), 1000)
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
    "TrackerSetup": {"unit_variance", "share_count", "coalitions", "tau2", "timeout_seconds"},
    "Sampled": {"round", "clients"},
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


def test_keys_used_twice_or_variances_of_the_noise_are_noticed() -> None:
    """Mutations: one key pair for all rounds; the empirical variance of the noise in place of σ_k²."""
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
