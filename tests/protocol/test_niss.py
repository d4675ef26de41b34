"""NISS on threads: what cancels, what stays, who may be missing, and what is refused."""

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from protocol.niss_threads import SYNTHETIC, Threads, command_on_threads, plain_tracker, train_on_threads, trained_host

from fedmpi.data import load
from fedmpi.errors import PeerFailed, ProtocolError, TooFewWorkers, UsageError
from fedmpi.learn import FlatModel, Inputs, Trainer, build_model, client_rows, sample, scale_of, stream, weights
from fedmpi.net import Channel
from fedmpi.niss import tracker as tracking
from fedmpi.niss.client import Clients, clipped
from fedmpi.niss.command import NissTraining
from fedmpi.niss.params import Params
from fedmpi.niss.protocol import Uploads, Watch
from fedmpi.niss.summary import NissWords
from fedmpi.runs.model import load_model, read_arrays
from fedmpi.system import require

NISS = Params("niss", clients=12, fraction=0.5, rounds=3, epochs=1, learning_rate=0.1, noise_std=0.5, share_count=3)
FEDAVG = replace(NISS, method="fedavg")


def fedavg_by_hand(params: Params, seed: int = 0, dtype: str = "float64") -> list[np.ndarray]:
    """The oracle: Algorithm 1 without noise, in one loop, with numpy's own sum. Parameters after every round."""
    import torch

    data = load(SYNTHETIC, seed=seed)
    parts = client_rows(params.partition, data.y_train, params.clients or 0, seed, params.dirichlet_alpha)
    kind = getattr(torch, dtype)
    model = build_model(params.model, (1, 4, 4), 3, seed, kind)
    trainer, w, all_w = Trainer(model, params.training), FlatModel(copy.deepcopy(model)).read(), []
    scale = scale_of(data.X_train)
    for t in range(params.rounds):
        chosen = sample(seed, t, params.clients or 0, params.clients_per_round(params.clients or 0))
        p = weights([len(parts[k]) for k in chosen])
        w = sum(
            share * trainer.train(
                w, Inputs.of(data.X_train[parts[k]], data.y_train[parts[k]], scale, kind), stream(seed, "batches", k, t)
            )
            for share, k in zip(p, chosen, strict=True)
        )  # fmt: skip
        all_w.append(w)
    return all_w


def after_each_round(params: Params, **options: Any) -> list[np.ndarray]:
    states: list[np.ndarray] = []
    train_on_threads(params, watch=Watch(after=lambda state, outcome: states.append(state.w)), **options)
    return states


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_with_tau_0_every_aggregation_is_fedavgs(partition: str) -> None:
    """In float64 within 1e-9 of the oracle, and to the bit that of --method fedavg: the noise cancels to the bit."""
    params = replace(NISS, dtype="float64", partition=partition, noise_std=7.0)  # type: ignore[arg-type]
    oracle = fedavg_by_hand(params)
    shared = after_each_round(params)
    plain = after_each_round(replace(params, method="fedavg"))
    for expected, got, other in zip(oracle, shared, plain, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(got, other)
    assert np.abs(oracle[-1] - oracle[0]).max() > 0.01


@pytest.mark.parametrize("change", [{"tau_squared": 0.01}, {"method": "dp-fedavg"}])
def test_the_comparison_above_sees_noise(change: dict[str, Any]) -> None:
    params = replace(NISS, dtype="float64", rounds=1, **change)
    assert np.abs(after_each_round(params)[0] - fedavg_by_hand(params)[0]).max() > 0.01


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_number_of_ranks_changes_no_bit(model: str) -> None:
    params = replace(FEDAVG, model=model, partition="dirichlet")
    dataset = SYNTHETIC if model == "mlp" else "synthetic:m=120,d=64,density=0.5,test=50,classes=3"
    runs = [train_on_threads(params, hosts, dataset=dataset).state.w for hosts in (1, 5, 12)]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
    other = train_on_threads(params, 5, dataset=dataset, seed=1).state.w
    assert not np.array_equal(runs[0], other)


@pytest.mark.parametrize("shares", ["seeds", "vectors"])
def test_shares_cancel_however_they_travel(shares: str) -> None:
    shared = train_on_threads(replace(NISS, shares=shares, rounds=2), record_views=True)  # type: ignore[arg-type]
    plain = train_on_threads(replace(FEDAVG, rounds=2))
    np.testing.assert_array_equal(shared.state.w, plain.state.w)
    assert [(o.least_shares, o.largest_shares, o.noise_std) for o in shared.outcomes] == [(3, 3, 0.0)] * 2
    messages = [m for rank in (2, 3, 4) for _, m in shared.views(rank) if type(m).__name__ == "Shares"]
    h = len(plain.state.w)
    assert {m.sealed.shape[1] for m in messages} == {16 + (32 if shares == "seeds" else 8 * h)}
    assert sum(len(m.sealed) for m in messages) == 2 * 6 * 3  # rounds · m · v


def aggregated_noise(params: Params, w: np.ndarray, **options: Any) -> tuple[np.ndarray, Threads]:
    """What is left of the noise when all clients upload w itself."""
    threads = train_on_threads(replace(params, rounds=1), every=trained_host(standing_still), w=w, **options)
    return threads.state.w - w, threads


class Still(Clients):
    """Clients that do not train."""

    def train(self, clients: Any, round_: int, w: np.ndarray) -> list[np.ndarray]:
        return [w for _ in clients]


def standing_still(own: Clients) -> Clients:
    return Still(own.inputs, own.trainers, own.seed)


WIDE = "synthetic:m=240,d=500,density=0.1,test=50,classes=3"  # h = 141 003 with the MLP


@pytest.mark.parametrize("tau2", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("uneven", [False, True])
def test_theorem_2(tau2: float, uneven: bool) -> None:
    """Var of the aggregated noise = Σ σ_k² τ² within 3 %: 6 standard deviations of the estimate."""
    params = Params(clients=10, fraction=1.0, noise_std=0.3, share_count=8, tau_squared=tau2)
    if uneven:
        params = replace(params, noise_std=None, epsilon=500.0, partition="dirichlet")
    noise, threads = aggregated_noise(params, np.zeros(141_003), dataset=WIDE)
    rows = [len(p) for p in client_rows(params.partition, load(WIDE).y_train, 10, 0, params.dirichlet_alpha)]
    stds = [params.std(p, d) for p, d in zip(weights(rows), rows, strict=True)]
    assert (max(stds) > 1.5 * min(stds)) == uneven
    expected = sum(std**2 for std in stds) * tau2
    assert noise.var() == pytest.approx(expected, rel=0.03, abs=1e-24)
    assert abs(noise.mean()) <= 6 * np.sqrt(expected / noise.size)
    assert threads.outcomes[0].noise_std ** 2 == pytest.approx(expected, rel=1e-9, abs=1e-24)


def test_dp_fedavg_keeps_all_noise() -> None:
    params = Params("dp-fedavg", clients=10, fraction=1.0, noise_std=0.3)
    noise, threads = aggregated_noise(params, np.zeros(141_003), dataset=WIDE)
    assert noise.var() == pytest.approx(10 * 0.09, rel=0.03)
    assert threads.outcomes[0].noise_std ** 2 == pytest.approx(0.9)


# -- who is missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau2", [0.0, 0.5])
def test_the_round_says_how_much_noise_stays_when_clients_drop_out(tau2: float) -> None:
    params = Params(clients=12, fraction=1.0, noise_std=0.3, share_count=4, tau_squared=tau2, dropout=0.3)
    noise, threads = aggregated_noise(params, np.zeros(141_003), dataset=WIDE)
    (outcome,) = threads.outcomes
    assert 0 < outcome.arrived < outcome.sampled == 12
    assert {lost["reason"] for lost in outcome.lost} == {"dropped out"}
    assert len(outcome.lost) + outcome.arrived == 12
    assert outcome.noise_std > 0
    assert noise.var() == pytest.approx(outcome.noise_std**2, rel=0.03)


def test_when_all_drop_out_the_parameters_stay() -> None:
    threads = train_on_threads(replace(NISS, dropout=1.0, rounds=1))
    np.testing.assert_array_equal(threads.state.w, threads.start.w)
    assert threads.outcomes[0].arrived == 0
    assert threads.state.uploads.sum() == 6, "what might have been seen counts as spent"


def test_a_client_alone_keeps_its_noise() -> None:
    """With one client in each of 4 coalitions there is nobody to share with: v = 0."""
    params = Params(clients=4, fraction=1.0, noise_std=0.3, share_count=4, coalitions=4)
    noise, threads = aggregated_noise(params, np.zeros(141_003), dataset=WIDE)
    assert threads.outcomes[0].largest_shares == 0
    assert noise.var() == pytest.approx(4 * 0.09, rel=0.03)
    assert threads.outcomes[0].noise_std == pytest.approx(0.6)


def test_coalitions_share_among_themselves() -> None:
    params = Params(clients=12, fraction=1.0, rounds=1, epochs=1, noise_std=0.3, share_count=5, coalitions=4)
    threads = train_on_threads(params, 4, record_views=True)
    edges = [
        edge
        for rank in (2, 3, 4, 5)
        for _, m in threads.views(rank)
        if type(m).__name__ == "Shares"
        for edge in zip(m.senders.tolist(), m.receivers.tolist(), strict=True)
    ]
    assert len(edges) == 12 * 2  # v = 5 is lowered to the 2 others of a coalition of 3
    assert all(a % 4 == b % 4 for a, b in edges)
    assert threads.outcomes[0].largest_shares == 2


def with_nan(own: Clients) -> Clients:
    class Broken(Clients):
        def train(self, clients: Any, round_: int, w: np.ndarray) -> list[np.ndarray]:
            trained = super().train(clients, round_, w)
            return [w * np.nan if k == 4 and round_ == 1 else v for k, v in zip(clients, trained, strict=True)]

    return Broken(own.inputs, own.trainers, own.seed)


def test_an_upload_that_is_no_number_is_named_and_the_round_goes_on_without_it() -> None:
    params = replace(FEDAVG, fraction=1.0)
    threads = train_on_threads(params, every=trained_host(with_nan))
    assert [o.lost for o in threads.outcomes] == [
        [],
        [{"client": 4, "reason": "uploaded values that must be from -1.09951e+12 to 1.09951e+12"}],
        [],
    ]
    assert np.isfinite(threads.state.w).all()
    assert [o.arrived for o in threads.outcomes] == [12, 11, 12]
    shared = train_on_threads(replace(NISS, fraction=1.0), every=trained_host(with_nan))
    assert shared.outcomes[1].noise_std > 0.1, "the noise that was to cancel its own"
    assert shared.outcomes[0].noise_std == 0


def failing(ch: Channel) -> None:
    """A host that fails in round 1, and says so."""
    send = ch.send

    def sending(dest: int, message: Any) -> None:
        if isinstance(message, Uploads) and message.round == 1:
            raise RuntimeError("out of order")
        send(dest, message)

    ch.send = sending  # type: ignore[method-assign]
    try:
        trained_host()(ch)
    except RuntimeError as error:
        ch.fail(error)


@pytest.mark.parametrize("method", ["niss", "fedavg"])
def test_a_host_that_fails_is_gone_and_the_training_goes_on(method: str) -> None:
    params = replace(NISS, method=method, fraction=1.0)  # type: ignore[arg-type]
    threads = train_on_threads(params, roles={3: failing})
    assert [o.arrived for o in threads.outcomes] == [12, 8, 8]
    assert all("RuntimeError: out of order" in lost["reason"] for lost in threads.outcomes[1].lost)
    assert [lost["client"] for lost in threads.outcomes[2].lost] == [1, 4, 7, 10]
    if method == "niss":
        assert [o.noise_std > 0 for o in threads.outcomes] == [False, True, False]


def test_without_any_host_the_training_ends() -> None:
    with pytest.raises(TooFewWorkers, match="round 1: uploads must come from at least 1 host, got 0: host"):
        train_on_threads(replace(FEDAVG, fraction=1.0), 2, roles={2: failing, 3: failing})


# -- who lies -----------------------------------------------------------------------------------------------------


def sending(change: Any) -> Any:
    def play(ch: Channel) -> None:
        send = ch.send
        ch.send = lambda dest, message: send(dest, change(message))  # type: ignore[method-assign]
        trained_host()(ch)

    return play


def test_uploads_of_others_are_refused() -> None:
    def change(message: Any) -> Any:
        if isinstance(message, Uploads):
            return Uploads(message.round, message.clients + np.uint32(1), message.values)
        return message

    threads = train_on_threads(replace(FEDAVG, fraction=1.0, rounds=1), roles={3: sending(change)})
    assert "Uploads from rank 3 must be of clients" in str(threads.channels[0].departed[3])
    assert threads.outcomes[0].arrived == 8


def test_shares_that_were_tampered_with_are_left_out() -> None:
    def change(message: Any) -> Any:
        if type(message).__name__ == "Shares":
            sealed = message.sealed.copy()
            sealed[0, 0] ^= 1
            return type(message)(message.round, message.senders, message.receivers, sealed)
        return message

    everybody_shares = replace(NISS, fraction=1.0, rounds=1, share_count=11)
    threads = train_on_threads(everybody_shares, roles={3: sending(change)})
    gone = [str(e) for rank in (2, 4) for e in threads.channels[rank].departed.values()]
    assert len(gone) == 2
    assert all("host (rank 3) broke the protocol: an envelope must be sealed by its sender" in text for text in gone)
    assert threads.outcomes[0].arrived == 12


def test_a_tracker_that_makes_up_clients_is_refused() -> None:
    def lying(ch: Channel) -> None:
        send = ch.send

        def change(dest: int, message: Any) -> None:
            if type(message).__name__ == "Neighbours":
                message = replace(message, receivers=message.senders)
            send(dest, message)

        ch.send = change  # type: ignore[method-assign]
        plain_tracker(ch)

    with pytest.raises((ProtocolError, PeerFailed, TooFewWorkers), match="different shares between different clients"):
        train_on_threads(replace(NISS, fraction=1.0, rounds=1), roles={1: lying})


# -- options ------------------------------------------------------------------------------------------------------


def test_clipping_the_update_bounds_it() -> None:
    w = np.zeros(4)
    np.testing.assert_allclose(clipped(np.array([3.0, 0, 4, 0]), w, 1.0), [0.6, 0, 0.8, 0])
    np.testing.assert_array_equal(clipped(np.array([0.3, 0, 0.4, 0]), w, 1.0), [0.3, 0, 0.4, 0])
    params = replace(FEDAVG, clipping="update", clip=0.01, fraction=1.0, rounds=1)
    threads = train_on_threads(params)
    assert np.linalg.norm(threads.state.w - threads.start.w) <= 0.01 + 1e-9
    free = train_on_threads(replace(params, clip=100.0))
    assert np.linalg.norm(free.state.w - free.start.w) > 0.02


OPTIONS = ["--dataset", SYNTHETIC, "--clients", 12, "--epochs", 1, "--rounds", 6, "--noise-std", 0.3, "--quiet"]


def test_a_run_leaves_its_folder(tmp_path: Path) -> None:
    command_on_threads(3, *OPTIONS, "--tau-squared", 0.5, "--out", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "result.json").read_text())
    assert summary["system"] == "niss"
    assert summary["roles"] == {"server": 1, "tracker": 1, "host": 3}
    assert set(summary["seconds"]) >= {"startup", "encode", "communicate", "compute", "decode", "total", "round"}
    assert summary["bytes"]["sent"]["tracker"] > 0
    assert summary["privacy"]["upload"]["prv"] <= summary["privacy"]["upload"]["rdp"]
    assert summary["privacy"]["model"]["rdp"] is not None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(7))
    assert all(a["epsilon_upload"] <= b["epsilon_upload"] for a, b in pairwise(lines))
    assert sum(array.size for array in read_arrays(tmp_path / "run").values()) == summary["params"]["parameters"]
    command_on_threads(3, "--config", tmp_path / "run" / "config.toml", "--tau-squared", 0, "--out", tmp_path / "two")
    assert json.loads((tmp_path / "two" / "result.json").read_text())["privacy"]["model"]["rdp"] is None


def test_the_line_about_epsilon_says_what_it_is_of() -> None:
    """Mutation: what it was, ε = 67 below --epsilon 10 without a word of what either is of."""
    said = [NissWords.together(SimpleNamespace(params=p), 9) for p in (Params(), Params(noise_std=0.1))]  # type: ignore[arg-type]
    assert said == [
        "the 9 uploads of one client together (--epsilon 10 is of each)",
        "the 9 uploads of one client together",
    ]


def test_a_run_stops_before_it_spends_more_than_its_budget(tmp_path: Path) -> None:
    options = [*OPTIONS, "--noise-std", 0.02, "--fraction", 1.0]
    command_on_threads(3, *options, "--out", tmp_path / "free")
    spent = json.loads((tmp_path / "free" / "result.json").read_text())["privacy"]["upload"]["rdp"]
    limit = 0.6 * spent
    command_on_threads(3, *options, "--max-epsilon", limit, "--out", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 < summary["metrics"]["rounds"] < 6
    assert summary["privacy"]["upload"]["rdp"] <= limit
    assert f"stopped after round {summary['metrics']['rounds']}" in summary["metrics"]["stopped"]


@pytest.mark.parametrize("factor", [0.0, 0.25, 4.0])
def test_a_tracker_that_changes_the_noise_is_left(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = tracking.neighbours

    def lying(*arguments: Any) -> Any:
        told = honest(*arguments)
        return replace(told, variances=told.variances * factor)

    monkeypatch.setattr(tracking, "neighbours", lying)
    with pytest.raises(ProtocolError, match=r"the tracker must leave client \d its noise of variance 0\.09, got"):
        train_on_threads(Params(rounds=2, noise_std=0.3, clients=12), timeout_seconds=5.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-epsilon", "0.01"], r"--max-epsilon must allow one round, which spends ε = \d"),
        (["--delta", "1e-15", "--noise-std", "0.02"], "the prv accountant must be able to compose the noise"),
    ],
)
def test_a_budget_that_no_round_fits_is_refused_before_training(options: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        command_on_threads(3, *OPTIONS, *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()


def test_the_model_is_there_whatever_fails_behind_the_training(tmp_path: Path, monkeypatch: Any) -> None:
    def fail(self: NissTraining) -> dict[str, Any]:
        raise UsageError("no summary")

    monkeypatch.setattr(NissTraining, "own", fail)
    with pytest.raises(UsageError, match="no summary"):
        command_on_threads(3, *OPTIONS, "--out", tmp_path / "run")
    assert len(load_model(tmp_path / "run").classes_)


@pytest.mark.parametrize("method", ["niss", "fedavg"])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "run"
    command_on_threads(3, *OPTIONS, "--method", method, "--out", folder, "--checkpoint-every", 2)
    expected = read_arrays(folder)
    (folder / "result.json").unlink()
    for name in ("000006.npz", "000004.npz.sha256", "000002.npz"):
        (folder / "checkpoints" / name).unlink()
    with pytest.raises(UsageError, match="must name the folder of a run that holds a whole checkpoint"):
        command_on_threads(3, "--resume", folder)
    command_on_threads(3, *OPTIONS, "--method", method, "--out", tmp_path / "two", "--checkpoint-every", 2)
    (tmp_path / "two" / "result.json").unlink()
    for name in ("000006.npz", "000006.npz.sha256"):
        (tmp_path / "two" / "checkpoints" / name).unlink()
    command_on_threads(2, "--resume", tmp_path / "two")  # on other ranks
    for name, array in read_arrays(tmp_path / "two").items():
        np.testing.assert_array_equal(array, expected[name])
    summary = json.loads((tmp_path / "two" / "result.json").read_text())
    assert summary["resumed_from"] == 4
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(7))


def test_another_configuration_is_refused_by_its_key(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command_on_threads(3, *OPTIONS, "--out", folder, "--checkpoint-every", 2)
    (folder / "result.json").unlink()
    for options, key in ((["--epochs", 7], "epochs"), (["--clients", 13], "clients"), (["--seed", 1], "seed")):
        with pytest.raises(UsageError, match=f"--resume must keep {key} as the run began"):
            command_on_threads(3, "--resume", folder, *options)


def test_dry_run_says_roles_bytes_and_epsilon(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command_on_threads(3, *OPTIONS, "--dry-run", "--share-count", 30, "--out", tmp_path / "run")
    said = capsys.readouterr().out
    for text in (
        "30 shares are wanted, but at most 9 other clients are there",
        "rank 1: tracker",
        "9 of 32 bytes",
        "uploads of one client together: ",
        "of the published models: inf",
    ):
        assert text in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("clients", "asked"), [(1, 1), (3, 3), (10, 10), (12, 10), (40, 12), (100, 30)])
def test_without_a_fraction_a_round_has_enough_clients_for_noise_to_cancel(clients: int, asked: int) -> None:
    assert Params().clients_per_round(clients) == asked
    assert Params(fraction=0.3).clients_per_round(clients) == max(int(0.3 * clients), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clients", 1], "shares noise with nobody, and all of it stays"),
        (["--clients", 2], "shares its noise with one other, which knows all of it"),
        (["--clients", 12, "--dropout", 0.5], "noise of clients that were lost did not cancel"),
        (["--clients", 12], None),
    ],
)
def test_where_noise_stays_or_is_known_a_warning_is_kept(options: list[Any], said: str | None, tmp_path: Path) -> None:
    command_on_threads(3, *OPTIONS, *options, "--out", tmp_path / "run")
    warnings = json.loads((tmp_path / "run" / "result.json").read_text())["warnings"]
    about = [text for text in warnings if "noise" in text]
    assert len(about) == (said is not None)
    assert said is None or said in about[0]


def test_noise_that_nobody_shares_is_said_to_stay(capsys: pytest.CaptureFixture[str]) -> None:
    for clients, alone in ((5, True), (7, False)):  # m = 1 and 2 of them
        command_on_threads(3, *OPTIONS, "--dry-run", "--clients", clients, "--fraction", 0.3)
        assert ("all of it stays: raise --fraction or --clients, got 1 of 5" in capsys.readouterr().out) == alone


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--clients", 300], "every client must have a row, got 240 rows for 300 clients"),
        (["--model", "torch.nn:Identity", "--config", "CONFIG"], "must be a torch.nn.Module with parameters"),
        (["--inject", "kill=3"], "--inject must not be given"),
        (["--record-views"], "--record-views must stand on the command line, together with --out"),
        (["--dataset", SYNTHETIC.replace("d=16", "d=17"), "--model", "cnn"], "a CNN must have images"),
        (["--device", "abacus"], "--device must be one that torch can use, got abacus"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: list[Any], text: str) -> None:
    (tmp_path / "c.toml").write_text("rounds = 1\n")
    options = [tmp_path / "c.toml" if option == "CONFIG" else option for option in options]
    with pytest.raises((UsageError, PeerFailed)) as error:
        command_on_threads(3, *OPTIONS, *options)
    assert text in str(error.value)


def test_a_model_by_import_path_must_stand_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('model = "torch.nn:Linear"\n')
    with pytest.raises(UsageError, match=r"--model torch\.nn:Linear must stand on the command line"):
        command_on_threads(3, *OPTIONS, "--config", tmp_path / "c.toml")


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'torch must be installed for niss: pip install "fedmpi\[torch\]"'):
        require("niss", "torch")


def test_two_ranks_are_too_few() -> None:
    with pytest.raises(UsageError, match="there must be at least 3 ranks"):
        command_on_threads(0, *OPTIONS)
