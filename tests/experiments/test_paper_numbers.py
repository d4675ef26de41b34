"""The choices that papers leave open, as docs/papers.md sets them beside the numbers that the papers print."""

from pathlib import Path

import pytest

from fedmpi.codedml.params import Params as CodedParams
from fedmpi.learn import build_model
from fedmpi.niss.mechanism import epsilon_for, noise_multiplier
from fedmpi.niss.params import Params as NissParams
from fedmpi.pbpfl.params import Params as PbpflParams
from fedmpi.reproduce.niss.settings import CLIENTS, FRACTION
from fedmpi.spn.params import Params as SpnParams

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"


def parameters(model: str, shape: tuple[int, ...]) -> int:
    return sum(p.numel() for p in build_model(model, shape, 10, 0).parameters())


def test_niss_has_the_paper_s_settings_and_its_noise_is_what_the_page_says() -> None:
    p = NissParams()
    assert (CLIENTS, FRACTION, p.batch_size, p.learning_rate, p.epochs) == (100, 0.3, 10, 0.01, 5)
    assert (p.epsilon, p.delta, p.clip) == (10, 1e-4, 3)
    m, rows = 30, 600
    sensitivity = 2 / m * p.learning_rate * p.clip * p.epochs * rows / p.batch_size
    sigma = noise_multiplier(10, 1e-4, "classic") * sensitivity  # Theorem 1
    assert sensitivity == pytest.approx(0.6)
    assert sigma == pytest.approx(0.26, abs=5e-3)
    assert sigma * m**0.5 == pytest.approx(1.4, abs=0.05)
    assert sigma**2 / 0.01 == pytest.approx(6.8, abs=0.05)  # v
    assert epsilon_for(0.1 / m / sensitivity, 1e-4) == pytest.approx(17_000, rel=0.02)
    assert [parameters(model, (1, 28, 28)) for model in ("mlp", "cnn")] == [199_210, 1_663_370]


def test_codedml_has_the_paper_s_layout_and_bits() -> None:
    paper = CodedParams(paper=True)
    assert (paper.degree, paper.data_bits, paper.weight_bits, paper.coefficient_bits) == (1, 2, 6, 3)
    codes = [CodedParams(paper=True, case=case).code(50) for case in (1, 2)]
    assert [(code.parallelization, code.privacy) for code in codes] == [(16, 1), (10, 7)]
    threshold, groups = CodedParams(paper=True, method="bgw").groups(50)
    assert (threshold, len(groups)) == (7, 3)


def test_spn_has_the_paper_s_settings_and_networks() -> None:
    p = SpnParams()
    assert (p.alpha1, p.bits, p.batch_size, p.epochs, p.optimizer) == (1, 64, 32, 1, "adam")
    shapes = [tuple(w.shape) for w in build_model("dlnet", (3, 32, 32), 10, 0).parameters() if w.ndim > 1]
    assert shapes == [(12, 3, 5, 5), *[(12, 12, 5, 5)] * 3, (10, 768)]  # Table 6
    shapes = [tuple(w.shape) for w in build_model("alexnet", (3, 32, 32), 10, 0).parameters() if w.ndim > 1]
    assert shapes[-2:] == [(256, 4096), (10, 256)]  # Table 4


def test_pbpfl_s_networks_are_larger_than_the_paper_s() -> None:
    assert PbpflParams().batch_size == 32
    assert parameters("resnet56", (3, 32, 32)) / 1e6 == pytest.approx(1.24, abs=5e-3)  # 0.85 in the paper


def test_the_page_and_the_tests_have_the_same_numbers() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for said in ("v = 6.8", "σ_k = 0.26", "17 000", "199 210 and 1 663 370", "1.24 million", "2.2, 1.0 and 0.66"):
        assert said in text
