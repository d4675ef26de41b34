"""What is trained on: the data set as tensors, and the model that all ranks agree on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmpi.data import Dataset
from fedmpi.learn import build_model, client_rows
from fedmpi.learn.evaluation import ROWS_AT_ONCE
from fedmpi.learn.inputs import divisor_of, input_shape
from fedmpi.learn.layout import layout_for
from fedmpi.pbpfl.params import Params
from fedmpi.pbpfl.structure import Structure, structure_of
from fedmpi.runs.job import Job


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows, ready for a model."""

    X: torch.Tensor
    """Shape (n, *input_shape)."""
    targets: torch.Tensor
    """ȳ, shape (n, n_L): the scaled value, or 1 for the class of the row and 0 for the others."""
    labels: torch.Tensor | None
    """Class numbers, shape (n,), where there are classes."""

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, rows: NDArray[np.int64]) -> "Part":
        """Some of the rows."""
        chosen = torch.from_numpy(rows).to(self.X.device)
        return Part(self.X[chosen], self.targets[chosen], None if self.labels is None else self.labels[chosen])

    def first(self, count: int) -> "Part":
        """The first rows, at most so many."""
        return Part(self.X[:count], self.targets[:count], None if self.labels is None else self.labels[:count])


class Problem:
    """One data set and one model.

    Parameters
    ----------
    job : Job

    Notes
    -----
    Images are divided by their largest value; a table has been prepared when it was loaded. A value to predict is
    scaled too, by the mean and the deviation of the training rows, which are as public as those of the columns. Of the
    rows that are not trained on, the first half is for validation, the second for testing.
    """

    def __init__(self, job: Job[Params]):
        self.job, self.params = job, job.params
        value = job.schema is None and job.params.wants_value(job.dataset)
        self.data: Dataset = job.load(regression=value)
        self.outputs = len(self.data.classes) or 1
        self.input_shape, self.divisor = input_shape(self.data), divisor_of(self.data)
        self.dtype: torch.dtype = getattr(torch, job.params.dtype)
        self.target_mean, self.target_scale = 0.0, 1.0
        if value and job.params.scale_target:
            y, last = self.data.y_train, self.structure().last
            # without a bias the model could not give the mean back
            self.target_mean, self.target_scale = float(y.mean()) if last.bias else 0.0, float(y.std()) or 1.0

    def model(self) -> nn.Module:
        """The model with its initial parameters; clients, who see none as it is, compute the gradients of all."""
        return self.as_made().requires_grad_()

    def trained(self) -> NDArray[np.bool_]:
        """Which numbers of the model are trained, and not frozen, shape (h,)."""
        parts = [np.full(p.numel(), p.requires_grad) for p in self.as_made().parameters()]
        return np.concatenate(parts)

    def structure(self) -> Structure:
        """What the perturbation needs to know of the model."""
        return structure_of(self.as_made(), self.input_shape)

    def as_made(self) -> nn.Module:
        """The model with its initial parameters, of which some may be frozen."""
        return build_model(self.params.model, self.input_shape, self.outputs, self.job.seed, self.dtype)

    def clients(self, clients: int) -> list[NDArray[np.int64]]:
        """The training rows of each client."""
        params, data = self.params, self.data
        return client_rows(params.partition, data.y_train, clients, self.job.seed, params.dirichlet_alpha, data.groups)

    def training(self, rows: NDArray[np.int64], device: str = "cpu") -> Part:
        """Some of the training rows."""
        return self._part(self.data.X_train[rows], self.data.y_train[rows], device)

    def held_out(self) -> tuple[Part, Part]:
        """Rows for validation and for testing."""
        order = np.random.default_rng(self.job.seed).permutation(len(self.data.y_test))
        halves = np.split(order, [len(order) // 2]) if len(order) > 1 else [order, order]
        validation, test = (self._part(self.data.X_test[h], self.data.y_test[h], "cpu") for h in halves)
        return validation, test

    def _part(self, X: NDArray[Any], y: NDArray[Any], device: str) -> Part:
        rows = (X.astype(np.float64) / self.divisor).reshape(len(X), *self.input_shape)
        labels = torch.tensor(y, device=device) if self.data.classes else None
        targets = np.eye(self.outputs)[y] if self.data.classes else (y[:, None] - self.target_mean) / self.target_scale
        return Part(
            torch.tensor(rows, dtype=self.dtype, device=device),
            torch.tensor(targets, dtype=self.dtype, device=device),
            labels,
        )


@torch.no_grad()
def outputs_of(model: nn.Module, part: Part, batch: int = ROWS_AT_ONCE) -> torch.Tensor:
    """Of all rows, shape (n, n_L)."""
    laid = layout_for(model, part.X)
    return torch.cat([model(laid(part.X[start : start + batch])) for start in range(0, len(part), batch)])


@torch.no_grad()
def evaluate(model: nn.Module, part: Part, batch: int = ROWS_AT_ONCE) -> tuple[float, int]:
    """Sum of squared errors over all rows and outputs, and the number of rows with the right class (0 without)."""
    total, right = 0.0, 0
    laid = layout_for(model, part.X)
    for start in range(0, len(part), batch):
        rows = slice(start, start + batch)
        outputs = model(laid(part.X[rows]))
        total += float((outputs - part.targets[rows]).square().sum())
        if part.labels is not None:
            right += int((outputs.argmax(1) == part.labels[rows]).sum())
    return total, right
