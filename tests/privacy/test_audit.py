"""`fedmpi audit`: what it says of real runs, and that its verdicts turn when a protocol is not as it should be."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.test_report_files import Elements

from fedmpi import cli
from fedmpi.audit import campaign, command, members, report, secure_sums, steps, traps
from fedmpi.audit.applicability import attack
from fedmpi.audit.finding import PARTLY, TOO_FEW, Finding, merged
from fedmpi.audit.partners import findings
from fedmpi.audit.recombination import null_space
from fedmpi.audit.recording import Recorded
from fedmpi.audit.servers import together
from fedmpi.audit.statistics import p_value_of_words
from fedmpi.audit.uploads import recognized
from fedmpi.codedml import baseline, protocol, training
from fedmpi.codedml.dealing import Deal
from fedmpi.core import Residues
from fedmpi.core.lagrange import lagrange_basis
from fedmpi.crypto import masks
from fedmpi.crypto.random import SecretStream
from fedmpi.crypto.reals import UnitRandom
from fedmpi.errors import UsageError
from fedmpi.net import Channel, run_local
from fedmpi.ppadmm import auxiliary
from fedmpi.runs.batch import train
from fedmpi.runs.own_options import own_options
from fedmpi.securesum import double_masking, lightsecagg

HANG_SECONDS = 120.0

SETTINGS = {setting.name: setting for setting in campaign.settings()}

Uniform = Callable[[tuple[int, ...]], np.ndarray]


def under_mpirun(name: str, folder: Path, *more: str) -> Path:
    """A run of `fedmpi audit --all`, as it makes it."""
    setting = SETTINGS[name]
    options = [*setting.options, *setting.alternatives[0], "--record-views", *more]
    train(folder, setting.ranks, options, system=setting.system)
    return folder


def recorded_on_threads(name: str, ranks: int, options: Sequence[str], folder: Path) -> None:
    """A command line of a system on threads, with all that its ranks receive."""
    system, argv = import_module(f"fedmpi.{name}").SYSTEM, [*options, "--quiet", "--out", str(folder)]

    def lead(ch: Channel) -> None:
        system.lead(ch, argv)
        ch.save_views(folder / "views")

    def other(ch: Channel) -> None:
        system.follow(ch, replace(own_options(argv), run=None))
        ch.save_views(folder / "views")

    roles = [lead, *[other] * (ranks - 1)]
    run_local(roles, timeout_seconds=HANG_SECONDS, record_views=True, role_of=system.role_of)


def on_threads(name: str, folder: Path, *more: str) -> Path:
    """The same on threads: no rank has to start, and a test can change what ranks do."""
    setting = SETTINGS[name]
    argv = [*setting.options, *setting.alternatives[0], "--quiet", "--out", str(folder), *more]

    system = import_module(f"fedmpi.{setting.system}").SYSTEM

    def lead(ch: Channel) -> None:
        system.lead(ch, argv)
        ch.save_views(folder / "views")

    def other(ch: Channel) -> None:
        system.follow(ch, replace(own_options(argv), run=None))
        ch.save_views(folder / "views")

    run_local([lead, *[other] * (setting.ranks - 1)], timeout_seconds=HANG_SECONDS, record_views=True)
    return folder


def verdicts(*folders: Path) -> dict[tuple[str, str], str]:
    """(adversary, first word of the attack) → verdict."""
    found = attack([Recorded.read(folder) for folder in folders])
    return {(one.adversary, one.attack.split()[0]): one.verdict for one in found}


HOLDS, FALLS, CONTROL = "survives this attack", "DOES NOT SURVIVE", "broken, as it must be"


# -- real runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "made"), [("codedml-coded", under_mpirun), ("codedml-paper", on_threads)], ids=["coded", "paper"]
)
def test_codedml_and_its_report(
    name: str, made: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """T workers see nothing, T + 1 see the data; the command writes the table and pictures."""
    folder = made(name, tmp_path / "run")
    assert cli.main(["audit", str(folder)]) == 0
    said = capsys.readouterr().out
    with (folder / "audit" / "audit.csv").open(encoding="utf-8") as file:
        rows = {(row["adversary"], row["attack"].split()[0]): row for row in csv.DictReader(file)}
    assert {key: row["verdict"] for key, row in rows.items()} == {
        ("2 of the workers (T)", "uniformity"): HOLDS,
        ("2 of the workers (T)", "recombination"): HOLDS,
        ("3 of the workers (T + 1)", "recombination"): CONTROL,
    }
    text = (folder / "audit" / "report.md").read_text()
    for row in rows.values():
        assert row["attack"] in said
        assert row["claim"] in text
        if row["picture"]:
            assert (folder / "audit" / row["picture"]).read_bytes().startswith(b"\x89PNG")
    assert rows["3 of the workers (T + 1)", "recombination"]["picture"]
    page = Elements((folder / "audit" / "report.html").read_text())
    assert page.foreign == []
    assert [tag for tag, _ in page.tags].count("img") == 2, "the pictures are in the page"
    assert all(row["claim"] in page.text and row["verdict"] in page.text for row in rows.values())


@pytest.mark.parametrize("method", ["bgw", "bh08"])
def test_multi_party_computation_with_two_data_sets(method: str, tmp_path: Path) -> None:
    setting = SETTINGS[f"codedml-{method}"]
    one = on_threads(setting.name, tmp_path / "one")
    two = on_threads(setting.name, tmp_path / "two", *setting.alternatives[1])
    assert {key: verdict for key, verdict in verdicts(one, two).items() if key[1] != "equality"} == {
        ("2 of the workers (T)", "uniformity"): HOLDS,
        ("2 of the workers (T)", "recombination"): HOLDS,
        ("2 of the workers (T)", "two-sample"): HOLDS,
        ("3 of the workers (T + 1)", "recombination"): CONTROL,
    }


@pytest.mark.parametrize("name", ["codedml-coded", "codedml-bgw", "codedml-bh08"])
def test_what_a_worker_sees_modulo_each_of_several_primes(name: str, tmp_path: Path) -> None:
    """And the same number of exchanges, where training does not stop by itself."""
    more = ("--primes", "2", "--tolerance", "0")
    if name != "codedml-coded":
        more += ("-r", "2", "--solver", "lbfgs")
    one = on_threads(name, tmp_path / "one", *more)
    two = on_threads(name, tmp_path / "two", *more, *SETTINGS[name].alternatives[1])
    assert verdicts(one, two) == {
        ("1 of the workers", "equality"): "not broken by this attack",
        ("2 of the workers (T)", "uniformity"): HOLDS,
        ("2 of the workers (T)", "recombination"): HOLDS,
        ("2 of the workers (T)", "two-sample"): HOLDS,
        ("3 of the workers (T + 1)", "recombination"): CONTROL,
    }


def test_any_worker_sees_how_long_the_training_went_on(tmp_path: Path) -> None:
    more = ("--tolerance", "0", "--iterations")
    one = on_threads("codedml-coded", tmp_path / "one", *more, "3")
    two = on_threads("codedml-coded", tmp_path / "two", *more, "4", *SETTINGS["codedml-coded"].alternatives[1])
    assert verdicts(one, two)["1 of the workers", "equality"] == "broken"


def test_ppadmm(tmp_path: Path) -> None:
    assert set(verdicts(on_threads("ppadmm", tmp_path / "run")).values()) == {HOLDS}


def test_s1_with_s2() -> None:
    assert {one.adversary: one.verdict for one in together(0)} == {"S1": HOLDS, "S1 and S2": CONTROL}


def test_clients_in_league_with_the_server_of_niss() -> None:
    """What they know of a client's noise is all of it with τ² = 0, and too little with τ² = 1."""
    assert {one.method: one.verdict for one in findings(0)} == {"niss, τ² = 0": CONTROL, "niss, τ² = 1": HOLDS}


@pytest.mark.parametrize(("own", "noise", "protects"), [((), "0", False), (("--collusion", "0.5"), "0.333", True)])
def test_noise_that_stays_is_seen_where_collusion_asks_for_it(
    tmp_path: Path, own: tuple[str, ...], noise: str, protects: bool
) -> None:
    """Its τ² is no option of the run, but stands in its result."""
    few = ("--dataset", "digits", "--clients", "5", "--max-rows", "200", "--rounds", "1", "--epochs", "1")
    recorded_on_threads("niss", 3, [*few, "--fraction", "1", "--share-count", "3", *own], tmp_path / "run")
    found = list(members.findings(Recorded.read(tmp_path / "run")))
    assert [(one.method, one.protects) for one in found[:2]] == [(f"niss, τ² = {noise}", protects)] * 2
    assert len(found) == (2 if protects else 3), "a control at random only where something is found"


@pytest.mark.parametrize(("name", "verdict"), [("niss-fedavg-members", CONTROL), ("pbpfl-members", "broken")])
def test_membership_of_models_that_know_their_rows_by_heart(name: str, verdict: str, tmp_path: Path) -> None:
    """By their losses and by LiRA; members and others exchanged are not told apart."""
    few = ("--rounds", "150") if name.startswith("pbpfl") else ()
    found = list(members.findings(Recorded.read(on_threads(name, tmp_path / "run", *few))))
    assert [one.verdict for one in found] == [verdict, verdict, HOLDS][: len(found)]
    assert all("AUC" in one.cells["median"] for one in found)


def test_without_noise_on_the_outputs_a_client_has_true_predictions(tmp_path: Path) -> None:
    """There is a row that says so."""
    folder = on_threads("pbpfl-open", tmp_path / "run")
    found = {one.attack.split(":")[0]: one.verdict for one in attack([Recorded.read(folder)])}
    assert found["true predictions"] == CONTROL


@pytest.mark.parametrize(("name", "verdict"), [("niss-fedavg", CONTROL), ("niss-tau2-1", HOLDS)])
def test_an_upload_is_broken_unless_it_carries_noise(name: str, verdict: str, tmp_path: Path) -> None:
    assert verdicts(on_threads(name, tmp_path / "run"))["server", "first"] == verdict


def test_a_secret_head_does_not_hide_the_input_of_a_fully_connected_layer(tmp_path: Path) -> None:
    found = verdicts(under_mpirun("spn-mlp", tmp_path / "run"))
    assert found == {("server", "first"): FALLS, ("server", "label"): FALLS}


@pytest.mark.slow
def test_a_secret_head_hides_an_image_only_from_who_does_not_know_of_it(tmp_path: Path) -> None:
    found = {one.attack: one.verdict for one in attack([Recorded.read(on_threads("spn-dlnet", tmp_path / "run"))])}
    assert found["deep leakage that knows of a secret head"] == FALLS
    assert found["deep leakage (DLG)"] == HOLDS


@pytest.mark.parametrize(
    ("name", "verdict"), [("niss-fedavg-batch", "broken"), ("spn-mlp-batch", FALLS), ("niss-batch", HOLDS)]
)
def test_a_batch_of_eight_rows_is_no_protection(name: str, verdict: str, tmp_path: Path) -> None:
    """Rows are found by units that are silent together, whatever a secret head adds; noise stops that."""
    (row,) = [
        one for one in attack([Recorded.read(on_threads(name, tmp_path / "run"))]) if one.attack.endswith("(SPEAR)")
    ]
    assert (row.verdict, row.attempts) == (verdict, 24)


def test_pbpfl_hides_scales_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmpi.audit.uploads.TRIES", 64)  # rows of batches are test_spear's
    # One secret perturbation in two hundred leaves more lengths as they are than guessing would in a hundred.
    monkeypatch.setattr("fedmpi.pbpfl.command.UnitRandom", lambda: UnitRandom(SecretStream(bytes(32))))
    found = verdicts(on_threads("pbpfl-model", tmp_path / "run"))
    assert found["client", "directions"] == found["client", "signs"] == found["client", "γ"] == FALLS
    assert found["client", "lengths"] == HOLDS


# -- mutations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["codedml-coded", "codedml-paper", "codedml-bgw"])
def test_masks_of_the_first_iteration_are_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the weights, or vectors, of all iterations under the same masks. Any worker alone would see it."""

    def kept(source: Uniform) -> Uniform:
        known: dict[tuple[int, ...], np.ndarray] = {}
        return lambda shape: known.setdefault(shape, source(shape)) if shape not in known else known[shape]

    honest = training.masks
    monkeypatch.setattr(training, "masks", lambda *arguments: tuple(map(kept, honest(*arguments))))
    assert verdicts(on_threads(name, tmp_path / "run"))["2 of the workers (T)", "uniformity"] == FALLS


@pytest.mark.parametrize("name", ["codedml-coded", "codedml-bgw"])
def test_one_mask_too_few_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: polynomials of degree T - 1; T parties then hold the data, and the weights with codes too."""

    def short(source: Uniform) -> Uniform:
        def uniform(shape: tuple[int, ...]) -> np.ndarray:
            drawn = source(shape)
            drawn[-1] = 0
            return drawn

        return uniform

    def weaker(
        completions: list[np.ndarray], residues: Residues, X_bar: np.ndarray, blocks: list[slice], *others: Any
    ) -> Deal:
        K, T = len(blocks), completions[0].shape[1] - len(blocks)
        first = 1 if name == "codedml-bgw" else K + T
        points = range(first, first + T + len(completions[0]))
        nodes = [*range(K), *points[: T - 1]]
        short = [lagrange_basis(field, nodes, points[T - 1 :]) for field in residues.fields]
        return Deal(short, residues, X_bar, blocks, *others)

    honest = training.masks
    monkeypatch.setattr(training, "masks", lambda *arguments: tuple(map(short, honest(*arguments))))
    monkeypatch.setattr(baseline, "Deal", weaker)
    monkeypatch.setattr(protocol, "Deal", weaker)
    found = verdicts(on_threads(name, tmp_path / "run"))
    if name == "codedml-bgw":
        assert found["2 of the workers (T)", "recombination"] == FALLS
    else:
        assert found["2 of the workers (T)", "uniformity"] == FALLS


@pytest.mark.parametrize("name", ["codedml-coded", "codedml-paper", "codedml-bgw"])
def test_a_seed_used_twice_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: two workers make their shares of the data from one seed."""
    monkeypatch.setattr(training, "seeds", lambda *arguments: lambda: bytes(32))
    found = verdicts(on_threads(name, tmp_path / "run"))
    assert found["2 of the workers (T)", "uniformity"] == FALLS


def test_a_mask_used_twice_is_seen_by_s1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the mask of round 0 in every round, at both ends."""
    mask_words = masks.mask_words
    for module in (masks, auxiliary):
        monkeypatch.setattr(module, "mask_words", lambda kind, key, round, count: mask_words(kind, key, 0, count))
    found = verdicts(on_threads("ppadmm", tmp_path / "run"))
    assert found["S1", "uniformity"] == FALLS
    assert found["S2", "any"] == HOLDS


@pytest.mark.parametrize(("masked", "verdict"), [(True, HOLDS), (False, FALLS)])
def test_uploads_of_pbpfl_masked(masked: bool, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: no masks."""
    if not masked:
        monkeypatch.setattr(double_masking, "stretch", lambda seed, round, like: np.zeros_like(like))
    found = verdicts(on_threads("pbpfl-masked", tmp_path / "run"))
    assert found["server", "first"] == found["server", "uniformity"] == verdict


# -- what it refuses ----------------------------------------------------------------------------------------------


def test_a_run_without_views_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = on_threads("codedml-bgw", tmp_path / "run")
    (folder / "views" / "rank-3.npz").unlink()
    assert cli.main(["audit", str(folder)]) == 2
    assert "RUN must be made with --record-views" in capsys.readouterr().err
    assert not (folder / "audit").exists()
    assert cli.main(["audit", str(folder), "--out", str(folder)]) == 2
    assert "the report's folder must be new" in capsys.readouterr().err
    assert (folder / "result.json").exists()
    (folder / "views" / "rank-3.npz").write_bytes(b"PK")
    assert cli.main(["audit", str(folder)]) == 2
    assert "a view must be a whole file" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--quick"], ["--all", "run"]])
def test_either_runs_or_all(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", *arguments]) == 2
    assert "either folders of runs or --all" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(tmp_path)]) == 2
    assert "a run must be a folder with config.toml or result.json" in capsys.readouterr().err


# -- parts ------------------------------------------------------------------------------------------------------------


def row(successes: int, attempts: int = 24, *, protects: bool | None = True, chance: float = 0.0) -> Finding:
    scores = tuple(float(i < successes) for i in range(attempts))
    return Finding("s", "m", "a", "saw", "attack", "claim", protects, "right", scores, successes, chance)


def test_verdicts() -> None:
    assert (row(0).verdict, row(1).verdict) == (HOLDS, FALLS)
    assert (row(1, protects=False).verdict, row(0, protects=False).verdict) == (CONTROL, "THE CONTROL FAILED")
    assert (row(1, protects=None).verdict, row(0, protects=None).verdict) == ("broken", "not broken by this attack")
    assert (row(5, chance=0.1).verdict, row(9, chance=0.1).verdict) == (HOLDS, FALLS)  # guessing has 2.4 on average
    # two of two is no rarer than 0.04 by guessing
    assert {row(0, 2, protects=protects, chance=0.2).verdict for protects in (True, False, None)} == {TOO_FEW}
    assert row(0, 6, chance=0.2).verdict == HOLDS
    seen = replace(row(0), recognized=3)
    assert (seen.verdict, seen.cells["successes"]) == (PARTLY, "0 of 24, 3 more seen")
    assert replace(row(1), recognized=3).verdict == FALLS
    assert merged([seen, seen])[0].recognized == 6
    both = merged([row(2), row(3, 6)])
    assert [(one.successes, len(one.scores)) for one in both] == [(5, 30)]


def test_what_a_person_recognizes() -> None:
    from fedmpi.data import load

    images = (load("digits").X_test[:12] / 16).reshape(-1, 1, 8, 8)
    rng = np.random.default_rng(0)
    assert all(recognized(one + 0.05 * rng.normal(size=one.shape), one) for one in images)
    assert not any(recognized(images.mean(axis=0), one) for one in images)
    assert not recognized(images[0].ravel(), images[0].ravel()), "a row of a table is no picture"


def test_a_report_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report.write([row(1)], tmp_path / "audit", "first")
    monkeypatch.setattr(report.figures, "heatmap", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        report.write([row(2)], tmp_path / "audit", "second")
    assert "first" in (tmp_path / "audit" / "report.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["audit"]


def test_combinations_that_cancel() -> None:
    p = 33554393
    matrix = np.random.default_rng(0).integers(0, p, (2, 5))
    null = null_space(matrix, p)
    assert null.shape == (3, 5)
    assert not (matrix.astype(object) @ null.T.astype(object) % p).any()
    assert len(null_space(np.eye(3, dtype=np.int64), p)) == 0


def test_words() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 2000, np.uint64)
    assert p_value_of_words([words]) > 1e-6
    assert p_value_of_words([words >> np.uint64(8)]) < 1e-6
    assert p_value_of_words([words.view("<u4")]) > 1e-6


@pytest.mark.slow
def test_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Reduced to three of the settings, on threads."""

    def train(folder: Path, ranks: int, options: list[str], *, system: str) -> None:
        assert "--record-views" in options
        recorded_on_threads(system, ranks, options, folder)

    few = [SETTINGS[name] for name in ("codedml-coded", "niss-fedavg-members", "pbpfl-model")]
    monkeypatch.setattr(campaign, "settings", lambda: iter(few))
    for module in (steps, traps):  # their own tests have all of them
        own = [next(case for case in module.cases() if case.options.get("model", "mlp") == "mlp")]
        monkeypatch.setattr(module, "cases", lambda own=own: iter(own))
    monkeypatch.setattr(campaign, "train", train)
    monkeypatch.setattr("fedmpi.audit.uploads.TRIES", 64)
    path = command.audit_all(campaign.QUICK, tmp_path)
    text = path.read_text()
    assert (tmp_path / "report" / "pictures" / "membership.png").is_file()
    assert "THE CONTROL FAILED" not in text
    for expected in (
        "two-sample test",
        "S1 and S2",
        "membership by LiRA",
        "(imprint)",
        "step of Adam",
        "directions of rows",
        "γ by regression",
    ):
        assert expected in text
    assert "S1 and S2" in capsys.readouterr().out


def test_no_attack_for_what_is_not_private(tmp_path: Path) -> None:
    folder = on_threads("codedml-bgw", tmp_path / "run")
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(text.replace('"method": "bgw"', '"method": "plain"'))
    with pytest.raises(UsageError, match="an attack is known for, got codedml --method plain"):
        attack([Recorded.read(folder)])


@pytest.mark.parametrize("result", ["[]", "{}", '{"system": "niss", "method": "niss", "ranks": "4", "seed": 0}'])
def test_a_result_of_something_else_is_refused(result: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "result.json").write_text(result)
    assert cli.main(["audit", str(tmp_path)]) == 2
    assert "RUN must be the folder of a finished run, got" in capsys.readouterr().err


# -- secure sums ------------------------------------------------------------------------------------------------------


class Same(SecretStream):
    """A stream that begins anew for every member, and in every round."""

    def __init__(self, key: bytes | None = None, number: int = 0) -> None:
        super().__init__(key or bytes(32), number)


def one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks of the first round in every round."""
    stretch = double_masking.stretch
    for module in (double_masking, lightsecagg):
        monkeypatch.setattr(module, "SecretStream", Same)
    monkeypatch.setattr(double_masking, "stretch", lambda seed, round, like: stretch(seed, 0, like))


def no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (double_masking, lightsecagg):
        monkeypatch.setattr(module.Member, "mask", lambda member, words: words.copy())


@pytest.mark.parametrize("name", ["niss-double", "niss-lightsecagg"])
@pytest.mark.parametrize(("mutation", "verdict"), [(None, HOLDS), (one_mask, FALLS), (no_mask, FALLS)])
def test_what_the_server_of_a_secure_sum_gets(
    name: str,
    mutation: Callable[[pytest.MonkeyPatch], None] | None,
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if mutation is not None:
        mutation(monkeypatch)
    folder = on_threads(name, tmp_path / "run", "--rounds", "2")
    (found,) = secure_sums.findings(Recorded.read(folder))
    assert (found.verdict, len(found.scores)) == (verdict, 10)


def test_who_opens_one_upload_of_a_secure_sum() -> None:
    """T clients do not, with the server; U do."""
    found = [(one.verdict, one.successes) for one in secure_sums.together(0)]
    assert found == [(HOLDS, 0), (CONTROL, 3)] * 2
