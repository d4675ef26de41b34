"""Bank Marketing: text columns become one column for each value (one-hot)."""

import csv
import io
from pathlib import Path

import numpy as np

from fedmpi.data.dataset import Raw, open_binary, reading


def read_bank(paths: list[Path]) -> Raw:
    """The 41188 rows of bank-additional-full.csv; all 20 features, the duration of the call among them.

    Numbers stay as they are. The label is whether the client subscribed: no is 0, yes is 1.
    """
    with reading(paths[0]), open_binary(paths[0]) as file:
        table = list(csv.reader(io.TextIOWrapper(file, "utf-8"), delimiter=";"))
        header, rows = table[0], table[1:]
        if header[-1] != "y" or not rows or any(len(row) != len(header) for row in rows):
            raise ValueError("it has no column y at the end of every row")
        parts, names = [], []
        for name, cells in zip(header[:-1], np.array(rows).T[:-1], strict=True):
            try:
                parts.append(cells.astype(np.float64)[:, None])
                names.append(name)
            except ValueError:
                values = np.unique(cells)
                parts.append((cells[:, None] == values).astype(np.float64))
                names += [f"{name}={value}" for value in values]
        y = np.array([("no", "yes").index(row[-1]) for row in rows])
    return Raw("bank", np.concatenate(parts, axis=1), y, names=("no", "yes"))
