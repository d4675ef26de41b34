"""What tables that lie apart must have in common: columns, their kinds and order, and classes. It is public."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from fedmpi.data.column import Column, texts
from fedmpi.data.dataset import Dataset, Raw, check_part
from fedmpi.data.files import read_file
from fedmpi.data.loading import split
from fedmpi.data.options import FileOptions
from fedmpi.data.preparation import Preparation
from fedmpi.data.table import Table, join
from fedmpi.errors import UsageError

NUMBER = "number"


def _kinds(whole: Any) -> list[tuple[str, Any]]:
    """What a schema says of each column and of the classes, as far as it is one."""
    if not isinstance(whole, dict) or not isinstance(whole.get("columns"), dict):
        return []
    return [("classes", whole.get("classes", [])), *((f'column "{k}"', v) for k, v in whole["columns"].items())]


@dataclass(frozen=True)
class Schema:
    """Of tables that lie apart.

    Attributes
    ----------
    columns : mapping
        Name of a feature → its values if it is text; none if it is a number.
    label : str
        The column of labels.
    classes : tuple of str
        What stands there; none where labels are numbers, for regression.
    """

    columns: Mapping[str, tuple[str, ...]]
    label: str
    classes: tuple[str, ...]

    @classmethod
    def from_json(cls, whole: Any) -> Self:
        """Check what a file, or another rank, says.

        Raises
        ------
        UsageError
        """
        for what, kind in _kinds(whole):
            if kind != NUMBER and not (isinstance(kind, list) and all(isinstance(value, str) for value in kind)):
                raise UsageError(f'{what} of a schema must be a list of text, such as ["0", "1"], got {kind!r:.200}')
        try:
            columns = {name: () if kind == NUMBER else texts(kind) for name, kind in whole["columns"].items()}
            label, classes = whole["label"], texts(whole.get("classes", []))
        except (TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"a schema must have columns, label and classes, got {error!r}") from None
        if (
            not columns
            or not isinstance(label, str)
            or label in columns
            or len(classes) == 1
            or len(set(classes)) < len(classes)
        ):
            raise UsageError(
                f"a schema must have columns, another label, and classes that differ, got {label} and {classes}"
            )
        if wrong := [name for name, kind in whole["columns"].items() if kind != NUMBER and not set(kind)]:
            raise UsageError(f'column "{wrong[0]}" of a schema must be "number" or a list of values, got none')
        return cls(columns, label, classes)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file such as ``{"columns": {"age": "number", "job": ["cook", "nurse"]}, "label": "ill", "classes":
        ["no", "yes"]}``.
        """
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UsageError(f"--schema must be a JSON file, got {path}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        columns = {name: list(values) or NUMBER for name, values in self.columns.items()}
        return {"columns": columns, "label": self.label, "classes": list(self.classes)}

    @property
    def values(self) -> dict[int, tuple[str, ...]]:
        """Place of a column of text → its values."""
        return {place: values for place, values in enumerate(self.columns.values()) if values}

    def unscaled(self) -> Preparation:
        """What becomes of columns that nothing is known of."""
        return Preparation(tuple(Column(name, values) for name, values in self.columns.items()), self.classes)

    def without_rows(self) -> Dataset:
        """What a rank knows that has no rows."""
        X, y = np.zeros((0, len(self.columns))), np.zeros(0, np.int64 if self.classes else np.float64)
        return Dataset("rows apart", X, y, X, y, self.classes, columns=tuple(self.columns), values=self.values)

    def rows(self, path: Path, *, test_fraction: float, seed: int, missing: bool = False) -> Dataset:
        """Read the rows of one rank, in the order of these columns; text by its place in these values.

        Raises
        ------
        UsageError
            That names the column, value or class which differs.
        """
        text = tuple(self.columns)
        raw = read_file(path, FileOptions(self.label, categorical=tuple(k for k in text if self.columns[k])))
        if others := [name for name in raw.columns if name not in self.columns]:
            raise UsageError(f'{path.name} must have the columns of the schema, got "{others[0]}" besides')
        empty = self.without_rows()
        first = Table(empty.X_train, empty.columns, empty.values)
        table = join(first, Table(raw.X, raw.columns, raw.values), path.name)
        for place, values in empty.values.items():
            if len(table.values[place]) > len(values):
                odd = table.values[place][len(values)]
                raise UsageError(
                    f'column "{empty.columns[place]}" of {path.name} must have values of the schema, got "{odd}"'
                )
        X, y = check_part(table.X, raw.y, path.name, empty.columns, raw.where, missing=missing)
        if not self.classes:
            if y.dtype.kind == "U":
                raise UsageError(f'column "{self.label}" of {path.name} must hold numbers, got "{y[0]}"')
            return self._split(replace(raw, X=X, y=y.astype(np.float64), names=(), X_test=None), test_fraction, seed)
        labels = [str(label) if y.dtype.kind == "U" else f"{label:g}" for label in y.tolist()]
        if raw.names:
            labels = [raw.names[int(label)] for label in y]
        if odd_ones := sorted(set(labels) - set(self.classes)):
            raise UsageError(f'classes of {path.name} must be those of the schema, got "{odd_ones[0]}"')
        codes = np.array([self.classes.index(label) for label in labels], np.int64)
        return self._split(replace(raw, X=X, y=codes, names=self.classes, X_test=None), test_fraction, seed)

    def _split(self, raw: Raw, test_fraction: float, seed: int) -> Dataset:
        parts = split(raw, test_fraction, seed, by_class=bool(self.classes))
        assert parts.X_test is not None
        assert parts.y_test is not None
        return replace(self.without_rows(), X_train=parts.X, y_train=parts.y, X_test=parts.X_test, y_test=parts.y_test)
