"""CodedPrivateML: logistic and linear regression on Lagrange-coded data [So et al. 2021]."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmpi.codedml.cluster import workers
    from fedmpi.codedml.estimator import CodedLinearRegression, CodedLogisticRegression

ROLES = {"master": 0}
"""Ranks that have a name, for `fedmpi run --place`; the others are workers."""

__all__ = ["ROLES", "CodedLinearRegression", "CodedLogisticRegression", "workers"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the estimator loads scikit-learn, which a worker rank must not pay for.
    if name in ("CodedLinearRegression", "CodedLogisticRegression"):
        from fedmpi.codedml import estimator

        return getattr(estimator, name)
    if name == "workers":
        from fedmpi.codedml.cluster import workers

        return workers
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
