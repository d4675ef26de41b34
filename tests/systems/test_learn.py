"""Local training: what is worked out by hand equals autograd, and nothing depends on threads or ranks."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedmpi.data import Dataset
from fedmpi.data.synthetic import square
from fedmpi.errors import UsageError
from fedmpi.learn import (
    CNN,
    MLP,
    FlatModel,
    Inputs,
    LocalTraining,
    Trainer,
    build_model,
    client_rows,
    cross_entropy,
    evaluate,
    hosted,
    perceptron,
    sample,
    scale_of,
    stream,
    threads_per_rank,
    train_clients,
    weights,
)
from fedmpi.learn.devices import device_here
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.learn.layout import layout_for
from fedmpi.learn.perceptron import Perceptron

SHAPE = (1, 8, 8)


def problem(rows: int = 47, dtype: torch.dtype = torch.float64) -> Inputs:
    rng = np.random.default_rng(1)
    X, y = rng.integers(0, 17, (rows, 64)).astype(np.uint8), rng.integers(0, 10, rows)
    return Inputs.of(X, y, scale_of(X), dtype, shape=square(X.shape[1]) or None)


def autograd(model: nn.Module, w: np.ndarray, inputs: Inputs, settings: LocalTraining, seed: int) -> np.ndarray:
    """The oracle: torch's own optimizer and clipping."""
    model = copy.deepcopy(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    nn.utils.vector_to_parameters(torch.tensor(w, dtype=inputs.X.dtype), trained)
    optimizer = torch.optim.SGD(trained, settings.learning_rate, settings.momentum)
    order = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        shuffled = order.permutation(len(inputs))
        for start in range(0, len(inputs), settings.batch_size):
            rows = shuffled[start : start + settings.batch_size]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs.X[rows]), inputs.y[rows]).backward()
            if settings.clip != float("inf"):
                nn.utils.clip_grad_norm_(trained, settings.clip)
            optimizer.step()
    return nn.utils.parameters_to_vector(trained).detach().double().numpy()


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("clip", [float("inf"), 0.7])
def test_local_training_is_sgd(name: str, momentum: float, clip: float) -> None:
    model, inputs = build_model(name, SHAPE, 10, 3, torch.float64), problem()
    settings = LocalTraining(2, 10, 0.05, momentum, clip)
    trainer = Trainer(model, settings)
    assert (trainer._by_hand is not None) == (name == "mlp" and momentum == 0)
    w = FlatModel(model).read()
    trained = trainer.train(w, inputs, np.random.default_rng(5))
    expected = autograd(model, w, inputs, settings, 5)
    # clip_grad_norm_ divides by norm + 1e-6
    np.testing.assert_allclose(trained, expected, rtol=0, atol=1e-12 if clip == float("inf") else 1e-6)
    assert np.abs(trained - w).max() > 0.01


class Tied(nn.Module):
    """One large weight in two layers and in the loss of its own; a frozen one."""

    def __init__(self, input_shape: tuple[int, ...], classes: int):
        super().__init__()
        self.first, self.second = nn.Linear(64, 1100), nn.Linear(64, 1100)
        self.second.weight = self.first.weight
        self.last, self.frozen = nn.Linear(1100, 64), nn.Linear(64, classes)
        self.frozen.requires_grad_(False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(X.flatten(1)))
        hidden = torch.relu(self.second(self.last(hidden)) + hidden)
        return self.frozen(self.last(hidden) + hidden @ self.first.weight)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("clip", [float("inf"), 0.7])
def test_weights_of_several_layers_get_all_of_their_gradient(momentum: float, clip: float) -> None:
    torch.manual_seed(2)
    model, inputs, settings = Tied(SHAPE, 10).double(), problem(), LocalTraining(2, 10, 0.05, momentum, clip)
    trainer, w = Trainer(model, settings), FlatModel(copy.deepcopy(model)).read()
    assert len(trainer._gradients._told) == 2
    expected = autograd(model, w, inputs, settings, 5)
    trained = trainer.train(w, inputs, np.random.default_rng(5))
    np.testing.assert_allclose(trained, expected, rtol=0, atol=1e-11 if clip == float("inf") else 1e-5)
    assert np.abs(trained - w).max() > 0.001


def test_a_loss_may_differentiate_gradients_of_large_layers() -> None:
    """A penalty on the gradient of the outputs by the inputs, whose own gradient goes through them."""

    def penalized(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        X = X.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(X).square().sum(), X, create_graph=True)
        return cross_entropy(model, X, y) + slope.square().mean()

    layers = (nn.Linear(64, 1100), nn.Tanh(), nn.Linear(1100, 10))
    model, inputs = nn.Sequential(nn.Flatten(), *layers).double(), problem(10)
    w = FlatModel(copy.deepcopy(model)).read()
    trained = Trainer(model, LocalTraining(1, 10, 0.1), penalized).train(w, inputs, np.random.default_rng(5))
    penalized(model, inputs.X, inputs.y).backward()
    gradient = nn.utils.parameters_to_vector([p.grad for p in model.parameters()]).numpy()
    np.testing.assert_allclose(trained, w - 0.1 * gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (20,), (33, 17)])
@pytest.mark.parametrize(("batch", "clip"), [(10, float("inf")), (7, 0.5), (1, float("inf"))])
def test_the_kernel_takes_the_steps_that_torch_takes(
    hidden: tuple[int, ...], batch: int, clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not perceptron._RUNS:
        pytest.skip("no compiler, or no AVX-512")
    model, inputs = MLP(SHAPE, 10, hidden), problem(dtype=torch.float32)
    trainer, w = Trainer(model, LocalTraining(2, batch, 0.05, clip=clip)), FlatModel(copy.deepcopy(model)).read()
    by_kernel = trainer.train(w, inputs, np.random.default_rng(5))
    monkeypatch.setattr(perceptron, "_RUNS", False)
    by_torch = trainer.train(w, inputs, np.random.default_rng(5))
    np.testing.assert_allclose(by_kernel, by_torch, rtol=0, atol=2e-6)
    assert 0 < np.abs(by_kernel - by_torch).max() < np.abs(by_kernel - w).max() / 1000


def test_a_label_that_is_no_class_is_refused_before_the_kernel() -> None:
    inputs = problem(dtype=torch.float32)
    model = MLP(SHAPE, 9)
    with pytest.raises((RuntimeError, IndexError)):
        Trainer(model, LocalTraining(1)).train(FlatModel(copy.deepcopy(model)).read(), inputs, stream(0))


class View(nn.Module):
    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return X.view(len(X), -1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_order_in_memory_changes_no_result(channels: int) -> None:
    torch.manual_seed(1)
    X = torch.rand(3, channels, 8, 8, dtype=torch.float64)
    model = CNN((channels, 8, 8), 10).double()
    laid = layout_for(model, X)(X[1:])
    assert laid.stride() == (64 * channels, 1, 8 * channels, channels)
    assert torch.equal(laid, X[1:])
    torch.testing.assert_close(model(laid), model(X[1:]), rtol=0, atol=1e-12)
    viewing = nn.Sequential(*(View() if isinstance(layer, nn.Flatten) else layer for layer in model))
    assert layout_for(viewing, X)(X) is X
    assert layout_for(MLP((64,), 2), X)(X) is X


def test_clipping_bounds_the_change_of_a_client() -> None:
    """‖w' - w‖ ≤ η ζ E ⌈d_k/B⌉, which the sensitivity rests on; without clipping it is exceeded."""
    model, inputs = build_model("mlp", SHAPE, 10, 3), problem(dtype=torch.float32)
    w = FlatModel(model).read()
    changes = []
    for clip in (0.1, float("inf")):
        settings = LocalTraining(3, 10, 0.05, 0.0, clip)
        assert settings.steps(len(inputs)) == 15
        changes.append(np.linalg.norm(Trainer(model, settings).train(w, inputs, np.random.default_rng(0)) - w))
    assert changes[0] <= 0.05 * 0.1 * 15 * (1 + 1e-5) < changes[1]


def test_a_gradient_of_zero_is_no_division_by_zero() -> None:
    model = build_model("mlp", (4,), 2, 0)
    trainer = Trainer(model, LocalTraining(1, 2, clip=1.0))
    flat = FlatModel(copy.deepcopy(model))
    w = np.zeros(len(flat))
    inputs = Inputs(torch.zeros(2, 4), torch.tensor([0, 1]))  # both labels equally likely, no inputs
    np.testing.assert_array_equal(trainer.train(w, inputs, np.random.default_rng(0)), w)


def test_a_loss_of_your_own_takes_the_general_path() -> None:
    def halved(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * cross_entropy(model, X, y)

    model, inputs = build_model("mlp", SHAPE, 10, 3, torch.float64), problem()
    w = FlatModel(model).read()
    half = Trainer(model, LocalTraining(1, 10, 0.1), halved).train(w, inputs, np.random.default_rng(5))
    whole = Trainer(model, LocalTraining(1, 10, 0.05)).train(w, inputs, np.random.default_rng(5))
    np.testing.assert_allclose(half, whole, rtol=0, atol=1e-12)


def test_only_perceptrons_are_trained_by_hand() -> None:
    linear = nn.Linear(4, 3)
    assert Perceptron.of(nn.Sequential(linear, nn.ReLU(), nn.Linear(3, 2))) is not None
    hooked = nn.Linear(4, 3)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    frozen = nn.Linear(4, 3)
    frozen.weight.requires_grad_(False)
    for model in (
        nn.Sequential(linear, nn.Tanh(), nn.Linear(3, 2)),
        nn.Sequential(linear, nn.ReLU()),
        nn.Sequential(nn.Linear(4, 3, bias=False)),
        nn.Sequential(hooked),
        nn.Sequential(frozen),
        CNN(SHAPE, 10),
        linear,
    ):
        assert Perceptron.of(model) is None


def test_parameters_are_one_vector() -> None:
    model = build_model("cnn", SHAPE, 10, 0)
    flat = FlatModel(model)
    expected = nn.utils.parameters_to_vector(model.parameters()).detach().double().numpy()
    np.testing.assert_array_equal(flat.read(), expected)
    flat.load(np.arange(len(flat), dtype=np.float64))
    assert float(next(model.parameters()).detach().reshape(-1)[7]) == 7
    assert sum(a.size for a in flat.arrays().values()) == len(flat)


def test_initial_parameters_are_those_of_the_seed_and_leave_torch_alone() -> None:
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    one, two, other = (FlatModel(build_model("mlp", SHAPE, 10, seed)).read() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


class WithBuffers(nn.Sequential):
    def __init__(self, input_shape: tuple[int, ...], classes: int):
        super().__init__(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))


class Own(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], classes: int):
        super().__init__()
        self.layer = nn.Linear(int(np.prod(input_shape)), classes)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.layer(X.flatten(1))


def test_a_model_of_your_own_is_found_by_its_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    model = build_model("test_learn:Own", SHAPE, 10, 0)
    assert type(model).__name__ == "Own"
    trained = Trainer(model, LocalTraining(20)).train(
        FlatModel(model).read(), problem(dtype=torch.float32), stream(0, "x")
    )
    assert np.isfinite(trained).all()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vgg", "or package.module:Class, got vgg"),
        ("no_such_module:X", "must be importable, got no_such_module:X"),
        ("torch.nn:NoSuchLayer", "must be importable"),
        ("torch.nn:Identity", "must be a torch.nn.Module with parameters to train, got torch.nn:Identity"),
        ("torch.nn:Bilinear", "must be callable with"),
        ("test_learn:WithBuffers", "must keep its whole state in parameters"),
    ],
)
def test_models_that_cannot_be_are_refused(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with pytest.raises(UsageError, match="--model ") as error:
        build_model(name, SHAPE, 10, 0)
    assert text in str(error.value)
    sys.modules.pop("test_learn", None)


def test_a_cnn_wants_images() -> None:
    with pytest.raises(UsageError, match=r"must have images of at least 4x4 as inputs, got shape \(13,\)"):
        build_model("cnn", (13,), 3, 0)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="--device must be one that torch can use, got abacus"):
        FlatModel(MLP((4,), 2), "abacus")


def test_each_rank_of_a_machine_takes_the_gpu_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Open MPI, Hydra and srun, and alone; torch is told how many there are."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="--device auto must be used where torch sees a GPU, got none"):
        device_here("auto", {})
    assert device_here("cpu", {}) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"):
        assert [device_here("auto", {name: str(place)}) for place in range(4)] == [
            "cuda:0",
            "cuda:1",
            "cuda:2",
            "cuda:0",
        ]
    assert device_here("auto", {}) == "cuda:0"


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}, {"clip": 0.0}]
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be"):
        LocalTraining(**wrong)  # type: ignore[arg-type]


# -- federation ---------------------------------------------------------------------------------------------------


def test_every_client_lives_on_one_host() -> None:
    for hosts in (1, 6, 100):
        homes = [k for host in range(hosts) for k in hosted(host, hosts, 100)]
        assert sorted(homes) == list(range(100))
        assert max(len(hosted(host, hosts, 100)) for host in range(hosts)) <= -(-100 // hosts)


def test_streams_are_keyed_and_clients_are_sampled_evenly() -> None:
    draws = [stream(0, *key).integers(0, 1 << 62) for key in (("a", 1), ("a", 1), ("a", 2), ("b", 1), ("a", 1, 0))]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 4
    counts = np.bincount(np.concatenate([sample(0, t, 20, 6) for t in range(1000)]), minlength=20)
    assert abs(counts / 1000 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 1000)
    assert len(set(sample(0, 3, 20, 6).tolist())) == 6


def test_weights_are_shares_of_the_rows() -> None:
    np.testing.assert_allclose(weights([100, 300]), [0.25, 0.75])


def test_threads_change_no_bit() -> None:
    """Clients that take turns on one trainer, and clients on three trainers at once."""
    inputs = [problem(20 + k, torch.float32) for k in range(6)]
    model = build_model("mlp", SHAPE, 10, 3)
    w = FlatModel(model).read()

    def train(trainer: Trainer, client: int) -> np.ndarray:
        return trainer.train(w, inputs[client], stream(0, "batches", client, 1))

    one, three = (
        train_clients(train, [Trainer(model, LocalTraining(3)) for _ in range(threads)], range(6)) for threads in (1, 3)
    )
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one[0], one[1])


def test_ranks_times_threads_are_at_most_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(16))
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_SIZE", raising=False)
    assert [threads_per_rank(n) for n in (1, 3, 8, 16, 102)] == [16, 5, 2, 1, 1]
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "4")
    assert threads_per_rank(102) == 4


def test_cores_that_ranks_are_bound_to_are_not_shared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks 1 and 2 have four cores each, 3 and 4 share the next eight, 5 may use all sixteen."""
    this = [0]
    masks = {1: range(4), 2: range(4, 8), 3: range(8, 16), 4: range(8, 16), 5: range(16)}
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: masks[pid or this[0]])
    monkeypatch.delenv("OMPI_COMM_WORLD_LOCAL_SIZE", raising=False)
    for this[0], among, threads in ((1, (1, 2), 4), (3, (3, 4), 4), (3, (3, 1), 8), (4, (3, 4, 5), 2), (5, (5,), 16)):
        assert threads_per_rank(1, among) == threads


def test_images_have_a_shape_and_are_scaled() -> None:
    X = np.array([[0, 255, 51, 0]], np.uint8)
    table = Dataset("table", X, np.array([1]), X, np.array([1]), ("a", "b"))
    image = replace(table, shape=(1, 2, 2))
    assert [input_shape(table), input_shape(image)] == [(4,), (1, 2, 2)], "a table is none because it has 4 columns"
    assert [divisor_of(table), divisor_of(image)] == [1.0, 255.0]
    inputs = Inputs.of(np.array([[0, 255, 51, 0]], np.uint8), np.array([1]), 255.0)
    assert inputs.X.flatten().tolist() == pytest.approx([0, 1, 0.2, 0])
    assert scale_of(np.zeros((2, 2))) == 1


def test_training_learns() -> None:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    parts = client_rows("iid", y, 4, 0)
    scale = scale_of(X)
    test = Inputs.of(X[parts[3]], y[parts[3]], scale)
    model = build_model("mlp", (64,), 10, 0)
    flat = FlatModel(model)
    before = evaluate(model, test)
    flat.load(
        Trainer(model, LocalTraining(20, 10, 0.1)).train(
            flat.read(), Inputs.of(X[parts[0]], y[parts[0]], scale), stream(0)
        )
    )
    loss, accuracy = evaluate(model, test, batch=100)
    assert accuracy > 0.85 > before[1] + 0.5
    assert loss < before[0] / 2
    assert evaluate(model, test)[1] == accuracy
    assert evaluate(model, test) == evaluate(model, test, threads=3)
