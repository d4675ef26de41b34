"""What a run is judged by."""

import math
from collections.abc import Mapping
from typing import Any

from fedmpi.runs.reading import number

SMALLER_IS_BETTER = {"test RMSE"}


def score(result: Mapping[str, Any]) -> tuple[str, float | None]:
    """What a run is judged by, and how good it is: accuracy, or the root mean squared error, on all test rows.

    pbpfl calls one half of the test rows its validation rows. It chooses nothing by them: both halves count here.
    """
    metrics = result.get("metrics", {})
    if (accuracy := _both(metrics, "accuracy")) is not None:
        return "test accuracy", accuracy
    if (rmse := number(metrics.get("test_rmse"))) is not None:
        return "test RMSE", rmse
    mse = _both(metrics, "mse")
    return ("", None) if mse is None else ("test RMSE", math.sqrt(mse))


def _both(metrics: Mapping[str, Any], name: str) -> float | None:
    test, validation = number(metrics.get(f"test_{name}")), number(metrics.get(f"validation_{name}"))
    return test if test is None or validation is None else (test + validation) / 2
