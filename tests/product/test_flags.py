"""Flags of all systems and commands beside one another: the same words for the same thing, and help for each."""

import dataclasses
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

from fedmpi.cli import COMMANDS, main
from fedmpi.errors import UsageError
from fedmpi.runs.flags import GROUPS, OF_SOME, help_texts
from fedmpi.runs.options import RunOptions, parse
from fedmpi.systems import OWN as SYSTEMS

PARAMS = {system: import_module(f"fedmpi.{system}.params").Params for system in (*SYSTEMS, "attacks")}
CLASSES = PARAMS | {"run": RunOptions}

OWN_MEANING = {"method", "model", "learning_rate", "rounds", "bits", "tolerance", "device"}
"""Flags whose choices or defaults are a system's own; they are still of one kind."""

OTHER_KIND = {"learning_rate", "bits"}
"""But these: codedml has rules beside numbers, or instead of one."""

NESTED = [
    *(["data", name] for name in ("list", "fetch")),
    *(
        ["bench", name]
        for name in (
            "attacks", "kernels", "codedml", "copml", "encryption", "mpc", "niss", "startup", "survival", "ppadmm",
            "pbpfl",
        )
    ),
]  # fmt: skip


def kinds(hint: Any) -> set[Any]:
    """int, float, str, … of a field, None and choices aside."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(bare) is Literal:
        return {type(one) for one in get_args(bare)}
    parts = [one for one in get_args(bare) if one not in (NoneType, ...)]
    return set().union(*map(kinds, parts)) if parts else {bare}


def subject(cls: type[Any], text: str) -> str:
    """What a help text says first, without the methods that it is for."""
    methods = {one for name in ("method", "defence") for one in get_args(get_type_hints(cls).get(name, Any))}
    head, colon, rest = text.partition(": ")
    only_some = bool(colon) and set(head.split(", ")) <= methods
    return re.split(r"[.:;](?: |$)", rest if only_some else text)[0].lower()


def test_every_flag_has_a_help_that_says_what_holds_without_it() -> None:
    wrong = []
    for owner, cls in CLASSES.items():
        texts = help_texts(cls)
        for field in dataclasses.fields(cls):
            text = texts.get(field.name, "")
            ends = text.endswith((".", "…"))
            if not ends or (field.default in (None, ()) and "Default: " not in text):
                wrong.append((owner, field.name, text))
    assert wrong == []


def test_a_flag_of_two_systems_means_the_same_in_both() -> None:
    found: dict[str, dict[str, tuple[set[Any], str]]] = defaultdict(dict)
    for system, cls in PARAMS.items():
        hints, texts = get_type_hints(cls, include_extras=True), help_texts(cls)
        for field in dataclasses.fields(cls):
            found[field.name][system] = kinds(hints[field.name]), subject(cls, texts[field.name])
    for name, uses in found.items():
        first, *others = uses.values()
        for kind, said in others:
            assert kind == first[0] or name in OTHER_KIND, (name, uses)
            assert said == first[1] or name in OWN_MEANING, (name, uses)
        assert name not in {field.name for field in dataclasses.fields(RunOptions)}, name
    assert {"clients", "epochs", "partition", "share_fraction", "noise_std"} <= {
        n for n, u in found.items() if len(u) > 1
    }


def test_another_meaning_would_be_noticed() -> None:
    niss, pbpfl = PARAMS["niss"], PARAMS["pbpfl"]
    assert subject(niss, help_texts(niss)["epochs"]) != subject(pbpfl, help_texts(pbpfl)["total_epochs"])
    assert kinds(int | None) == kinds(int) != kinds(float)


def test_every_flag_has_one_group() -> None:
    named = [name for names in GROUPS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= {field.name for cls in CLASSES.values() for field in dataclasses.fields(cls)}
    assert {field.name for field in dataclasses.fields(RunOptions)} <= set(named)


@pytest.mark.parametrize("system", PARAMS)
def test_systems_have_the_same_groups_in_the_same_order(system: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(PARAMS[system], ["--help"], "fedmpi", "")
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert re.findall(r"^[^\w\n]*(\w+) options[^\w\n]*$", text, re.MULTILINE) == list(GROUPS)
    assert "None" not in text.replace("(default: none)", "")
    for field in dataclasses.fields(PARAMS[system]):
        assert f"--{field.name.replace('_', '-')}" in text


@pytest.mark.parametrize("system", PARAMS)
def test_help_has_no_flag_that_the_system_has_no_use_for(system: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(PARAMS[system], ["--help"], "fedmpi", "")
    text = capsys.readouterr().out
    shown = {name for name in OF_SOME if re.search(rf"--{name}( STR|, --no-)", text)}
    assert shown == {name for name, systems in OF_SOME.items() if system in systems}


@pytest.mark.parametrize("command", [*([name] for name in COMMANDS), *NESTED], ids=" ".join)
def test_no_help_of_a_command_says_none(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "None" not in text
    assert "(default: )" not in text


def test_what_a_command_line_says_reaches_both_classes(tmp_path: Path) -> None:
    line = ["--clients", "3", "--dirichlet-alpha", "2", "--classes", "a", "b", "--no-compare", "--out", str(tmp_path)]
    params, options = parse(PARAMS["spn"], line, "fedmpi", "")
    assert (params.clients, params.dirichlet_alpha) == (3, 2.0)
    assert (options.classes, options.compare, options.out) == (("a", "b"), False, tmp_path)
    with pytest.raises(UsageError, match="--share-fraction must"):
        parse(PARAMS["spn"], ["--share-fraction", "2"], "fedmpi", "")
