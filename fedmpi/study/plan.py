"""What is compared: the systems, the grid, and the runs that follow from them. Nothing is started here."""

import hashlib
import itertools
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from fedmpi.errors import FedmpiError, UsageError
from fedmpi.runs.batch import AT_ONCE, Run
from fedmpi.study.known import OF_THE_STUDY, Known, N, known, nearest

WORKERS = 10
"""N where the grid does not say it."""

Values = Mapping[str, tuple[str, ...]]
"""Option → its values, as words of a command line; ``system.option`` and ``system:method.option`` are for one alone."""


@dataclass(frozen=True)
class Cell:
    """One line of the table: a method with values of the grid, run once for each seed."""

    system: str
    method: str
    settings: tuple[tuple[str, str], ...]
    """Of the grid, as far as it applies."""
    ranks: int
    options: tuple[str, ...]
    """Of the command line, without the seed."""
    contents: str = ""
    """Of the data set, where that is a file: a run on what the file held before is another run."""

    @property
    def label(self) -> str:
        """System and method, for people."""
        return self.system if self.method == self.system else f"{self.system}:{self.method}"

    @property
    def name(self) -> str:
        """The same with the settings."""
        return " ".join([self.label, *(f"{name}={value}" for name, value in self.settings)])

    def run(self, folder: Path, seed: int, *, record: bool = False, slurm: bool = False) -> Run:
        """One of its runs, whose folder is named after all that it is started with."""
        options = (*self.options, "--seed", str(seed), *(["--record-views"] if record else []))
        made_of = [self.system, self.ranks, *options, *filter(None, [self.contents])]
        digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:10]
        words = re.sub(r"[^\w.=-]+", "-", self.name)[:80]
        return Run(folder / f"{words}-seed{seed}-{digest}", self.ranks, options, self.system, slurm=slurm)


@dataclass(frozen=True)
class Study:
    """What is compared.

    Raises
    ------
    UsageError
        If a value breaks its rule, before anything is run.
    """

    systems: tuple[str, ...]
    """SYSTEM or SYSTEM:METHOD."""
    dataset: str
    grid: Values = field(default_factory=dict)
    """Parameter → values to try: names of options, letters such as T and K, and N."""
    seeds: int = 3
    """Runs of each: 0, 1, … seed the split and the training."""
    options: Values = field(default_factory=dict)
    """Of all systems that have them."""
    audit: bool = False
    """Attack the first run of each."""
    hosts: int = field(default_factory=lambda: cores_for(AT_ONCE))
    """Ranks that the clients of a federated system share."""

    def __post_init__(self) -> None:
        if not self.systems:
            raise UsageError("--systems must name at least one system, got none")
        if not self.dataset:
            raise UsageError("--dataset must be given, got none")
        for name, value in (("--seeds", self.seeds), ("--hosts", self.hosts)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, got {value}")
        texts = [member.text for member in self.members]
        twice = [text for text in texts if texts.count(text) > 1]
        if twice:
            raise UsageError(f"--systems must name each system and method once, got {twice[0]} twice")
        for where, values in (("--grid", self.grid), ("options", self.options)):
            for name, given in values.items():
                self._check_name(where, name)
                if where == "--grid" and (not given or "" in given or len(set(given)) < len(given)):
                    raise UsageError(f"--grid must give each value of {name} once, got {','.join(given) or 'none'}")
        for cell in self.cells:
            known(cell.system).check(cell.options)
        _ = self.remarks  # raises where something applies to nobody

    def _check_name(self, where: str, name: str) -> None:
        whose, _, bare = name.rpartition(".")
        if whose and whose not in self._addresses:
            raise UsageError(
                f"{where} must name a system of this study before the dot, got {name}"
                f"{nearest(whose, sorted(self._addresses))}"
            )
        if bare in OF_THE_STUDY or (where != "--grid" and bare == N):
            raise UsageError(f"{where} must leave {bare} to the study, which sets it, got {name}")
        having = [one for one in self.members if not whose or whose in one.addresses]
        names = sorted({N} | {known_name for one in having for known_name in one.system.fields})
        if bare not in names:
            raise UsageError(f"{where} must name options of a system, got {name}{nearest(bare, names)}")

    @cached_property
    def members(self) -> "list[Member]":
        """Who is compared."""
        return [Member.of(text) for text in self.systems]

    @cached_property
    def _contents(self) -> str:
        path = Path(self.dataset)
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def _addresses(self) -> set[str]:
        return {address for member in self.members for address in member.addresses}

    @cached_property
    def cells(self) -> list[Cell]:
        """Lines of the table."""
        return [cell for member in self.members for cell in self._cells(member)]

    def _cells(self, member: "Member") -> list[Cell]:
        grid = self._of(member, self.grid)
        return [self._cell(member, dict(zip(grid, one, strict=True))) for one in itertools.product(*grid.values())]

    def _cell(self, member: "Member", settings: Mapping[str, str]) -> Cell:
        system, method = member.system, member.method
        given = self._of(member, self.options) | {name: (value,) for name, value in settings.items() if name != N}
        words = ["--dataset", self.dataset, "--method", method]
        try:
            number = int(settings.get(N, str(WORKERS)))
        except ValueError:
            number = 0
        if number < 1:
            raise UsageError(f"--grid must give N as a whole number of at least 1, got {settings[N]}")
        if system.counts_clients:
            if N in settings and "clients" in given:
                raise UsageError(f"clients must not be given beside N, which is the same for {system.system.name}")
            clients = given.pop("clients", (str(number),))
            words += ["--clients", *clients]
            number = min(int(clients[0]) if clients[0].isdigit() else 1, self.hosts)
        for name, values in given.items():
            words += system.words(name, values)
        ranks = len(system.system.roles) - 1 + number
        return Cell(system.system.name, method, tuple(settings.items()), ranks, tuple(words), self._contents)

    def _of(self, member: "Member", values: Values) -> dict[str, tuple[str, ...]]:
        """What applies to a member, under bare names; the more narrowly addressed wins."""
        found: dict[str, tuple[str, ...]] = {}
        for address in ("", *member.addresses):
            for name, given in values.items():
                whose, _, bare = name.rpartition(".")
                one = given[:1] if values is self.grid else given
                if whose == address and member.system.applies(bare, member.method, one):
                    found[bare] = given
        return found

    def plain(self, cell: Cell) -> Cell | None:
        """The same without protection, where it takes a run of its own to know what that reaches."""
        system = known(cell.system)
        if not system.system.plain or cell.method == system.system.plain:
            return None
        member = Member(system, system.system.plain, like=cell.method)
        settings = {name: value for name, value in cell.settings if system.applies(name, member.method, (value,))}
        return self._cell(member, settings)

    @cached_property
    def impossible(self) -> dict[Cell, str]:
        """Lines that cannot be run, and why, as far as that can be known before anything is.

        Raises
        ------
        FedmpiError
            If it is all of them: a data set that is not there, for example.
        """
        found: dict[Cell, FedmpiError] = {}
        for cell in self.cells:
            try:
                known(cell.system).system.foresee([*cell.options, "--seed", "0"], cell.ranks, here=True)
            except FedmpiError as error:
                found[cell] = error
        if len(found) == len(self.cells):
            raise next(iter(found.values()))
        return {cell: str(error) for cell, error in found.items()}

    @cached_property
    def remarks(self) -> list[str]:
        """What does not apply to whom, for people."""
        lines = []
        for what, values in (("the grid's", self.grid), ("the option", self.options)):
            for name in values:
                whose, _, bare = name.rpartition(".")
                asked = [one for one in self.members if not whose or whose in one.addresses]
                without = [one.text for one in asked if name not in self._names(one, values) and bare != N]
                if len(without) == len(asked):
                    raise UsageError(f"{name} must apply to some system of the study, got {', '.join(without)}")
                if without:
                    lines.append(f"{what} {bare} does not apply to {', '.join(without)}")
        return lines

    def _names(self, member: "Member", values: Values) -> set[str]:
        own = self._of(member, values)
        return {name for name in values if name.rpartition(".")[2] in own}

    def to_toml(self) -> str:
        """The same as a file."""
        import tomli_w

        values = asdict(self)
        for name in ("grid", "options"):
            values[name] = {key: _short(one) for key, one in values[name].items()}
        return tomli_w.dumps(values)


@dataclass(frozen=True)
class Member:
    """Who is compared."""

    system: Known
    method: str
    like: str = ""
    """Another method, whose options it takes as far as they apply: that which it is the plain counterpart of."""

    @classmethod
    def of(cls, text: str) -> "Member":
        """SYSTEM or SYSTEM:METHOD.

        Raises
        ------
        UsageError
            If there is none.
        """
        name, _, method = text.partition(":")
        system = known(name)
        if method and method not in system.methods:
            hint = nearest(method, system.methods)
            raise UsageError(f"the method of {name} must be one of {', '.join(system.methods)}, got {method}{hint}")
        return cls(system, method or system.default_method)

    @property
    def addresses(self) -> tuple[str, ...]:
        """What options for it alone begin with, the more general one first."""
        return self.system.system.name, f"{self.system.system.name}:{self.like or self.method}"

    @property
    def text(self) -> str:
        """System and method, for people."""
        name = self.system.system.name
        return name if self.method == name else f"{name}:{self.method}"


def read_toml(path: Path) -> dict[str, Any]:
    """The fields of a study that a file gives.

    Raises
    ------
    UsageError
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the study must be a readable file, got {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the study must be TOML, got {path}: {error}") from None
    names = [one.name for one in fields(Study)]
    for name, value in [*values.items()]:
        if name not in names:
            raise UsageError(f"the keys of {path} must be {', '.join(names)}, got {name}{nearest(name, names)}")
        kind, meaning = _KINDS[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{name} of {path} must be {meaning}, got {value!r}")
        if isinstance(value, dict):
            values[name] = as_words(value)
        elif name == "systems":
            values[name] = tuple(value.split(",")) if isinstance(value, str) else tuple(map(str, values[name]))
    return values


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "systems": ((str, list), "names of systems"),
    "dataset": (str, "a name or a file"),
    "grid": (dict, "a table"),
    "seeds": (int, "a whole number"),
    "options": (dict, "a table"),
    "audit": (bool, "true or false"),
    "hosts": (int, "a whole number"),
}


def cores_for(most: int, each: int = 2) -> int:
    """What there are so many cores for, each: so many at most, and one at least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, cores // each))


def as_words(values: Mapping[str, Any]) -> Values:
    """Values of any kind as the words of a command line."""

    def words(value: Any) -> tuple[str, ...]:
        each = value if isinstance(value, list | tuple | range) else [value]
        return tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in each)

    found = dict[str, tuple[str, ...]]()
    for name, value in values.items():
        if isinstance(value, Mapping):  # of TOML, where niss.rounds = 3 is a table in a table
            found |= {_dotted(f"{name}.{inner}"): given for inner, given in as_words(value).items()}
        else:
            found[_dotted(name)] = words(value)
    return found


def option_values(words: Sequence[str]) -> Values:
    """What stands behind ``--``, as options and their values.

    Raises
    ------
    UsageError
    """
    found: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in words:
        if re.match(r"--[^\W\d]|-[^\W\d]$", word):
            name, has_value, value = word.lstrip("-").partition("=")
            name = _dotted(name)
            found[name] = (value,) if has_value else ()
        elif name:
            found[name] += (word,)
        else:
            raise UsageError(f"what stands behind -- must begin with an option, got {word}")
    return found


def grid_values(words: Sequence[str]) -> Values:
    """NAME=VALUE,… of the command line.

    Raises
    ------
    UsageError
    """
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, given, values = word.partition("=")
        if not given or not name:
            raise UsageError(f"--grid must be of NAME=VALUE,VALUE …, got {word}")
        found[_dotted(name)] = tuple(values.split(","))
    return found


def _dotted(name: str) -> str:
    """Of ``system:method.the-option`` the option as a field is called; methods keep their hyphens."""
    whose, dot, bare = name.rpartition(".")
    return f"{whose}{dot}{bare.replace('-', '_')}"


def _short(values: tuple[str, ...]) -> Any:
    """For people: one value by itself, numbers as numbers."""

    def typed(text: str) -> Any:
        for kind in (int, float):
            try:
                if str(kind(text)) == text:
                    return kind(text)
            except ValueError:
                pass
        return text

    return typed(values[0]) if len(values) == 1 else [typed(text) for text in values]


def with_changes(study: Mapping[str, Any], **changes: Any) -> Study:
    """A study whose fields come from a file, where none is given here."""
    given = {
        name: value for name, value in changes.items() if not (value is None or value is False or value in ((), {}))
    }
    options = dict(study.get("options", {})) | dict(given.pop("options", {}))
    return Study(**{"systems": (), "dataset": "", **study, **given, "options": options})
