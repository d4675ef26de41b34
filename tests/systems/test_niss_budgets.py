"""Theorem 2 of NISS in its general form: clients with σ_k, τ_k² and ε_k of their own, each accounted by itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from protocol.niss_threads import SYNTHETIC, command_on_threads, train_on_threads

from fedmpi.errors import UsageError
from fedmpi.niss import SYSTEM
from fedmpi.niss.accounting import epsilon_of
from fedmpi.niss.budgets import budgets, contents
from fedmpi.niss.mechanism import delta_of, epsilon_for, noise_multiplier
from fedmpi.niss.params import Params
from fedmpi.report.page import report_page
from fedmpi.runs.reading import read_runs

K = 6
SIGMA = [0.1, 0.2, 0.4, 0.1, 0.3, 0.2]
TAU2 = [0.0, 0.5, 1.0, 2.0, 0.25, 0.0]
OWN = "noise_std,tau_squared\n" + "".join(f"{std},{tau2}\n" for std, tau2 in zip(SIGMA, TAU2, strict=True))
PARAMS = Params(clients=K, fraction=1.0, rounds=1, epochs=1, share_count=3, budgets=OWN)


def noise_of(params: Params) -> tuple[float, float, dict[int, float]]:
    """Variance of the noise in the model, as it is and as the tracker says, and in each client's upload."""
    noisy = train_on_threads(params, record_views=True)
    clean = train_on_threads(Params("fedavg", clients=K, fraction=1.0, rounds=1, epochs=1), record_views=True)

    def uploads(threads: object) -> dict[int, np.ndarray]:
        found = [m for _, m in threads.views(0) if type(m).__name__ == "Uploads"]  # type: ignore[attr-defined]
        return {int(k): value for m in found for k, value in zip(m.clients, m.values, strict=True)}

    one, other = uploads(noisy), uploads(clean)
    each = {k: float((one[k] - other[k]).var()) for k in one}
    return float((noisy.state.w - clean.state.w).var()), noisy.outcomes[0].noise_std ** 2, each


def check_theorem_2() -> None:
    expected = sum(tau2 * std**2 for std, tau2 in zip(SIGMA, TAU2, strict=True))
    measured, said, each = noise_of(PARAMS)
    assert said == pytest.approx(expected, rel=1e-6)
    assert measured == pytest.approx(expected, rel=0.05)
    for k, (std, tau2) in enumerate(zip(SIGMA, TAU2, strict=True)):
        others = [s**2 / 3 for j, s in enumerate(SIGMA) if j != k]
        least, most = (std**2 * (1 + tau2) + sum(sorted(others)[own]) for own in (slice(3), slice(-3, None)))
        assert 0.95 * least < each[k] < 1.05 * most


def test_theorem_2_in_its_general_form() -> None:
    """What stays in the model is Σ τ_k² σ_k², and every upload carries the noise of its own client."""
    check_theorem_2()


def test_clients_without_their_own_noise_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: hosts that take the run's values for all clients."""
    monkeypatch.setattr(Params, "of", lambda params, k: params)
    with pytest.raises(AssertionError):
        check_theorem_2()


def test_the_paper_s_factors_have_the_variance_of_the_receiver() -> None:
    params = Params(clients=K, fraction=1.0, rounds=1, epochs=1, share_count=K - 1, budgets=OWN, paper_noise=True)
    measured, said, _ = noise_of(params)
    parts = [(a, b) for a in range(K) for b in range(K) if a != b]
    assert said == pytest.approx(sum(SIGMA[a] ** 2 / (K - 1) * TAU2[b] for a, b in parts), rel=1e-6)
    assert measured == pytest.approx(said, rel=0.05)


# -- what a run keeps -------------------------------------------------------------------------------------------------

OPTIONS = ["--dataset", SYNTHETIC, "--clients", K, "--fraction", 0.7, "--epochs", 1, "--quiet", "--checkpoint-every", 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose clients ask for ε from 1 to 8, or for noise of some σ; its file is gone."""
    path = tmp_path_factory.mktemp("budgets")
    file = path / "own.csv"
    file.write_text("epsilon, tau-squared, noise_std\n1,1,\n8,,\n,,\n2,1,\n,1,0.5\n\n4,0,\n")
    command_on_threads(2, *OPTIONS, "--rounds", 4, "--budgets", file, "--out", path / "run")
    file.unlink()
    return path / "run"


def test_every_client_is_accounted_for_by_itself(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    privacy = result["privacy"]
    assert not any("did not cancel" in warning for warning in result["warnings"]), "it was kept on purpose"
    assert result["params"]["tau_squared"] > 0
    clients = privacy["clients"]
    assert [(one["client"], one["epsilon"], one["noise_std"], one["tau_squared"]) for one in clients] == [
        (0, 1, None, 1), (1, 8, None, None), (2, 10, None, None), (3, 2, None, 1), (4, None, 0.5, 1), (5, 4, None, 0),
    ]  # fmt: skip
    assert sum(one["uploads"] for one in clients) == 4 * 4
    for one in clients:
        if one["epsilon"] is not None:
            spent = epsilon_of("prv", noise_multiplier(one["epsilon"], 1e-4), one["uploads"], 1e-4)
            assert one["upload"] == pytest.approx(spent, abs=0.03)
    assert privacy["upload"]["prv"] == pytest.approx(max(one["upload"] for one in clients), abs=0.03)
    assert privacy["model"]["prv"] == pytest.approx(max(one["model"] for one in clients), abs=0.03)


def test_the_report_shows_every_client(folder: Path) -> None:
    page = report_page(read_runs([folder]))
    assert "Privacy of each client" in page
    assert all(f"client {k}<" in page for k in range(K))


def test_a_run_goes_on_with_the_budgets_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    """The run's own folder has them; others are refused."""
    command_on_threads(2, "--resume", folder, "--rounds", 6)
    assert sum(one["uploads"] for one in json.loads((folder / "result.json").read_text())["privacy"]["clients"]) == 24
    (tmp_path / "others.csv").write_text("epsilon\n" + "1\n" * K)
    with pytest.raises(UsageError, match="--resume must keep budgets as the run began"):
        command_on_threads(2, "--resume", folder, "--rounds", 8, "--budgets", tmp_path / "others.csv")


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("epsilon\n1\n1\n", [], "--budgets must have a line for each of 3 clients, got 2"),
        ("epsilon,sigma\n1,1\n", [], "must name columns of epsilon, noise_std, tau_squared, got 'epsilon,sigma'"),
        ("", [], "must name columns of epsilon, noise_std, tau_squared, got"),
        ("epsilon\n1\n0\n1\n", [], "line 3 of --budgets: epsilon must be positive, got 0"),
        ("tau_squared\n1\n1\nmuch\n", [], "line 4 of --budgets: tau_squared must be a number of at least 0, got much"),
        ("noise_std,tau_squared\n1,1\n1\n1,1\n", [], "line 3 of --budgets must have 2 cells, got 1"),
        (
            "tau_squared\n1\n1\n1\n",
            ["--method", "dp-fedavg"],
            "--budgets must be of options that --method dp-fedavg has",
        ),
        ("epsilon\n1\n1\n1\n", ["--method", "fedavg"], "--budgets must be of options that --method fedavg has"),
        (None, [], "--budgets must be a readable file, got .*: No such file"),
    ],
)
def test_what_is_wrong_is_said_before_any_rank_starts(
    text: str | None, options: list[str], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        SYSTEM.foresee(["--dataset", SYNTHETIC, "--budgets", str(file), *options], 5, here=True)
    assert "\n" not in str(caught.value)


def test_own_values_stand_in_for_those_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("noise_std,tau_squared\n0.5,\n,1\n")
    params = Params(clients=2, collusion=0.5, epsilon=3.0, budgets=contents(str(tmp_path / "own.csv")))
    assert [(own.noise_std, own.tau_squared, own.collusion) for own in map(params.of, range(2))] == [
        (0.5, None, 0.5), (None, 1.0, 0.0),
    ]  # fmt: skip
    assert Params(noise_std=1.0, budgets="epsilon\n2\n").of(0).noise_std is None, "an ε of its own says how much noise"
    assert Params(epsilon=3.0).of(7) == Params(epsilon=3.0)
    assert dict(budgets("epsilon\n2\n")[0]) == {"epsilon": 2.0}


def test_the_exact_epsilon_is_the_inverse_of_delta() -> None:
    for multiplier in (0.3, 1.0, 5.0, 40.0):
        assert delta_of(multiplier, epsilon_for(multiplier, 1e-5)) == pytest.approx(1e-5, rel=1e-6)
    assert epsilon_for(0.0, 1e-5) == float("inf")
    assert epsilon_for(float("inf"), 1e-5) == epsilon_for(1e6, 1e-5) == 0
