"""What never leaves a client of SPN: its polarization layers and its targets; mutations that send them are seen."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fedmpi.attacks import case
from fedmpi.attacks.gradients import gradient_of
from fedmpi.attacks.params import Params as Attack
from fedmpi.crypto.random import SecretStream
from fedmpi.federated.messages import Ready, Setup, setup, stop
from fedmpi.net import Channel, Message
from fedmpi.net.local import run_local
from fedmpi.runs.job import Job
from fedmpi.spn.client import Clients
from fedmpi.spn.params import Params
from fedmpi.spn.protocol import Changes, State, Watch, host, server

CLIENTS = 3
JOB = Job(Params(model="dlnet-tanh", rounds=2, clients=CLIENTS, bits=40), "digits", {"max_rows": 90}, 0)


def views() -> tuple[list[Message], Clients]:
    """All that the server received, and the clients it received it from."""
    own = Clients.load(JOB, 0, 1, CLIENTS, 1)
    received: list[Message] = []

    def serve(ch: Channel) -> None:
        setup(ch, JOB.to_json(), CLIENTS)
        server(ch, JOB.params, CLIENTS, State(0, own.workers[0].flat.read()[None]), Watch())
        stop(ch)
        received.extend(message for _, message in ch._views)

    def follow(ch: Channel) -> None:
        ch.recv(0, Setup)
        host(ch, own)

    run_local([serve, follow], record_views=True)
    return received, own


def numbers(messages: Sequence[Message]) -> np.ndarray:
    """All numbers in the arrays of all messages, in order."""
    arrays = [
        np.asarray(value, np.float64).reshape(-1) for m in messages for value in vars(m).values() if np.ndim(value)
    ]
    return np.concatenate(arrays)


def leaked(messages: Sequence[Message], own: Clients) -> list[str]:
    """What of the secrets stands in the messages: weights as they are or negated, targets as signs."""
    sent = numbers(messages)
    found = []
    for k, private in own.private.items():
        weights = np.concatenate([p.detach().double().numpy().reshape(-1) for p in private.parameters()])
        weights = weights[np.abs(weights) > 0.02]  # a change is smaller, and can't equal them by chance
        if np.isin(np.abs(weights), np.abs(sent)).sum() > 2:
            found.append(f"weights of {k}")
        signs = (sent > 0).astype(np.uint8).tobytes()
        if any((code > 0).numpy().astype(np.uint8).tobytes() in signs for code in private.targets):
            found.append(f"targets of {k}")
    return found


def test_no_secret_is_in_any_frame() -> None:
    messages, own = views()
    assert {type(m).__name__ for m in messages} == {"Ready", "Changes", "Report"}
    assert all(m.values.shape == (CLIENTS, own.parameters) for m in messages if isinstance(m, Changes))
    assert leaked(messages, own) == []


Update = Callable[[Clients, Sequence[int], int, np.ndarray], np.ndarray]


def with_weights(own: Clients, values: np.ndarray) -> None:
    weights = own.private[0].layers[0].weight.detach().double().numpy().reshape(-1)
    values[0, :100] = weights[:100]


def with_targets(own: Clients, values: np.ndarray) -> None:
    values[1, 7:47] = 1e-3 * own.private[1].targets[4].double().numpy()


@pytest.mark.parametrize(("mutation", "secret"), [(with_weights, "weights of 0"), (with_targets, "targets of 1")])
def test_a_client_that_sends_its_secrets_is_seen(
    mutation: Callable[[Clients, np.ndarray], None], secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    update: Update = Clients.update

    def leaking(self: Clients, clients: Sequence[int], round_: int, starts: np.ndarray) -> np.ndarray:
        values = update(self, clients, round_, starts)
        mutation(self, values)
        return values

    monkeypatch.setattr(Clients, "update", leaking)
    messages, own = views()
    assert secret in leaked(messages, own)


def test_messages_have_no_place_for_secrets() -> None:
    fields: dict[str, Any] = {cls.__name__: sorted(cls._types) for cls in (Ready, Changes)}
    assert fields == {"Ready": ["clients", "rows"], "Changes": ["clients", "round", "turn", "values"]}


def test_checkpoints_hold_no_secret() -> None:
    """State, all that a checkpoint is made from, has the public model only."""
    assert list(State.__dataclass_fields__) == ["round", "G"]


def ratio(model: str, seeds: int, **options: Any) -> float:
    """Mean ‖B_I‖/‖E_B‖ of fresh models at α₂ = 0.1, of images of noise."""
    attack, y = Attack(defence="spn", model=model, **options), torch.tensor([3])
    found = []
    for seed in range(seeds):
        fresh = case.fresh_model(attack, (3, 32, 32), 10, seed)
        X = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
        secret = SecretStream(seed.to_bytes(32, "big"))
        found.append(case.ratio(gradient_of(fresh, X, y), case.share(attack, fresh, X, y, 10, secret)))
    return float(np.mean(found))


@pytest.mark.parametrize(("model", "seeds"), [("dlnet", 8), ("alexnet", 2), ("vgg16", 1)])
def test_the_secret_weighs_as_much_as_the_caption_of_figure_28_has_it(model: str, seeds: int) -> None:
    """‖B_I‖/‖E_B‖ ≈ 1 at α₂ = 0.1; killed: a secret network that begins as torch would have it."""
    assert 0.5 < ratio(model, seeds) < 2
    if model == "dlnet":  # U(±features^-0.5), of 768 features
        assert ratio(model, seeds, secret_reach=768**-0.5) > 10
