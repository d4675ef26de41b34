"""One rank is killed or frozen at some moment of a run: a few cases of `kills.py`, which has all 216."""

import pytest
from faults import kills


def test_all_roles_of_all_systems_are_struck_at_all_moments() -> None:
    everything = list(kills.cases())
    assert len({str(case) for case in everything}) == len(everything) == 240
    assert {case.system for case in everything} == {"codedml", "ppadmm", "niss", "pbpfl", "spn"}
    assert sum(not case.unpromised for case in everything) == 216


DRAWN = [case for case in kills.drawn(216, seed=27) if case.system in ("codedml", "ppadmm") and case.fault == "kill"][
    :4
]
"""Those that start without torch, and wait for nobody's --timeout: some five seconds each."""


@pytest.mark.slow
@pytest.mark.parametrize("case", DRAWN, ids=str)
def test_a_rank_that_is_killed(case: kills.Case) -> None:
    assert case.run(timeout=60.0, slack=20.0) == []


@pytest.mark.slow
def test_a_rank_0_that_is_frozen_is_named_and_all_are_ended() -> None:
    (case,) = [one for one in kills.cases() if str(one) == "codedml master freeze training fedmpi"]
    assert case.run(timeout=6.0, slack=20.0) == []
