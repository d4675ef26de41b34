"""PBPFL: the same weights as training in the clear, whoever is lost; checkpoints; peers that break the protocol."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocol.pbpfl_threads import failing_at, host, train

from fedmpi.errors import HeadroomError, Interrupted, TooFewWorkers, UsageError
from fedmpi.net import Channel
from fedmpi.pbpfl import SYSTEM, command, protocol
from fedmpi.pbpfl.messages import Terms
from fedmpi.pbpfl.params import Params
from fedmpi.runs.options import RunOptions


@pytest.mark.parametrize("method", ["pbpfl", "pbpfl-masked"])
@pytest.mark.parametrize("model", ["mlp-3", "cnn"])
def test_weights_are_those_of_federated_averaging(method: str, model: str, tmp_path: Path) -> None:
    """50 rounds in float64, within 1e-6; clients of different sizes."""
    options = ["--model", model, "--clients", "3", "--partition", "dirichlet"]
    if model == "cnn":
        options += ["--rounds", "6"]
    private = train(tmp_path / "private", "--method", method, *options)
    clear = train(tmp_path / "clear", "--method", "fedavg-mse", *options)
    assert np.abs(private.w - clear.w).max() <= 1e-6
    first = train(tmp_path / "first", "--method", "fedavg-mse", *options, "--rounds", "1")
    assert np.abs(first.w - clear.w).max() > 1e-3


@pytest.mark.parametrize("method", ["pbpfl", "pbpfl-masked"])
def test_hosts_without_clients(method: str, tmp_path: Path) -> None:
    left = train(tmp_path / "run", "--method", method, "--clients", "2", "--rounds", "2", hosts=3)
    assert left.result["failures"] == []


def test_weights_do_not_depend_on_the_number_of_hosts(tmp_path: Path) -> None:
    options = ["--clients", "4", "--rounds", "10"]
    one, three = (train(tmp_path / f"clear{n}", "--method", "fedavg-mse", *options, hosts=n) for n in (1, 3))
    np.testing.assert_allclose(one.w, three.w, rtol=0, atol=1e-14)  # the order of a sum
    assert np.abs(train(tmp_path / "private", *options, hosts=3).w - one.w).max() < 1e-9


def test_the_mutation_that_the_equality_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recover = protocol.recover
    monkeypatch.setattr(protocol, "recover", lambda s, terms, noise: recover(s, terms * [[1], [1 + 1e-6], [1]], noise))
    wrong = train(tmp_path / "wrong", "--clients", "3", "--rounds", "5")
    monkeypatch.undo()
    assert (
        np.abs(wrong.w - train(tmp_path / "clear", "--method", "fedavg-mse", "--clients", "3", "--rounds", "5").w).max()
        > 1e-5
    )


def test_cross_entropy_and_values(tmp_path: Path) -> None:
    ce = train(tmp_path / "ce", "--method", "fedavg-ce", "--learning-rate", "0.3")
    assert ce.result["metrics"]["test_accuracy"] > 0.3
    with pytest.raises(UsageError, match="--target must be classes with --method fedavg-ce, got value"):
        train(tmp_path / "no", "--method", "fedavg-ce", "--target", "value")


def test_the_clients_use_the_final_model_without_its_weights(tmp_path: Path) -> None:
    """What they find on their rows is what the server's weights give, though they have others."""
    left = train(tmp_path / "run", "--clients", "3", record=True)
    options = RunOptions(dataset="digits", max_rows=200)
    session = command.PbpflTraining(SYSTEM, left.channels[0], command.Params(dtype="float64", clients=3), options)
    session.load()
    training = session.problem.training(np.arange(200))
    session.flat.load(left.w)
    errors, right = command.evaluate(session.flat.model, training)
    metrics = left.result["metrics"]
    assert metrics["clients_mse"] == pytest.approx(errors / training.targets.numel(), rel=1e-9)
    assert metrics["clients_accuracy"] == right / 200
    (final,) = left.views(1, "Final")
    given = final.w.view("<f8")
    assert np.abs(given - left.w).max() > 0.1


# -- bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "up"),
    [
        (["--method", "fedavg-mse"], 1),
        (["--method", "pbpfl"], 3),
        (["--method", "pbpfl", "--dtype", "float64"], 3),
        (["--method", "pbpfl", "--gamma-range", "0", "0"], 1),
        (["--method", "pbpfl-masked"], 6),
        (["--method", "pbpfl-masked", "--gamma-range", "0", "0"], 2),
        (["--method", "pbpfl-masked", "--ring-bits", "32"], 3),
    ],
)
def test_bytes_are_those_of_the_paper(options: list[str], up: int, tmp_path: Path) -> None:
    left = train(tmp_path / "run", "--dtype", "float32", "--rounds", "3", "--clients", "2", *options)
    traffic = left.result["metrics"]["communication"]
    assert traffic["server_to_client"] == pytest.approx(1, abs=0.01)
    assert traffic["client_to_server"] == pytest.approx(up, abs=0.01)


# -- clients that are lost ----------------------------------------------------------------------------------------


def test_masked_sums_without_the_lost_are_those_of_the_survivors(tmp_path: Path) -> None:
    """Clients are lost after they have shared their secrets, and in every round others."""
    options = ["--clients", "5", "--dropout", "0.3", "--rounds", "20", "--threshold", "2"]
    masked = train(tmp_path / "masked", "--method", "pbpfl-masked", *options)
    clear = train(tmp_path / "clear", "--method", "fedavg-mse", *options)
    assert np.abs(masked.w - clear.w).max() <= 1e-6
    lost = [(failure["round"], failure["client"]) for failure in masked.result["failures"]]
    assert lost == [(failure["round"], failure["client"]) for failure in clear.result["failures"]]
    assert 10 < len(lost) < 50
    whole = train(tmp_path / "whole", "--method", "fedavg-mse", *options, "--dropout", "0")
    assert np.abs(whole.w - clear.w).max() > 1e-4


@pytest.mark.parametrize("message", ["Keys", "Envelopes", "Masked", "Revealed", "Terms"])
def test_training_outlives_a_host(message: str, tmp_path: Path) -> None:
    """Wherever in a round it fails; what has come of its clients by then counts."""
    method = "pbpfl" if message == "Terms" else "pbpfl-masked"
    options = ["--method", method, "--clients", "6", "--rounds", "8", "--threshold", "3"]
    left = train(tmp_path / "run", *options, hosts=3, roles={2: failing_at(message, 3)})
    lost = {(failure["round"], failure["client"]) for failure in left.result["failures"]}
    first = 4 if message == "Revealed" else 3
    assert lost == {(t, k) for t in range(first, 8) for k in (1, 4)}
    whole = train(tmp_path / "whole", "--method", "fedavg-mse", *options[2:])
    assert 1e-7 < np.abs(left.w - whole.w).max() < 0.1
    if method == "pbpfl":
        lossy = train(
            tmp_path / "lossy", "--method", "fedavg-mse", *options[2:], hosts=3, roles={2: failing_at("Terms", 3)}
        )
        assert np.abs(left.w - lossy.w).max() <= 1e-6


def test_too_few_clients_end_the_training_with_a_checkpoint(tmp_path: Path) -> None:
    options = ["--method", "pbpfl-masked", "--clients", "4", "--threshold", "3"]
    with pytest.raises(
        TooFewWorkers, match=r"round 3 must have at least 3 clients, got 2; host \(rank 2\) failed"
    ) as error:
        train(tmp_path / "run", *options, roles={2: failing_at("Masked", 3)})
    assert f"go on after round 3 with --resume {tmp_path / 'run'}" in str(error.value)
    resumed = train(tmp_path / "run", *options, "--resume", str(tmp_path / "run"))
    clear = train(tmp_path / "clear", "--method", "fedavg-mse", "--clients", "4")
    assert np.abs(resumed.w - clear.w).max() <= 1e-6
    assert resumed.result["resumed_from"] == 3


def silent(ch: Channel, argv: list[str]) -> None:
    """A host that hangs once it has its rows."""
    send = ch.send
    ch.send = lambda dest, message: None if isinstance(message, Terms) else send(dest, message)  # type: ignore[method-assign]
    host(ch, argv)


def test_a_host_that_says_nothing_departs(tmp_path: Path) -> None:
    left = train(tmp_path / "run", "--clients", "2", "--rounds", "3", roles={2: silent}, timeout=3)
    assert {failure["client"] for failure in left.result["failures"]} == {1}
    assert "sent no Terms for 3 s" in str(left.channels[0].departed[2])


def sending(change: Any) -> Any:
    """A host whose terms are changed on their way."""

    def changing(ch: Channel, argv: list[str]) -> None:
        send = ch.send
        ch.send = lambda dest, m: send(dest, change(m) if isinstance(m, Terms) else m)  # type: ignore[method-assign]
        host(ch, argv)

    return changing


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: Terms(m.round, m.clients - 1, m.shifts, m.values), "Terms must be of its own clients, got [0]"),
        (
            lambda m: Terms(m.round, m.clients.repeat(2), m.shifts.repeat(2), m.values.repeat(2, 0)),
            "a list without anything twice, got array([1, 1]",
        ),
        (lambda m: Terms(m.round, m.clients, m.shifts, m.values.repeat(2, 0)), "must be of its own clients, got [1]"),
        (lambda m: Terms(m.round, m.clients, m.shifts, m.values[:, 8:]), "Terms.values from rank 2 must have shape"),
    ],
)
def test_a_host_that_breaks_the_protocol_departs(change: Any, text: str, tmp_path: Path) -> None:
    left = train(tmp_path / "run", "--clients", "2", "--rounds", "3", roles={2: sending(change)})
    assert text in str(left.channels[0].departed[2])
    assert left.result["metrics"]["rounds"] == 3


# -- checkpoints --------------------------------------------------------------------------------------------------


def stopping(round_: int) -> Any:
    """A server that gets SIGTERM in a round."""

    def role(ch: Channel, argv: list[str]) -> None:
        def check() -> None:
            if ch.meter.messages_sent["Round"] > 2 * round_:
                raise Interrupted("stopped by SIGTERM", 143)

        ch.on_pause = check
        SYSTEM.lead(ch, argv)

    return role


@pytest.mark.parametrize("method", ["fedavg-mse", "pbpfl-masked"])
def test_a_run_that_was_stopped_goes_on(method: str, tmp_path: Path) -> None:
    options = ["--clients", "3", "--method", method, "--rounds", "12", "--evaluate-every", "1"]
    whole = train(tmp_path / "whole", *options)
    with pytest.raises(Interrupted, match="go on after round") as error:
        train(tmp_path / "run", *options, roles={0: stopping(5)})
    assert error.value.exit_code == 143
    with pytest.raises(UsageError, match="--resume must keep learning_rate"):
        train(tmp_path / "run", *options, "--learning-rate", "0.3", "--resume", str(tmp_path / "run"))
    resumed = train(tmp_path / "run", *options, "--resume", str(tmp_path / "run"))
    np.testing.assert_allclose(resumed.w, whole.w, rtol=0, atol=0 if method == "fedavg-mse" else 1e-9)
    assert resumed.result["resumed_from"] in (4, 5, 6)
    lines = [line["iteration"] for line in map(json.loads, (tmp_path / "run/metrics.jsonl").open())]
    assert lines == list(range(13))


def test_a_checkpoint_holds_no_secret(tmp_path: Path) -> None:
    train(tmp_path / "run", "--clients", "2", "--rounds", "4", "--checkpoint-every", "2")
    with np.load(tmp_path / "run/checkpoints/000004.npz") as file:
        assert sorted(file.files) == ["state", "w"]
        state = file["state"].tobytes().decode()
    assert all(name not in state for name in ("r_a", "mask", "key"))


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--method", "pbpfl-masked", "--clients", "1"], "must have at least 2 clients, got 1"),
        (["--method", "pbpfl-masked", "--clients", "3", "--threshold", "4"], "must have at least 4 clients, got 3"),
        (["--target", "value", "--partition", "shards"], "--partition must be iid where the label is a value"),
        (["--inject", "kill=1"], "--inject must not be given: pbpfl has --dropout"),
        (["--model", "mlp-4"], "--model must be one of mlp, cnn, dlnet"),
        (["--model", "resnet20", "--dataset", "synthetic:m=50,d=6,density=0.5"], "a ResNet must have images"),
    ],
)
def test_options_that_cannot_be_are_refused(options: list[str], text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=text):
        train(tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"threshold": 1}, "--threshold must be at least 2, got 1"),
        ({"gamma_range": (2.0, 1.0)}, r"--gamma-range must be two positive numbers in order, or 0 0, got 2.0 1.0"),
        ({"scaling": 0.5}, "--scaling must be at least 1, got 0.5"),
        ({"ring_bits": 32, "fraction_bits": 31}, r"--fraction-bits must be in \[0, 30\], got 31"),
        ({"dropout": 1.0}, r"--dropout must be in \[0, 1\), got 1"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive, got 0"),
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Params(**values)


def test_terms_that_do_not_fit_in_the_ring_end_the_training(tmp_path: Path) -> None:
    options = ["--method", "pbpfl-masked", "--clients", "2", "--ring-bits", "32", "--fraction-bits", "30"]
    with pytest.raises(HeadroomError, match=r"the term of coordinate \d+ must be below 2\^63/\(N·2\^f\)"):
        train(tmp_path / "run", *options)


def test_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"got (none|others): the training diverges"):
        train(tmp_path / "run", "--method", "fedavg-mse", "--learning-rate", "1e9", "--dtype", "float32")


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path / "run", "--dry-run", "--method", "pbpfl-masked", "--clients", "4")
    said = capsys.readouterr().out
    assert "2 hosts" not in said
    assert "of 4 clients, see the model up to a positive scaling of its units" in said
    assert "(3.0 x the model)" in said  # 64-bit words, float64
    assert "at least 3 clients must be left" in said
