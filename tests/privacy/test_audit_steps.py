"""What the audit makes of clients' steps: networks, Adam, trained models, batches, sums; and of what is no gradient."""

from dataclasses import replace

import numpy as np
import pytest

from fedmpi.audit import columns, steps, uploads
from fedmpi.audit.clients import Upload

CASES = {(case.name, case.saw): case for case in steps.cases()}

CHEAP = [
    case
    for case in CASES.values()
    if case.rounds > 1 or case.options.get("optimizer") == "adam" or case.rows > 1 or case.name.endswith("cnn")
]


@pytest.mark.parametrize("case", CHEAP, ids=lambda case: f"{case.system}-{case.name}-{case.saw}")
def test_what_is_found(case: steps.Case) -> None:
    """Everything of one row; all labels of a batch; rows of a sum."""
    for one in steps.found(replace(case, attacked=min(case.attacked, 3)), 0):
        assert one.broken, one.attack
        if not case.summed:
            assert one.successes == one.attempts
        assert (one.method, one.saw) == (case.name, case.saw)


@pytest.mark.parametrize("attack", [steps.INVERTING, steps.SILHOUETTE, steps.LABELS, uploads.CLOSED_FORM])
def test_noise_in_place_of_a_gradient_tells_nothing(attack: str) -> None:
    """Control: what an attack finds comes from the upload, not from the judge."""
    case = next(case for case in CHEAP if attack in case.attacks)
    work = steps.Work(replace(case, attacked=3), 0)
    rng = np.random.default_rng(0)
    ours = [Upload(one.client, one.w, rng.normal(size=len(one.w))) for one in work.computed()]
    found = steps.ATTACKS[attack](work, ours)
    assert found is not None
    assert found.successes == 0


def test_every_network_of_the_papers_is_attacked() -> None:
    """In recorded runs are mlp and dlnet, the others here."""
    networks = {case.options["model"] for case in CASES.values()}
    assert networks == {"cnn", "alexnet", "vgg16", "resnet20", "mlp"}


def test_sums_of_columns() -> None:
    """The server alone sees uniform words; with all hosts but one it has the last one's sums."""
    assert [one.verdict for one in columns.findings(0)] == ["survives this attack", "broken, as it must be"]


def test_sums_of_columns_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: masks of zeros."""
    from fedmpi.securesum import pairwise

    honest = pairwise.pair_mask
    monkeypatch.setattr(pairwise, "pair_mask", lambda *arguments: np.zeros_like(honest(*arguments)))
    assert next(columns.findings(0)).verdict == "DOES NOT SURVIVE"
