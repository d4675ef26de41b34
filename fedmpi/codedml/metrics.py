"""How good weights are: loss, accuracy and R² on the training and the test rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml import objective
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem, targets
from fedmpi.data import Dataset, FileRows
from fedmpi.runs.scores import class_scores


@dataclass(frozen=True, eq=False)
class Metrics:
    """Of one problem, prepared from the training rows of a data set."""

    params: Params
    problem: Problem
    data: Dataset

    def of(self, W: NDArray[np.float64], *, quantized: bool) -> dict[str, float]:
        """Loss on the training rows, as they were trained on; accuracy or R² on the training and the test rows."""
        z = self.problem.outputs(W) if quantized else self.problem.transform.outputs(self.data.X_train, W)
        loss = self.problem.objective.loss(z.astype(np.float64)) / self.problem.objective.total_weight
        name, score = ("r2", objective.r2_score) if self.params.model == "linear" else ("accuracy", objective.accuracy)
        found = {"train_loss": loss, f"train_{name}": score(z, self.data.y_train)}
        if len(self.data.y_test):
            found[f"test_{name}"] = score(self.test_outputs(W), self.data.y_test)
        return found

    def at_the_end(self, W: NDArray[np.float64]) -> dict[str, float]:
        """Mean cross-entropy on the test rows, in nats, and `class_scores`; of a linear model the RMSE."""
        if not len(self.data.y_test):
            return {}
        if self.params.model == "linear":
            errors = self.test_outputs(W)[:, 0] - self.data.y_test
            return {"test_rmse": float(np.sqrt(np.square(errors).mean()))}
        Y, z = targets(self.data.y_test, len(self.data.classes)), self.test_outputs(W)
        unpenalized = objective.Objective(self.problem.objective.kind, Y)
        loss = {"test_loss": unpenalized.loss(z) / len(Y)}
        several = z.shape[1] > 1  # where the outputs of a row are compared with one another, by what they mean
        return loss | class_scores(unpenalized.activation(z) if several else z, self.data.y_test)

    @cached_property
    def X_test(self) -> NDArray[np.float64]:
        """Transformed test rows; not quantized, as a user's rows would not be."""
        return self.problem.transform.apply(self.data.X_test)

    def test_outputs(self, W: NDArray[np.float64]) -> NDArray[np.float64]:
        """XW on the test rows, shape (rows, C)."""
        if isinstance(self.data.X_test, FileRows):
            return self.problem.transform.outputs(self.data.X_test, W)
        columns = self.X_test.shape[1]
        z: NDArray[np.float64] = self.X_test @ W[:columns]
        return z + W[columns] if len(W) > columns else z
