"""`predict`: what the model of a run says of rows in a file."""

import csv
import dataclasses
import io
import sys
from pathlib import Path
from typing import Annotated

import tyro

from fedmpi.cli.types import File, Text
from fedmpi.errors import UsageError
from fedmpi.rules import printable, printable_lines


@dataclasses.dataclass(frozen=True)
class Predict:
    """Let the model of a run predict the rows of a file, in the units of the file, and write them as CSV.

    Example: fedmpi predict runs/codedml-coded-20261121-105631 patients.csv --out predictions.csv
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run that ended."""
    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Rows with the columns that the model was trained on: any file or folder that --dataset of a run takes."""
    out: File = None
    """The CSV file. Default: it is printed."""
    label_column: Text = None
    """Column of the labels, if the rows have some: then it is said how many are right. Default: the last column, if the
    model was not trained on it."""
    model: Text = None
    """package.module:Class of a model of one's own, whose code is imported only if it is named here."""

    def __call__(self, options: list[str]) -> int:
        """Predict, write, and say how good it is where that is known."""
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise UsageError(f"--out must be a file in a folder that exists, got {self.out}")
        from fedmpi.data.rows import read_rows
        from fedmpi.pages.tables import plain
        from fedmpi.runs.folder import write_atomically
        from fedmpi.runs.model import load_model, score

        model = load_model(self.run, self.model)
        card = model.card
        width = card["features"] if card["preparation"] is None else len(card["columns"])
        table, labels = read_rows(self.data, card["columns"], width, card["categorical"], self.label_column)
        z = model.decision_function(table)
        predicted = model.decided(z)
        header, cells = ["prediction"], [[plain(value)] for value in predicted.tolist()]
        if card["link"] in ("sigmoid", "sigmoids", "softmax"):
            header += [f"probability of {name}" for name in model.classes_.tolist()]
            for row, values in zip(cells, model.probabilities(z).tolist(), strict=True):
                row += values
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *cells])
        if self.out is None:
            print(printable_lines(text.getvalue()), end="")
        else:
            write_atomically(self.out, text.getvalue().encode())
        said = f"{len(predicted)} rows" if labels is None else score(model, predicted, labels)
        said = printable(said)
        print(f"{said}, written to {self.out}" if self.out else said, file=sys.stdout if self.out else sys.stderr)
        return 0
