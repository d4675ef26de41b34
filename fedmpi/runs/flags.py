"""The flags of a command line, in the same groups and order for every system, each with the help of its field."""

import ast
import dataclasses
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Collection
from itertools import pairwise
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

GROUPS: dict[str, tuple[str, ...]] = {
    "protocol": (),
    "training": (
        "model",
        "target",
        "clients",
        "fraction",
        "aggregation",
        "iterations",
        "rounds",
        "total_epochs",
        "epochs",
        "batch_size",
        "optimizer",
        "solver",
        "l2",
        "learning_rate",
        "momentum",
        "decay",
        "decay_rounds",
        "average",
        "tolerance",
        "dtype",
        "device",
        "evaluate_every",
        "compare",
    ),
    "data": (
        "dataset",
        "data_dir",
        "classes",
        "max_rows",
        "test_fraction",
        "class_weight",
        "label_column",
        "test_file",
        "categorical",
        "impute",
        "statistics",
        "own_rows",
        "schema",
        "image_shape",
        "split_by",
        "partition",
        "dirichlet_alpha",
        "scale",
        "center",
        "bias",
        "fit_intercept",
        "standardize",
    ),
    "survival": (
        "timeout",
        "deadline",
        "on_dropout",
        "min_participants",
        "spares",
        "byzantine",
        "dropout",
        "inject",
        "checkpoint_every",
        "resume",
    ),
    "security": ("encrypt", "cluster_key", "strict_placement", "insecure_repeatable_masks"),
    "run": ("out", "seed", "config", "record_views", "dry_run", "quiet", "json"),
}
"""Which flags stand together. All that are not named here are of the first group."""

OF_SOME = {"compare": {"codedml", "ppadmm"}, "inject": {"codedml"}}
"""Flags that mean something in these systems only; the others take them, and leave them out of --help."""


def command_of(*classes: type[Any], for_help: bool = False, only: Collection[str] | None = None) -> type[Any]:
    """A dataclass for tyro: one field for each group, whose fields are the flags of all classes.

    Parameters
    ----------
    *classes : dataclass
        Every field must have a default that cannot change; its docstring becomes its help.
    for_help : bool
        Leave out `OF_SOME` where they mean nothing: tyro does not read what it hides.
    only : collection of str, optional
        The fields that there are to be. Default: all.
    """
    of_flag = {name: group for group, names in GROUPS.items() for name in names}
    systems = set(classes[0].__module__.split("."))
    groups = defaultdict(list)
    for cls in classes:
        hints, texts = get_type_hints(cls, include_extras=True), help_texts(cls)
        for field in dataclasses.fields(cls):
            if only is not None and field.name not in only:
                continue
            hint = _with_help(hints[field.name], field.default, texts.get(field.name, ""))
            if for_help and field.name in OF_SOME and not OF_SOME[field.name] & systems:
                hint = Annotated[hint, tyro.conf.Suppress]
            groups[of_flag.get(field.name, "protocol")].append((field.name, hint, field.default))
    command = []
    for group, names in GROUPS.items():
        if only is not None and group not in groups:
            continue
        flags = sorted(groups[group], key=lambda flag: names.index(flag[0]) if names else 0)
        kind: Any = dataclasses.make_dataclass(group, flags)
        command.append((group, Annotated[tyro.conf.OmitArgPrefixes[kind], tyro.conf.arg(help="")]))  # type: ignore[misc]
    return dataclasses.make_dataclass("Command", command)


def values_of(command: Any, cls: type[Any]) -> dict[str, Any]:
    """What a command line says for the fields of one of the classes."""
    values = {name: value for group in vars(command).values() for name, value in vars(group).items()}
    return {field.name: values[field.name] for field in dataclasses.fields(cls)}


def help_texts(cls: type[Any]) -> dict[str, str]:
    """The docstring below each field that has one, as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    texts = {}
    for field, text in pairwise(definition.body if isinstance(definition, ast.ClassDef) else []):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                texts[name] = " ".join(said.split())
    return texts


def _with_help(hint: Any, default: Any, text: str) -> Any:
    """The type of a field, for tyro; where the default is none, the help says by itself what holds without the flag."""
    kind, *given = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    metavar = None
    if default is None:
        (one,) = (one for one in get_args(kind) if one is not NoneType)
        choices = get_args(one) if get_origin(one) is Literal else ()
        metavar = f"{{{','.join(map(str, choices))}}}" if choices else one.__name__.upper()
    hint_of_default = "" if default in (None, ()) else None
    return Annotated[kind, tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=hint_of_default), *given]
