"""Membership by LiRA: better than the loss alone, nothing where nothing is, and intervals that are right."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedmpi.attacks.membership import Membership, lira, logits
from fedmpi.audit.finding import Finding, told
from fedmpi.errors import UsageError

MEMBERS, OTHERS, MODELS = 400, 2000, 4


def losses(phi: np.ndarray) -> np.ndarray:
    """Whose logits are these."""
    return np.log1p(np.exp(-phi))


def scores(gain: float, seed: int = 0, *, hard: float = 2.0) -> tuple[Membership, Membership]:
    """Of LiRA, and of the loss, where rows differ in how hard they are and members gain something."""
    rng = np.random.default_rng(seed)
    rows = MEMBERS + 2 * OTHERS
    easy = rng.normal(scale=hard, size=rows)
    own = easy + rng.normal(size=rows) + gain * (np.arange(rows) < MEMBERS)
    references = easy + rng.normal(size=(MODELS, rows))
    cuts = [MEMBERS, MEMBERS + OTHERS]
    inside, outside, known = np.split(losses(own), cuts)
    usual = np.split(losses(references), cuts, axis=1)
    found = Membership(*(lira(part, usual[i], known, usual[2]) for i, part in enumerate((inside, outside))))
    return found, Membership(-inside, -outside)


def test_logits_of_losses() -> None:
    phi = np.array([-30.0, -1.0, 0.0, 3.0, 20.0])
    assert logits(losses(phi)) == pytest.approx(phi, rel=1e-6)
    assert np.isfinite(logits(np.array([0.0, 800.0]))).all()


def test_reference_models_tell_easy_rows_from_known_ones() -> None:
    """Positive control: a gain of two deviations drowns in how hard rows are, for who looks at losses alone."""
    by_ratio, by_loss = scores(2.0)
    assert by_loss.area < 0.8 < 0.88 < by_ratio.area
    assert by_ratio.found(0.01) > 4 * by_loss.found(0.01) > 0
    by_ratio, by_loss = scores(2.0, hard=0.0)
    assert by_ratio.area > by_loss.area - 0.01, "references that tell nothing do no harm"


def test_members_and_others_exchanged() -> None:
    """Negative control, with its coverage: of a hundred intervals about 95 have 0.5 in them."""
    found, _ = scores(2.0)
    mixed = [found.exchanged(np.random.default_rng(seed)) for seed in range(100)]
    covered = sum(low <= 0.5 <= high for low, high in (one.area_interval for one in mixed))
    assert 88 <= covered <= 100
    rates = [one.found(0.01) / MEMBERS for one in mixed]
    assert np.mean(rates) == pytest.approx(0.01, abs=0.004)
    assert sum(told(row(), one).broken for one in mixed) <= 2, "a verdict is wrong in one of a hundred audits"


def row(*, protects: bool = True) -> Finding:
    return Finding("niss", "fedavg", "anybody", "a model", "membership", "", protects, "", (), 0)


def test_verdicts() -> None:
    found, _ = scores(2.0)
    none, _ = scores(0.0)
    assert told(row(), found).verdict == "DOES NOT SURVIVE"
    assert told(row(protects=False), found).verdict == "broken, as it must be"
    assert told(row(), none).verdict == "survives this attack"
    few = Membership(np.ones(1), np.zeros(30))
    assert told(row(), few).verdict == "too few attempts to tell"


def test_areas_and_intervals() -> None:
    found, _ = scores(1.0)
    y = np.repeat([1, 0], [MEMBERS, OTHERS])
    assert found.area == pytest.approx(roc_auc_score(y, np.concatenate(found.both)))
    low, high = found.area_interval
    areas = [scores(1.0, seed)[0].area for seed in range(1, 40)]
    assert high - low == pytest.approx(2 * 1.96 * np.std(areas), rel=0.35)
    assert found.found(0.01) / MEMBERS == pytest.approx(found.roc.true_positive_at(0.01), abs=0.01)
    low, high = found.interval(0.01)
    assert low < found.found(0.01) / MEMBERS < high
    assert found.chance(0.01) > 0.01
    together = found.joined(scores(1.0, 1)[0])
    assert len(together.inside) == 2 * MEMBERS


def test_rates_that_so_few_rows_can_not_show() -> None:
    """One part in a thousand of five hundred rows is none."""
    few = Membership(np.linspace(0, 2, 100), np.linspace(0, 1, 500))
    assert "too few to tell at 0.1 %" in str(few)
    assert "at 1 %" in str(few)
    same = Membership(np.zeros(100), np.zeros(500))
    assert same.found(0.01) == 0, "rows of one score are not told apart"


@pytest.mark.parametrize(("models", "rows"), [(1, 2), (2, 2)])
def test_reference_models_of_other_rows_are_refused(models: int, rows: int) -> None:
    with pytest.raises(UsageError, match="reference models must tell of the same rows"):
        lira(np.ones(rows), np.ones((models, 3)), np.ones(3), np.ones((2, 3)))
