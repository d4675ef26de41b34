"""Training with secret polarization networks: the protocol equals one loop, and learns."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmpi.crypto.random import SecretStream
from fedmpi.errors import UsageError
from fedmpi.federated.messages import Ready, Setup, setup, stop
from fedmpi.net import Channel
from fedmpi.net.local import run_local
from fedmpi.runs.job import Job
from fedmpi.runs.model import load_model, read_arrays
from fedmpi.spn import SYSTEM
from fedmpi.spn.client import Clients
from fedmpi.spn.params import Params
from fedmpi.spn.plain import train
from fedmpi.spn.protocol import State, Watch, host, server

CLIENTS = 4
DATA = {"max_rows": 200}


def job(**values: Any) -> Job[Params]:
    return Job(
        replace(Params(model="dlnet-tanh", rounds=2, clients=CLIENTS, dtype="float64"), **values), "digits", DATA, 1
    )


def repeatable() -> Callable[[], SecretStream]:
    """Streams with keys 0, 1, 2, …: insecure, for comparisons."""

    def keys() -> Iterator[bytes]:
        number = 0
        while True:
            yield number.to_bytes(32, "big")
            number += 1

    key = keys()
    return lambda: SecretStream(next(key))


def federated(
    task: Job[Params], hosts: int, watch: Watch | None = None, secret: Callable[[], SecretStream] = SecretStream
) -> tuple[State, list[Clients]]:
    own = [Clients.load(task, number, hosts, CLIENTS, 1, secret) for number in range(hosts)]
    G = own[0].workers[0].flat.read()
    copies = CLIENTS if task.params.method == "standalone" else 1

    def serve(ch: Channel) -> State:
        setup(ch, task.to_json(), CLIENTS)
        start = State(0, np.repeat(G[None], copies, axis=0))
        state = server(ch, task.params, CLIENTS, start, watch or Watch())
        stop(ch)
        return state

    def follow(clients: Clients) -> Callable[[Channel], None]:
        def role(ch: Channel) -> None:
            ch.recv(0, Setup)
            host(ch, clients)

        return role

    return run_local([serve, *(follow(clients) for clients in own)])[0], own


@pytest.mark.parametrize("aggregation", ["fedavg", "round-robin"])
@pytest.mark.parametrize("method", ["fedavg", "ppdl"])
def test_messages_change_nothing(method: str, aggregation: str) -> None:
    task = job(method=method, aggregation=aggregation)
    found = [federated(task, hosts)[0].G[0] for hosts in (1, 3)]
    expected = train(task, CLIENTS)
    assert np.allclose(found[0], expected, rtol=0, atol=1e-12)
    assert (found[0] == found[1]).all()
    if method == "fedavg":
        other = train(replace(task, params=replace(task.params, aggregation="fedavg", epochs=2)), CLIENTS)
        assert not np.allclose(found[0], other)


@pytest.mark.parametrize("method", [{"method": "spn"}, {"method": "dp", "noise_std": 0.01}])
def test_secrets_change_the_model_and_nothing_else_does(method: dict[str, Any]) -> None:
    task = job(**method)
    one = federated(task, 1, secret=repeatable())[0].G[0]
    assert np.allclose(one, train(task, CLIENTS, repeatable()), rtol=0, atol=1e-12)
    assert not np.allclose(one, federated(task, 1)[0].G[0], rtol=0, atol=1e-6)


def test_without_weight_the_secret_network_changes_nothing() -> None:
    silent, plain = (federated(job(**v), 2)[0].G for v in ({"method": "spn", "alpha2": 0.0}, {"method": "fedavg"}))
    assert np.allclose(silent, plain, rtol=0, atol=1e-12)


def test_the_secret_networks_learn_their_codes() -> None:
    task = job(method="spn", rounds=12, learning_rate=0.01, alpha2=0.5)
    _, own = federated(task, 1)
    fresh = Clients.load(task, 0, 1, CLIENTS, 1)

    def loss(clients: Clients) -> float:
        total = 0.0
        for k, inputs in clients.inputs.items():
            with torch.no_grad():
                total += float(clients.private[k](own[0].workers[0].backbone(inputs.X), inputs.y))
        return total

    assert loss(own[0]) < 0.7 * loss(fresh)


def test_standalone_clients_share_nothing() -> None:
    state, _ = federated(job(method="standalone"), 2)
    assert state.G.shape[0] == CLIENTS
    alone = train(job(method="fedavg"), CLIENTS)
    assert not np.allclose(state.G[0], state.G[1])
    assert not np.allclose(state.G[0], alone)


def test_a_change_that_is_no_number_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    update = Clients.update

    def spoiled(self: Clients, clients: list[int], round_: int, starts: np.ndarray) -> np.ndarray:
        values = update(self, clients, round_, starts)
        values[[k == 2 for k in clients]] = np.nan
        return values

    monkeypatch.setattr(Clients, "update", spoiled)
    lost: list[dict[str, Any]] = []
    state, _ = federated(job(method="fedavg", rounds=1), 2, Watch(after=lambda state, missing: lost.extend(missing)))
    assert np.isfinite(state.G).all()
    assert [entry["client"] for entry in lost] == [2]


def test_a_host_that_answers_for_others_is_refused() -> None:
    from fedmpi.spn.protocol import Changes, Round

    lost: list[dict[str, Any]] = []

    def serve(ch: Channel) -> None:
        setup(ch, "{}", 1)
        server(
            ch,
            Params(rounds=1),
            1,
            State(0, np.zeros((1, 3))),
            Watch(after=lambda state, missing: lost.extend(missing)),
        )

    def liar(ch: Channel) -> None:
        ch.send(0, Ready(np.array([0], np.uint32), np.array([5], np.uint64)))
        ch.recv(0, Round)
        ch.send(0, Changes(0, 0, np.array([1], np.uint32), np.zeros((1, 3))))

    run_local([serve, liar])
    assert "Changes from rank 1 must be of clients [0], got [1]" in lost[0]["reason"]


def test_learning_rate_is_halved() -> None:
    params = Params(learning_rate=0.8, decay_rounds=(100, 200))
    assert [params.learning_rate_of(t) for t in (0, 99, 100, 199, 200, 299)] == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"margin": 0.5},
        {"alpha2": -1.0},
        {"share_fraction": 0.0},
        {"noise_std": 0.1},
        {"method": "dp"},
        {"learning_rate": 0.0},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="must"):
        Params(**wrong)


def test_command_trains_stops_and_goes_on(mpirun: Callable[..., Any], tmp_path: Path) -> None:
    options = ["-m", "fedmpi.spn", "--clients", "3", "--model", "dlnet-tanh", "--max-rows", "150", "--quiet"]
    out = tmp_path / "run"
    done = mpirun(3, *options, "--method", "fedavg", "--rounds", "2", "--checkpoint-every", "1", "--out", out)
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "result.json").read_text())
    assert summary["system"] == "spn"
    assert summary["metrics"]["rounds"] == 2
    assert 0 <= summary["metrics"]["test_accuracy"] <= 1
    expected = np.concatenate([array.reshape(-1) for array in read_arrays(out).values()])
    (out / "result.json").unlink()  # as if it had been stopped after the first round
    (out / "checkpoints" / "000002.npz").unlink()
    SYSTEM.on_threads(2, [*options[2:], "--resume", out])  # on fewer hosts, and on threads
    assert (np.concatenate([array.reshape(-1) for array in read_arrays(out).values()]) == expected).all()


@pytest.mark.parametrize(("dataset", "model"), [("digits", "dlnet"), ("table.csv", "mlp")])
def test_the_model_fits_the_rows_where_none_is_named(dataset: str, model: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b,label\n" + "".join(f"{k % 7},{k % 11},{k % 2}\n" for k in range(80)))
    file = table if dataset == table.name else dataset
    SYSTEM.on_threads(3, ["--dataset", file, "--max-rows", 60, "--rounds", 1, "--quiet", "--out", tmp_path / "run"])
    assert load_model(tmp_path / "run").card["architecture"] == model
    SYSTEM.on_threads(3, ["--resume", tmp_path / "run", "--rounds", 2])
