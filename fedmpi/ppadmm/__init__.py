"""PPADMM: private linear regression with two servers that do not collude."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmpi.ppadmm.estimator import PrivateLasso

ROLES = {"s1": 0, "s2": 1}
"""Ranks that have a name, for `fedmpi run --place`; the others are participants."""

__all__ = ["ROLES", "PrivateLasso"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the estimator loads scikit-learn, which no rank of a job must pay for.
    if name == "PrivateLasso":
        from fedmpi.ppadmm.estimator import PrivateLasso

        return PrivateLasso
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
