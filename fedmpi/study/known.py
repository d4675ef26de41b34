"""What may be said to a system: its methods, its parameters, and which of them mean something to which method."""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, get_args, get_type_hints

from fedmpi.errors import UsageError
from fedmpi.runs.flags import help_texts
from fedmpi.runs.options import RunOptions
from fedmpi.system import System
from fedmpi.systems import find, names

N = "N"
"""Of a grid: clients of a federated system, and of others the ranks of the last role (workers, participants)."""

OF_THE_STUDY = {"method", "dataset", "seed", "out", "resume", "config", "record_views", "dry_run", "quiet", "json"}
"""Options that a study sets itself."""

_FOR_SOME = re.compile(r"([\w-]+(?:, [\w-]+)*): ")


@dataclass(frozen=True)
class Known:
    """A system, as the options of its command line show it."""

    system: System

    @cached_property
    def parameters(self) -> type[Any]:
        """The dataclass of its parameters."""
        return self.system.options()

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """What --method may be."""
        return tuple(map(str, get_args(_plain(get_type_hints(self.parameters, include_extras=True)["method"]))))

    @cached_property
    def default_method(self) -> str:
        """What --method is where it is not given."""
        return next(str(field.default) for field in dataclasses.fields(self.parameters) if field.name == "method")

    @cached_property
    def fields(self) -> dict[str, str]:
        """Name or letter of each option → name of its field."""
        found = {}
        for cls in (self.parameters, RunOptions):
            hints = get_type_hints(cls, include_extras=True)
            for field in dataclasses.fields(cls):
                found[field.name] = field.name
                for extra in getattr(hints[field.name], "__metadata__", ()):
                    for alias in getattr(extra, "aliases", None) or ():
                        found[alias.lstrip("-").replace("-", "_")] = field.name
                if bool in (hints[field.name], _plain(hints[field.name])):
                    found[f"no_{field.name}"] = f"no_{field.name}"
        return found

    @cached_property
    def switches(self) -> set[str]:
        """Options without a value."""
        return {name for name in self.fields if f"no_{name}" in self.fields} | {
            name for name in self.fields if name.startswith("no_")
        }

    @property
    def counts_clients(self) -> bool:
        """Whether N is the number of clients, who share ranks, and not that of ranks."""
        return "clients" in self.fields

    def words(self, name: str, values: Sequence[str]) -> list[str]:
        """The option of the command line, with its values; of one without a value true or false."""
        flag = self.fields[name].replace("_", "-")
        if name in self.switches and list(values) in (["true"], ["false"]):
            return [f"--{flag}" if values[0] == "true" else f"--no-{flag}"]
        return [f"--{flag}", *values]

    def applies(self, name: str, method: str, values: Sequence[str]) -> bool:
        """Whether an option means something to a method: its help may say for which it does, and so may an error."""
        if name == N:
            return True
        if name not in self.fields:
            return False
        text = self._texts.get(self.fields[name].removeprefix("no_"), "")
        only = set(found[1].split(", ")) if (found := _FOR_SOME.match(text)) else set()
        if only and only <= set(self.methods):
            return method in only
        if only and only <= {*names()}:
            return self.system.name in only
        try:
            self.check(["--method", method, *self.words(name, values)])
        except UsageError as error:
            return f"--method {method}" not in str(error)
        return True

    def check(self, words: Sequence[str]) -> None:
        """Read a command line, and start nothing.

        Raises
        ------
        UsageError
            If a value breaks a rule.
        """
        _check(self.system.name, tuple(words))

    @cached_property
    def _texts(self) -> dict[str, str]:
        return help_texts(RunOptions) | help_texts(self.parameters)


@cache
def known(name: str) -> Known:
    """What may be said to the system of a name.

    Raises
    ------
    UsageError
        If there is none.
    """
    return Known(find(name))


def nearest(name: str, known_names: Sequence[str]) -> str:
    """The end of a message: what may have been meant."""
    near = difflib.get_close_matches(name, known_names, 1)
    return f"; did you mean {near[0]}?" if near else ""


@cache
def _check(name: str, words: tuple[str, ...]) -> None:
    known(name).system.read(list(words))


def _plain(hint: Any) -> Any:
    """A type without what tyro is told of it."""
    return get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
