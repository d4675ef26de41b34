"""One rank is killed or frozen at some moment of a run: a drawn twenty of the cases of `kills.py`, which has 216."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from faults import kills


def test_all_roles_of_all_systems_are_struck_at_all_moments() -> None:
    everything = list(kills.cases())
    assert len({str(case) for case in everything}) == len(everything) == 240
    assert {case.system for case in everything} == {"codedml", "ppadmm", "niss", "pbpfl", "spn"}
    assert sum(not case.unpromised for case in everything) == 216


@pytest.mark.waits
@pytest.mark.slow
def test_a_drawn_twenty() -> None:
    cases = kills.drawn(20, seed=27)
    with ThreadPoolExecutor(6) as pool:  # those that freeze somebody wait, most of them for --timeout
        found = pool.map(lambda case: case.run(timeout=40.0, slack=30.0), cases)
        assert {str(case): wrong for case, wrong in zip(cases, found, strict=True) if wrong} == {}
