"""`fedmpi audit` on what a run prints as ε, on coalitions and on roles that lie; it finds what was once wrong."""

from collections.abc import Callable
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from privacy.test_audit import CONTROL, FALLS, HOLDS, on_threads, recorded_on_threads
from scipy.stats import binomtest

from fedmpi.audit import canaries, coalitions, colluders, liars, lying_s1
from fedmpi.audit.bounds import CONFIDENCE, Game, clopper_pearson, lower_bound
from fedmpi.audit.finding import Finding, merged, tried
from fedmpi.audit.recording import Recorded
from fedmpi.codedml import training
from fedmpi.niss import client, distributed
from fedmpi.niss.accounting import Ledger
from fedmpi.niss.assignment import Kept
from fedmpi.niss.mechanism import noise_multiplier
from fedmpi.niss.params import Params
from fedmpi.ppadmm import dssgd
from fedmpi.ppadmm.auxiliary import Guard

# -- the bound --------------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_clopper_and_pearson() -> None:
    for k, n in ((0, 50), (3, 50), (50, 50), (700, 1000)):
        known = binomtest(k, n).proportion_ci(0.98, "exact")
        assert clopper_pearson(k, n, 0.01) == pytest.approx((known.low, known.high))


def test_the_bound_is_above_the_truth_as_seldom_as_it_says() -> None:
    """Of answers that are flipped at random, whose ε is known, and of noise that says nothing at all."""
    rng = np.random.default_rng(0)
    true = log(3)
    answers = [rng.random((2, 400)) < np.array([[0.25], [0.75]]) for _ in range(300)]
    bounds = [lower_bound(out.astype(float), inside.astype(float), 0.0) for out, inside in answers]
    assert sum(bound > true for bound in bounds) <= 300 * (1 - CONFIDENCE) + 6
    assert 0.4 < float(np.median(bounds)) < true, "and it is not far below"
    nothing = rng.normal(size=(2, 300, 300))
    assert sum(lower_bound(out, inside, 1e-5) > 0 for out, inside in zip(*nothing, strict=True)) <= 3 + 6


def test_no_threshold_far_out_is_chosen_by_chance() -> None:
    """Mutation: the choice by bounds that hold one by one; then some audits of this noise show next to nothing."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.5, size=(100, 50_000))
    bounds = [lower_bound(z - 0.125, z + 0.125, 1e-4) for z in noise]
    assert min(bounds) > 0.6 * float(np.median(bounds))


def test_more_attempts_show_more_and_none_shows_more_than_its_reach() -> None:
    shown = []
    for n in (20, 200, 2000, 20_000):
        game = Game(np.zeros(n), np.ones(n), 10.0, 1e-5)
        assert game.bound == pytest.approx(game.reach)
        assert game.attempts == game.right == n
        shown.append(game.bound)
    assert shown == sorted(shown)
    assert exp(shown[-1]) < 20_000
    empty = Game(np.zeros(0), np.zeros(0), 1.0, 0.0)
    assert (empty.bound, empty.reach, empty.attempts) == (0.0, 0.0, 0)


def row_of(n: int, epsilon: float, *, told: bool = True, protects: bool = True) -> Finding:
    out = np.zeros(n) if told else np.random.default_rng(0).normal(size=n)
    blank = Finding("s", "m", "a", "saw", "attack", "claim", protects, "part guessed right", (), 0)
    return tried(blank, Game(out, out + float(told), epsilon, 1e-5))


def test_verdicts_say_when_there_were_too_few_attempts() -> None:
    assert row_of(2000, 1.0).verdict == FALLS
    assert row_of(2000, 1.0, told=False).verdict == HOLDS
    assert row_of(20, 5.0).verdict == "too few attempts to refute it", "all was told, and 20 attempts can't show ε = 5"
    assert row_of(2000, float("inf"), protects=False).verdict == CONTROL
    assert row_of(2000, float("inf"), told=False, protects=False).verdict == "THE CONTROL FAILED"
    (both,) = merged([row_of(20, 3.0), row_of(2000, 3.0)])
    assert (both.verdict, both.attempts, both.cells["successes"]) == (FALLS, 2020, "2020 of 2020")
    assert both.cells["ε printed"] == "3 (δ = 1e-05)"
    assert both.cells["ε is at least"].startswith(f"{both.game.bound:.3g} (so many attempts show")  # type: ignore[union-attr]


# -- runs -------------------------------------------------------------------------------------------------------------

FEW = ("--dataset", "digits", "--clients", "40", "--max-rows", "80", "--batch-size", "2", "--epochs", "1")


def printed(folder: Path, *options: str) -> dict[str, Finding]:
    """Adversary → what was found of the ε of a run, made on threads."""
    recorded_on_threads("niss", 3, [*FEW, *options], folder)
    return {one.adversary: one for one in canaries.findings(Recorded.read(folder))}


NOISY = ("--method", "dp-fedavg", "--epsilon", "3", "--rounds", "20", "--fraction", "0.05")


def test_what_a_run_prints_is_not_refuted_and_what_it_does_not_promise_is_read(tmp_path: Path) -> None:
    found = printed(tmp_path / "noisy", *NOISY)
    assert {name: one.verdict for name, one in found.items()} == {"server": HOLDS, "anybody": HOLDS}
    assert all(one.game is not None and one.game.bound > 1 for one in found.values()), "and the attack is one"
    found = printed(tmp_path / "plain", "--method", "fedavg", "--rounds", "1", "--fraction", "0.1")
    assert {name: one.verdict for name, one in found.items()} == {"server": CONTROL, "anybody": CONTROL}
    found = printed(tmp_path / "niss", "--rounds", "2", "--fraction", "0.1", "--epsilon", "3", "--clipping", "update")
    assert {name: one.verdict for name, one in found.items()} == {"server": HOLDS, "anybody": CONTROL}


def test_amplification_by_a_public_seed_is_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: ε of the models as it was printed before, by a chance of 2/40 in each round, which the seed undoes."""
    from opacus.accountants import RDPAccountant

    def amplified(ledger: Ledger, accountant: str) -> float:
        accounting = RDPAccountant()
        accounting.history = [(2**0.5 * noise_multiplier(3.0, 1e-4), 2 / 40, 20)]
        return float(accounting.get_epsilon(ledger.delta))

    monkeypatch.setattr(Ledger, "model", amplified)
    found = printed(tmp_path / "run", *NOISY)
    assert found["anybody"].game.epsilon < 2  # type: ignore[union-attr]
    assert {name: one.verdict for name, one in found.items()} == {"server": HOLDS, "anybody": FALLS}


def test_noise_of_a_quarter_is_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: clients draw a quarter of σ_k."""
    expand = client.expand
    monkeypatch.setattr(client, "expand", lambda seed, std, size: expand(seed, std / 4, size))
    found = printed(tmp_path / "run", *NOISY)
    assert {name: one.verdict for name, one in found.items()} == {"server": FALLS, "anybody": FALLS}


def test_the_gradients_of_dssgd(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the mutation of noise for half of the distance."""
    (found,) = canaries.shared_gradients(0)
    assert found.verdict == HOLDS
    assert found.game is not None
    assert found.game.bound > 0.7
    laplace = dssgd.laplace
    monkeypatch.setattr(dssgd, "laplace", lambda random, scale, count: laplace(random, scale / 2, count))
    (found,) = canaries.shared_gradients(0)
    assert found.verdict == FALLS


# -- noise that all make together --------------------------------------------------------------------------------------


def of_sums(folder: Path, name: str = "niss-distributed-dp") -> Finding:
    (found,) = canaries.findings(Recorded.read(on_threads(name, folder, "--rounds", "5")))
    return found


def left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "discrete_gaussian", lambda stream, size, std: np.zeros(size, np.int64))


def a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = distributed.discrete_gaussian
    monkeypatch.setattr(distributed, "discrete_gaussian", lambda stream, size, std: draw(stream, size, std // 4))


@pytest.mark.parametrize(("mutation", "verdict"), [(None, HOLDS), (left_out, FALLS), (a_quarter, FALLS)])
def test_sums_under_distributed_noise(
    mutation: Callable[[pytest.MonkeyPatch], None] | None, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutations: noise left out, and a quarter of it."""
    if mutation is not None:
        mutation(monkeypatch)
    found = of_sums(tmp_path / "run")
    assert found.verdict == verdict
    assert found.game is not None
    assert found.game.bound > 0.5, "and the attack is one"


def test_without_distributed_noise_the_sum_is_read(tmp_path: Path) -> None:
    assert of_sums(tmp_path / "run", "niss-distributed-quiet").verdict == CONTROL


# -- coalitions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is from the operating system: one run in 30 shows an ε below 1.5 with 60 rounds; 120 show 2.3 and more."""
    monkeypatch.setattr(coalitions, "PROMISED", replace(coalitions.PROMISED, rounds=120))


def test_half_of_the_clients_with_the_server(longer: None) -> None:
    """The ε holds however few the shares are; that of the paper's noise does not, and is named unsafe."""
    assert coalitions.collude(0, 1).verdict == HOLDS
    control = coalitions.collude(0, 1, paper=True)
    assert control.verdict == CONTROL
    assert control.game is not None
    assert control.game.bound > control.game.epsilon


@pytest.mark.parametrize("mutation", ["as many as on average", "products"])
def test_a_coalition_reads_what_theorem_3_leaves_of_one_share(
    mutation: str, longer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutations: noise for the ρv shares that are known on average; the paper's products under the claim of today."""
    if mutation == "products":
        found = replace(coalitions.collude(0, 1, paper=True), protects=True)
    else:
        monkeypatch.setattr(Kept, "known", lambda rule, shares, m, t: int(rule.collusion * shares))
        found = coalitions.collude(0, 1)
    assert found.verdict == FALLS


# -- roles that lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", lying_s1.LIES)
@pytest.mark.parametrize("compared", [True, False])
def test_an_s1_that_lies(lie: str, compared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: an S2 that does not compare what participants were told."""
    if not compared:
        monkeypatch.setattr(Guard, "lie", lambda *seen: "")
    found = lying_s1.lied_to(0, lie, victims=[5])
    assert found.verdict == (HOLDS if compared else FALLS)
    assert found.cells["successes"] == ("0 of 1" if compared else "1 of 1")


def test_a_participant_that_leaves() -> None:
    """S1 has its update nearly, as is documented; with --on-dropout stop it has nothing."""
    assert lying_s1.departures(0, "continue").verdict == CONTROL
    assert lying_s1.departures(0, "stop").verdict == HOLDS


@pytest.mark.parametrize("checked", [True, False])
def test_a_tracker_that_lies(checked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: clients that believe the variances they are told."""
    if not checked:
        monkeypatch.setattr(client, "check_noise", lambda edges, stds: None)
    found = liars.quiet(0)
    assert found.cells["successes"] == ("0 of 6" if checked else "6 of 6")
    assert found.verdict == (HOLDS if checked else FALLS)


@pytest.mark.parametrize("name", ["codedml-coded", "codedml-bgw"])
def test_masks_from_the_seed_are_not_called_private(name: str, tmp_path: Path) -> None:
    """Who knows --seed draws the secret seeds of shares again; no row speaks of what any T workers learn."""
    folder = on_threads(name, tmp_path / "run", "--insecure-repeatable-masks", "--iterations", "3")
    found = list(colluders.findings(Recorded.read(folder)))
    assert HOLDS not in {one.verdict for one in found}
    assert not any("learn nothing" in one.claim for one in found)
    (again,) = (one for one in found if one.attack.startswith("the seeds of T workers"))
    assert (again.verdict, again.successes, len(again.scores)) == (CONTROL, 2, 2)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_master_that_chooses_what_it_asks_for(fresh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the masks of the first exchange in every exchange."""

    def kept(source: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[Any, Any] = {}
        return lambda shape: known.setdefault(shape, source(shape))

    honest = training.masks
    if not fresh:
        monkeypatch.setattr(training, "masks", lambda *arguments: tuple(map(kept, honest(*arguments))))
    assert {liars.chosen(0, name).verdict for name in liars.QUERIES} == {HOLDS if fresh else FALLS}


def test_params_of_the_coalition_are_those_that_the_documents_speak_of() -> None:
    assert isinstance(coalitions.PROMISED, Params)
    assert (coalitions.PROMISED.epsilon, coalitions.PROMISED.collusion, coalitions.PROMISED.paper_noise) == (1, 0.5, 0)
