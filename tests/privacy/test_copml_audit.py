"""What `fedmpi audit` says of COPML's owners: T learn nothing, T + 1 the rows, and mutations turn the verdicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from privacy.test_audit import CONTROL, FALLS, HOLDS, SETTINGS, on_threads, verdicts

from fedmpi.copml.params import Params
from fedmpi.copml.sharing import Once
from fedmpi.core import Shamir
from fedmpi.core.lagrange import lagrange_basis

T_OWNERS, MORE = "2 of the owners (T)", "3 of the owners (T + 1)"


@pytest.mark.parametrize("name", ["copml", "copml-bgw"])
def test_two_owners_learn_nothing_and_three_the_rows(name: str, tmp_path: Path) -> None:
    one = on_threads(name, tmp_path / "one")
    two = on_threads(name, tmp_path / "two", *SETTINGS[name].alternatives[1])
    found = verdicts(one, two)
    assert found.pop(("1 of the owners", "equality")) in ("broken", "not broken by this attack")
    held = ("uniformity", "change", "gradient", "interpolation", "two-sample")
    assert found == dict.fromkeys(((T_OWNERS, attack) for attack in held), HOLDS) | {
        (MORE, "gradient"): CONTROL,
        (MORE, "interpolation"): CONTROL,
    }


def test_one_owner_learns_nothing_where_each_encodes_its_own_rows_but_the_sums_of_columns(tmp_path: Path) -> None:
    """With --center; two data sets are told apart by what is opened."""
    runs = [
        on_threads("copml-own", tmp_path / name, "--center", *more)
        for name, more in (("one", ()), ("two", SETTINGS["copml-own"].alternatives[1]))
    ]
    found = verdicts(*runs)
    one, two = "1 of the owners (T)", "2 of the owners (T + 1)"
    assert found.pop(("1 of the owners", "equality")) == "broken"
    held = ("uniformity", "change", "gradient", "two-sample")
    assert found == {(one, attack): HOLDS for attack in held} | {(two, "gradient"): CONTROL}


def test_a_mask_used_twice_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the same shares of masks in every iteration."""
    monkeypatch.setattr(Once, "take", lambda self, count: self._shares[:, :count])
    assert verdicts(on_threads("copml", tmp_path / "run"))[T_OWNERS, "change"] == FALLS


def test_shares_of_a_lower_degree_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: polynomials of degree T - 1; T owners then hold the rows."""
    share = Shamir.share

    def short(self: Shamir, secret: Any, uniform: Any, out: Any = None) -> Any:
        def zero_at_last(shape: tuple[int, ...]) -> Any:
            drawn = uniform(shape)
            drawn[-1] = 0
            return drawn

        return share(self, secret, zero_at_last, out)

    monkeypatch.setattr(Shamir, "share", short)
    assert verdicts(on_threads("copml", tmp_path / "run"))[T_OWNERS, "interpolation"] == FALLS


def test_points_that_overlap_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: α_i = β_i, as in the authors' scripts: K owners get a block of the rows as it is."""
    code = Params.code

    def overlapping(self: Params, field: Any, owners: int) -> Any:
        made = code(self, field, owners)
        made.alphas = tuple(range(owners))
        made.encoding_matrix = np.ascontiguousarray(lagrange_basis(field, made.betas, made.alphas))
        return made

    monkeypatch.setattr(Params, "code", overlapping)
    assert verdicts(on_threads("copml-own", tmp_path / "run"))["1 of the owners (T)", "uniformity"] == FALLS
