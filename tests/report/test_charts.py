"""The charts of a report: colours and lines can be told apart, and runs on different rows are never mixed."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from report import recorded

from fedmpi.pages import coinciding, palette
from fedmpi.report.charts import line_chart
from fedmpi.report.curves import AXES, pictures
from fedmpi.report.glance import epsilon, gap, sent, short_names, state, who_learns
from fedmpi.runs.reading import Run, read_runs
from fedmpi.systems import OWN, find


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Twelve of them."""
    return {run.name: run for run in read_runs(recorded.write(tmp_path_factory.mktemp("runs")))}


# -- colours --------------------------------------------------------------------------------------------------------

XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
PROTANOPIA = "0.152286 1.052583 -0.204868 0.114503 0.786281 0.099216 -0.003882 -0.048116 1.051998"
DEUTERANOPIA = "0.367322 0.860646 -0.227968 0.280085 0.672501 0.047413 -0.01182 0.04294 0.968881"
SEEN_BY = {
    "most people": np.eye(3),
    "who has no red cones": np.fromstring(PROTANOPIA, sep=" ").reshape(3, 3),
    "who has no green cones": np.fromstring(DEUTERANOPIA, sep=" ").reshape(3, 3),
}
"""Linear RGB as it appears [Machado et al. 2009]."""


def linear(color: str) -> NDArray[np.float64]:
    rgb = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.clip(rgb, 0, 1) @ XYZ.T / [0.9505, 1, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("who", SEEN_BY)
@pytest.mark.parametrize("colors", [palette.LIGHT, palette.DARK])
def test_twelve_colours_stay_apart(colors: tuple[str, ...], who: str) -> None:
    seen = [lab(SEEN_BY[who] @ linear(color)) for color in colors]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 19
    assert len(colors) == 12


@pytest.mark.parametrize(("colors", "card"), [(palette.LIGHT, "#ffffff"), (palette.DARK, "#1b212b")])
def test_colours_are_seen_on_their_card(colors: tuple[str, ...], card: str) -> None:
    for color in colors:
        dim, bright = sorted(float(linear(one) @ XYZ[1]) for one in (color, card))
        assert (bright + 0.05) / (dim + 0.05) > 3, color


def test_of_144_runs_no_two_look_alike() -> None:
    assert len({palette.style(k) for k in range(144)}) == 144


# -- lines on one another -------------------------------------------------------------------------------------------


def test_the_same_to_the_bit_is_told_apart_and_said(runs: dict[str, Run]) -> None:
    (chart,) = [one for one in pictures([runs[n] for n in ("coded", "bgw", "bh08")]) if one.title == "test accuracy"]
    assert chart.levels == {"plain": pytest.approx(0.986, abs=1e-3)}
    drawn = line_chart("t", "x", chart.lines, chart.numbers, chart.levels)
    assert drawn.notes == ("coded, bgw and bh08 are the same to the last bit: their dashes take turns along one line.",)
    assert drawn.svg.count('stroke-dasharray="7 14"') == 3
    assert [f'stroke-dashoffset="{offset}"' in drawn.svg for offset in ("0", "-7", "-14")] == [True] * 3 or (
        'stroke-dashoffset="-0"' in drawn.svg
    )


def test_what_differs_a_little_is_not_called_the_same() -> None:
    lines = {"a": ([0, 1], [0.0, 1.0]), "b": ([0, 1], [0.001, 1.0]), "c": ([0, 1], [0.1, 1.0]), "d": ([0, 2], [0, 1])}
    (group,) = coinciding.groups(lines, 2.0, 1.0)
    assert group == ["a", "b"]
    assert coinciding.sentence(group, lines).startswith("a and b differ by at most 0.001: ")


# -- what stands where ----------------------------------------------------------------------------------------------


def test_rows_that_differ_are_never_in_one_chart(runs: dict[str, Run]) -> None:
    for one in pictures(list(runs.values())):
        datasets = {runs[name].table("dataset")["m"] for name in one.lines}
        assert len(datasets) == 1, one.title


def test_curves_are_drawn_against_rounds_seconds_bytes_and_epsilon(runs: dict[str, Run]) -> None:
    drawn = {axis: {name for one in pictures(list(runs.values()), axis) for name in one.lines} for axis in AXES}
    assert drawn["rounds"] == drawn["seconds"] == drawn["bytes"] == set(runs)
    assert drawn["ε of uploads"] >= {"niss", "dp-fedavg", "stopped"}
    assert "dp-fedavg" in drawn["ε of the model"]
    assert "fedavg" not in drawn["ε of uploads"] | drawn["ε of the model"]


def test_a_stopped_run_is_shown_with_all_it_has(runs: dict[str, Run]) -> None:
    run = runs["stopped"]
    assert run.result == {}
    assert "after step 8" in state(run)
    assert "of a client's uploads" in epsilon(run)
    assert "τ² = 0 stays in the sum" in who_learns(run)
    assert sent(run).endswith("by rank 0 so far")
    names = short_names(list(runs.values()))
    assert gap(run, list(runs.values()), names).endswith("points to fedavg")


def test_names_are_short_and_differ() -> None:
    names = ["niss-fedavg-20261130-094549", "codedml-coded-20261130-094549", "codedml-coded-20261130-094550", "x" * 60]
    found = short_names([Run(Path("a"), name) for name in names])
    assert found[names[0]] == "niss-fedavg"
    assert len(set(found.values())) == 4
    assert max(map(len, found.values())) <= 18


def test_names_of_a_study_keep_their_seed_beside_other_runs() -> None:
    names = ["codedml-bgw-seed0-f55c7cabbd", "codedml-bgw-seed1-657d6d40f6", "mysystem-average-20261130-105716"]
    found = short_names([Run(Path("a"), name) for name in names])
    assert [*found.values()] == ["codedml-bgw-seed0", "codedml-bgw-seed1", "mysystem-average"]


def test_names_of_a_study_say_what_differs() -> None:
    names = [f"niss-{method}-epsilon=10-seed={seed}-digits" for method in ("niss", "dp-fedavg") for seed in (0, 1)]
    found = short_names([Run(Path("a"), name) for name in names])
    assert [*found.values()] == ["niss-seed=0", "niss-seed=1", "dp-fedavg-seed=0", "dp-fedavg-seed=1"]
    names = ["codedml-coded-iterations=20", "codedml-bgw-iterations=20"]
    assert [*short_names([Run(Path("a"), name) for name in names]).values()] == ["coded", "bgw"]


@pytest.mark.parametrize("system", OWN)
def test_every_method_says_who_learns_what(system: str, runs: dict[str, Run]) -> None:
    from importlib import import_module
    from typing import get_args, get_type_hints

    record = find(system)
    methods = get_args(get_type_hints(import_module(f"fedmpi.{system}.params").Params)["method"])
    assert set(record.learns) == set(methods)
    for run in runs.values():
        if run.known["system"] == system:
            assert "several" not in who_learns(run)
            assert "{" not in who_learns(run)
