"""Federated averaging whose server sees sums only: the same bits as in the clear, whoever is lost; hosts that lie."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.niss_threads import Role, Threads, command_on_threads, train_on_threads, trained_host

from fedmpi.errors import HeadroomError, TooFewWorkers
from fedmpi.federated import masked
from fedmpi.net import Channel, Message
from fedmpi.niss.params import Params

FEDAVG = Params(
    "fedavg", clients=8, fraction=1.0, rounds=3, epochs=1, learning_rate=0.1, dtype="float64", model="logistic"
)
SUMS = [replace(FEDAVG, secure_sum=name, threshold=4) for name in ("double", "lightsecagg")]

WIDE: dict[str, Any] = {"model": "mlp", "rounds": 1}
"""Of 44 203 parameters the standard deviation of noise is known to 0.3 %: 3 % is nine deviations of the estimate."""


def meddling(message: type[Message], round_: int, change: Any) -> Role:
    """A host that sends another message in place of one of a round."""
    play = trained_host()

    def role(ch: Channel) -> Any:
        send = ch.send

        def instead(dest: int, sent: Any) -> None:
            send(dest, change(sent) if type(sent) is message and sent.round == round_ else sent)

        ch.send = instead  # type: ignore[method-assign]
        try:
            return play(ch)
        except RuntimeError as error:
            return ch.fail(error)

    return role


def dies(sent: Any) -> Any:
    raise RuntimeError("out of order")


@pytest.mark.parametrize("params", SUMS, ids=lambda params: params.secure_sum)
@pytest.mark.parametrize("method", ["fedavg", "dp-fedavg"])
def test_the_sum_has_the_bits_of_the_clear(params: Params, method: str) -> None:
    """Clients are lost in every round. Noise is fresh in each run, so that its sum differs, but is there."""
    params = replace(params, method=method, dropout=0.2, noise_std=0.5)
    if method == "dp-fedavg":
        params = replace(params, **WIDE)
    clear = train_on_threads(replace(params, secure_sum="none", threshold=None))
    summed = train_on_threads(params)
    assert [outcome.lost for outcome in summed.outcomes] == [outcome.lost for outcome in clear.outcomes]
    assert any(outcome.lost for outcome in clear.outcomes)
    if method == "fedavg":
        np.testing.assert_array_equal(summed.state.w, clear.state.w)
    else:
        first = summed.outcomes[0].noise_std
        assert first == clear.outcomes[0].noise_std > 0
        assert (summed.state.w - clear.state.w).std() == pytest.approx(2**0.5 * first, rel=0.03)


@pytest.mark.parametrize("params", SUMS, ids=lambda params: params.secure_sum)
def test_shares_of_noise_cancel_in_the_sum(params: Params) -> None:
    """NISS under a secure sum is FedAvg, to the bit."""
    noisy = train_on_threads(replace(params, method="niss", noise_std=0.5, share_count=2))
    np.testing.assert_array_equal(noisy.state.w, train_on_threads(FEDAVG).state.w)


@pytest.mark.parametrize("params", SUMS, ids=lambda params: params.secure_sum)
def test_distributed_noise_is_on_the_mean_of_clipped_updates(params: Params) -> None:
    """Without noise it is federated averaging of clients alike, but for the grid; with noise it is off by as much."""
    together = replace(params, method="distributed-dp", clipping="update", clip=0.05, colluding=2, dropout=0.1)
    clear = train_on_threads(replace(FEDAVG, clipping="update", clip=0.05, dropout=0.1))
    assert any(outcome.lost for outcome in clear.outcomes)
    quiet = train_on_threads(replace(together, noise_std=0.0))
    np.testing.assert_allclose(quiet.state.w, clear.state.w, atol=3 * 0.05 / 2**20)
    assert quiet.state.noise == (0.0, 0.0, 0.0), "and no ε is promised"
    noisy = train_on_threads(replace(together, noise_std=0.01, **WIDE))
    assert [outcome.lost for outcome in noisy.outcomes] == [outcome.lost for outcome in clear.outcomes][:1]
    once = train_on_threads(replace(FEDAVG, clipping="update", clip=0.05, dropout=0.1, **WIDE))
    spread = noisy.outcomes[0].noise_std
    assert spread == pytest.approx(8 * 0.01 / noisy.outcomes[0].arrived ** 0.5, rel=1e-4)
    assert (noisy.state.w - once.state.w).std() == pytest.approx(spread, rel=0.03)


def test_the_server_gets_no_upload() -> None:
    """Nothing but keys, sealed shares, hidden words and what the survivors tell."""
    seen = {type(m).__name__ for _, m in train_on_threads(SUMS[1], record_views=True).views(0)}
    assert seen == {"Ready", "Keys", "Envelopes", "Masked", "Revealed", "Report"}


@pytest.mark.parametrize("message", [masked.Keys, masked.Envelopes, masked.Masked, masked.Revealed])
@pytest.mark.parametrize("params", SUMS, ids=lambda params: params.secure_sum)
def test_training_outlives_a_host(params: Params, message: type[Message]) -> None:
    """Wherever in a round it fails; a host that had sent its words before it failed is in that sum."""
    left = train_on_threads(params, roles={3: meddling(message, 1, dies)})
    lost = [{entry["client"] for entry in outcome.lost} for outcome in left.outcomes]
    assert lost == [set(), set() if message is masked.Revealed else {1, 4, 7}, {1, 4, 7}]


def short(sent: Any) -> Any:
    return type(sent)(sent.round, sent.clients[1:], sent.words)


def no_residues(sent: Any) -> Any:
    return type(sent)(sent.round, sent.clients, np.full_like(sent.words, np.iinfo(sent.words.dtype).max))


def others(sent: Any) -> Any:
    return type(sent)(sent.round, np.array([0, 3, 6], np.uint32), sent.words)


@pytest.mark.parametrize("message", [masked.Masked, masked.Revealed])
@pytest.mark.parametrize("lie", [short, no_residues, others])
def test_a_host_that_breaks_the_protocol_is_left_out(message: type[Message], lie: Any) -> None:
    left = train_on_threads(SUMS[1], roles={3: meddling(message, 1, lie)})
    assert "broke the protocol" in str(left.channels[0].departed[3])
    assert {entry["client"] for entry in left.outcomes[2].lost} == {1, 4, 7}


@pytest.mark.parametrize("params", SUMS, ids=lambda params: params.secure_sum)
def test_too_few_clients_open_nothing(params: Params) -> None:
    with pytest.raises(TooFewWorkers, match="round 1 must have at least 6 clients, got 5; host"):
        train_on_threads(replace(params, threshold=6), roles={3: meddling(masked.Masked, 1, dies)})


def test_values_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises((HeadroomError, TooFewWorkers), match=r"must be below|must have at least"):
        train_on_threads(SUMS[0], w=np.full(51, 1e9))


def test_a_run_says_what_its_server_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "fedavg", "--clients", "5", "--rounds", "1", "--secure-sum", "lightsecagg"]
    command_on_threads(2, *options, "--dataset", "synthetic:m=240,d=16,density=0.5,test=50", "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert "the server sees sums only, by LightSecAgg: at least 4 of the 5 clients of a round must be left" in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["params"]["server_sees"] == "the sum of each round's updates"


def test_a_run_says_whose_noise_its_epsilon_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "distributed-dp", "--clients", "10", "--rounds", "2", "--secure-sum", "double"]
    options += ["--colluding", "3", "--clipping", "update", "--epsilon", "2", "--max-epsilon", "2.5"]
    command_on_threads(2, *options, "--dataset", "synthetic:m=240,d=16,density=0.5,test=50", "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert "ε counts the noise of 4 clients: 7 are left, of whom 3 may tell the server their own" in said
    assert "ε = 2 for the sums of 1 round together (--epsilon 2 is of each)" in said
    assert "stopped after round 1" in said
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["privacy"]["upload"] == {"rdp": pytest.approx(2, abs=1e-4), "prv": None}
    assert result["privacy"]["model"]["rdp"] < 1.5
    told = result["params"]["distributed"]
    assert (told["survivors"], told["colluding"], told["grid"]) == (7, 3, 3.0 / 2**20)
    assert told["noise_std"] / told["sensitivity"] * 2 == pytest.approx(result["privacy"]["noise_multiplier"])


def test_what_is_shared_with_the_lost_stays_sealed() -> None:
    """The threshold of a run is that of its members: fewer of them tell nothing that the server could use."""
    left: Threads = train_on_threads(SUMS[1], record_views=True)
    told = [m for _, m in left.views(0) if isinstance(m, masked.Revealed) and m.round == 0]
    assert sum(len(m.clients) for m in told) == 8
    assert {m.words.shape[1] for m in told} == {SUMS[1].summing(8, len(left.state.w)).told(8)}  # type: ignore[union-attr]
