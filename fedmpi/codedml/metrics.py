"""How good weights are: loss, accuracy and R² on the training and the test rows."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedmpi.codedml import objective
from fedmpi.codedml.params import Params
from fedmpi.codedml.problem import Problem, targets
from fedmpi.data import Dataset


@dataclass(frozen=True, eq=False)
class Metrics:
    """Of one problem, prepared from the training rows of a data set."""

    params: Params
    problem: Problem
    data: Dataset

    def of(self, W: NDArray[np.float64], *, quantized: bool) -> dict[str, float]:
        """Loss on the training rows, as they were trained on; accuracy or R² on the training and the test rows."""
        z = self.problem.outputs(W) if quantized else self.problem.transform.outputs(self.data.X_train, W)
        z_test = self.test_outputs(W)
        loss = self.problem.objective.loss(z.astype(np.float64)) / self.problem.objective.total_weight
        if self.params.model == "linear":
            return {
                "train_loss": loss,
                "train_r2": objective.r2_score(z, self.data.y_train),
                "test_r2": objective.r2_score(z_test, self.data.y_test),
            }
        return {
            "train_loss": loss,
            "train_accuracy": objective.accuracy(z, self.data.y_train),
            "test_accuracy": objective.accuracy(z_test, self.data.y_test),
        }

    def test_loss(self, W: NDArray[np.float64]) -> dict[str, float]:
        """Mean cross-entropy on the test rows, in nats; nothing for a linear model."""
        if self.params.model == "linear":
            return {}
        Y = targets(self.data.y_test, len(self.data.classes))
        unpenalized = objective.Objective(self.problem.objective.kind, Y)
        return {"test_loss": unpenalized.loss(self.test_outputs(W)) / max(len(Y), 1)}

    @cached_property
    def X_test(self) -> NDArray[np.float64]:
        """Transformed test rows; not quantized, as a user's rows would not be."""
        return self.problem.transform.apply(self.data.X_test)

    def test_outputs(self, W: NDArray[np.float64]) -> NDArray[np.float64]:
        """XW on the test rows, shape (rows, C)."""
        columns = self.X_test.shape[1]
        z: NDArray[np.float64] = self.X_test @ W[:columns]
        return z + W[columns] if len(W) > columns else z
